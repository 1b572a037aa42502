"""Semantic search over HTTP."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import perf_counter
from typing import Annotated, Any

import msgspec

from monolite.search.core import Answered, Asked, DocumentIn, Imported, Search, Upserted
from monolite.search.following import Following
from monolite.search.index import Extent, Hit, Index, Mode, Source, Stored
from monolite.web.answer import Answer, Stream, json_answer, page_answer
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.operation import Operation
from monolite.web.pages import Page, PageQuery
from monolite.web.timestamps import rfc3339

READ, WRITE = "search:read", "search:write"
NDJSON = "application/x-ndjson"
BODY_BYTES_MAX = 32 << 20
LINE_BYTES_MAX = 8 << 20


class IndexIn(msgspec.Struct, forbid_unknown_fields=True):
    """What PUT sets: the model, and the collection to follow."""

    model: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    source: Source | None = None


class RecallShown(msgspec.Struct):
    """Of sampled searches that don't look at every document, the part of an exact search's hits
    that they find; `by` is `queries` that were asked or, before there are any, `documents`.
    """

    value: float
    samples: int
    by: str


class FollowingShown(msgspec.Struct):
    """How an index stands to its collection: `waiting` for it to come, `filling`, `live`, or
    `failing` with the reason. `progress` is the part of the change log it has seen.
    """

    state: str
    progress: float | None
    detail: str | None


class IndexShown(msgspec.Struct):
    """An index as it is answered."""

    name: str
    model: str
    dimensions: int | None
    source: Source | None
    created_at: str
    updated_at: str


class IndexSizeShown(IndexShown):
    """An index and how large it is; `bytes` are what a scan takes of memory. `scan` is `exact`, or
    where `recall` tells how well, `prefiltered` or `graph`. `progress` is the part that the scan's
    own structures have; the rest is read from the database.
    """

    documents: int
    bytes: int
    scan: str
    progress: float
    recall: RecallShown | None
    following: FollowingShown | None


class IndexedShown(msgspec.Struct, omit_defaults=True):
    """What an upsert did; `truncated` are the ids whose text is longer than the model reads."""

    indexed: int
    took_ms: float
    truncated: list[str] = []


class LineFailure(msgspec.Struct):
    """A line of an import that was not stored."""

    line: int
    detail: str


class ImportShown(msgspec.Struct):
    """An import's outcome: `failed` lists the first thousand lines that were not stored."""

    indexed: int
    took_ms: float
    failed: list[LineFailure]
    failed_total: int
    truncated_total: int


class DocumentShown(msgspec.Struct):
    """A document as it lies in an index; `vector` has length 1."""

    id: str
    text: str | None
    metadata: dict[str, Any]
    vector: list[float]
    tokens: int | None
    truncated: bool
    updated_at: str


class SearchIn(msgspec.Struct, forbid_unknown_fields=True):
    """What to look for. `exact` looks at every document, however many."""

    query: str | None = None
    k: int = 10
    mode: Mode = "semantic"
    filter: dict[str, Any] | None = None
    vector: list[float] | None = None
    exact: bool = False


class TookShown(msgspec.Struct):
    """Where the milliseconds went."""

    tokenize: float
    embed: float
    scan: float
    total: float


class HitShown(msgspec.Struct):
    """A document that was found, and how near it is: a cosine, a BM25 score or a fused one."""

    id: str
    score: float
    text: str | None
    metadata: dict[str, Any]


class SearchShown(msgspec.Struct, omit_defaults=True):
    """Hits, best first. `truncated` where the query is longer than the model reads."""

    hits: list[HitShown]
    took_ms: TookShown
    truncated: bool = False


def operations(search: Search, cursors: Cursors, import_bytes_max: int) -> list[Operation]:
    """The route table."""
    e = _Endpoints(search, cursors)
    index = "/v1/indexes/{index}"
    many = index + "/documents"
    document = many + "/{id}"
    one = {"id": "faq-1", "text": "How to reset a password", "metadata": {"region": "us-east"}}
    return [
        Operation(
            "search.list_indexes",
            "GET",
            "/v1/indexes",
            READ,
            "List indexes",
            e.list_indexes,
            {200: Page[IndexShown]},
            query=PageQuery,
        ),
        Operation(
            "search.put_index",
            "PUT",
            index,
            WRITE,
            "Make an index, or change an empty one",
            e.put_index,
            {200: IndexShown, 201: IndexShown},
            body=IndexIn,
            example={"source": {"collection": "articles", "text": ["title", "body"]}},
            description="With `source` the index follows the collection's changes. A path goes into"
            " objects by dots.",
        ),
        Operation(
            "search.get_index", "GET", index, READ, "One index", e.get_index, {200: IndexSizeShown}
        ),
        Operation(
            "search.delete_index",
            "DELETE",
            index,
            WRITE,
            "Remove an index with its documents",
            e.delete_index,
            {204: None},
        ),
        Operation(
            "search.upsert",
            "POST",
            many,
            WRITE,
            "Store documents, in place of those with their ids",
            e.upsert,
            {200: IndexedShown},
            body=DocumentIn | list[DocumentIn],
            body_bytes_max=BODY_BYTES_MAX,
            streams=(NDJSON,),
            stream_bytes_max=import_bytes_max,
            creates=True,
            example=one,
            description="One document or an array of up to 1 000, stored all or none. An index"
            f" exists from its first. As `{NDJSON}` each line is one, and fails alone; with"
            f" `Accept: {NDJSON}` the answer is a line of progress after each batch, and the"
            " outcome last.",
        ),
        Operation(
            "search.get",
            "GET",
            document,
            READ,
            "One document of an index",
            e.get,
            {200: DocumentShown},
        ),
        Operation(
            "search.delete",
            "DELETE",
            document,
            WRITE,
            "Remove a document from an index",
            e.delete,
            {204: None},
        ),
        Operation(
            "search.search",
            "POST",
            index + "/search",
            READ,
            "Find the nearest documents",
            e.search,
            {200: SearchShown},
            body=SearchIn,
            example={"query": "I forgot my password", "k": 3},
            description="`semantic` compares meanings, `keyword` words (BM25), `hybrid` fuses both."
            ' A filter holds before anything is scanned: `{"region": "us-east", "price":'
            ' {"lt": 10}, "tag": ["a", "b"]}`.',
            writes=False,
        ),
    ]


class _Endpoints:
    def __init__(self, search: Search, cursors: Cursors) -> None:
        self._search = search
        self._cursors = cursors

    async def list_indexes(self, call: Call) -> Answer:
        after = self._cursors.decode(call, call.query.cursor)
        limit = call.query.limit
        name = str(after[0]) if after else None
        found = await self._search.indexes(call.tenant_id, name, limit + 1)
        cursor = None
        if len(found) > limit:
            found = found[:limit]
            cursor = self._cursors.encode(call, [found[-1].name])
        return page_answer([_index(index) for index in found], cursor)

    async def put_index(self, call: Call) -> Answer:
        body: IndexIn = call.body
        index, is_new = await self._search.define(
            call.tenant_id, call.params["index"], body.model, body.source
        )
        return json_answer(_index(index), 201 if is_new else 200)

    async def get_index(self, call: Call) -> Answer:
        found = await self._search.index(call.tenant_id, call.params["index"])
        return json_answer(_sized(*found))

    async def delete_index(self, call: Call) -> Answer:
        await self._search.delete_index(call.tenant_id, call.params["index"])
        return Answer(204)

    async def upsert(self, call: Call) -> Answer | Stream:
        started = perf_counter()
        if call.is_streamed:
            return await self._import(call, started)
        is_list = isinstance(call.body, list)
        documents = call.body if is_list else [call.body]

        def stored(count: int) -> Answer:
            return json_answer(IndexedShown(count, 0.0))

        done: Upserted = await self._search.upsert(
            call.tenant_id,
            call.params["index"],
            documents,
            call.companion(stored),
            is_list=is_list,
        )
        return json_answer(IndexedShown(done.indexed, _since(started), list(done.truncated)))

    async def _import(self, call: Call, started: float) -> Answer | Stream:
        states = self._search.import_lines(
            call.tenant_id, call.params["index"], call.chunks(), LINE_BYTES_MAX
        )
        if NDJSON in (call.header(b"accept") or "").lower():
            shown = _progress(states, started)
            return Stream(200, shown, [(b"content-type", NDJSON.encode())])
        state = Imported()
        async with aclosing(states):
            async for state in states:  # noqa: B007  # the last one counts
                pass
        return json_answer(_outcome(state, _since(started)))

    async def get(self, call: Call) -> Answer:
        params = call.params
        stored = await self._search.get(call.tenant_id, params["index"], params["id"])
        return json_answer(_document(stored))

    async def delete(self, call: Call) -> Answer:
        params = call.params
        await self._search.remove(call.tenant_id, params["index"], params["id"])
        return Answer(204)

    async def search(self, call: Call) -> Answer:
        body: SearchIn = call.body
        asked = Asked(body.query, body.k, body.mode, body.filter, body.vector, body.exact)
        return json_answer(
            _answer(await self._search.search(call.tenant_id, call.params["index"], asked))
        )


def _since(started: float) -> float:
    return round((perf_counter() - started) * 1000, 3)


def _index(index: Index) -> IndexShown:
    return IndexShown(**_fields(index))


def _sized(index: Index, extent: Extent, following: Following | None) -> IndexSizeShown:
    recall = extent.recall
    return IndexSizeShown(
        **_fields(index),
        documents=extent.documents,
        bytes=extent.bytes,
        scan=extent.scan,
        progress=round(extent.progress, 4),
        recall=None
        if recall is None
        else RecallShown(round(recall.value, 4), recall.samples, recall.by),
        following=None
        if following is None
        else FollowingShown(following.state, following.progress, following.detail),
    )


def _fields(index: Index) -> dict[str, Any]:
    return {
        "name": index.name,
        "model": index.model,
        "dimensions": index.dimensions,
        "source": index.source,
        "created_at": rfc3339(index.created_at),
        "updated_at": rfc3339(index.updated_at),
    }


def _document(stored: Stored) -> DocumentShown:
    return DocumentShown(
        stored.id,
        stored.text,
        msgspec.json.decode(stored.metadata),
        list(struct.unpack(f"<{len(stored.vector) // 4}f", stored.vector)),
        stored.tokens,
        stored.truncated,
        rfc3339(stored.updated_at),
    )


def _hit(hit: Hit) -> dict[str, Any]:
    # The metadata is JSON text already.
    return {
        "id": hit.id,
        "score": round(hit.score, 6),
        "text": hit.text,
        "metadata": msgspec.Raw(hit.metadata.encode()),
    }


def _answer(answered: Answered) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "hits": [_hit(hit) for hit in answered.hits],
        "took_ms": {
            "tokenize": round(answered.tokenize_ms, 3),
            "embed": round(answered.embed_ms, 3),
            "scan": round(answered.scan_ms, 3),
            "total": round(answered.total_ms, 3),
        },
    }
    return shown | {"truncated": True} if answered.truncated else shown


def _outcome(state: Imported, took_ms: float) -> ImportShown:
    failures = [LineFailure(line, detail) for line, detail in state.failures]
    return ImportShown(state.indexed, took_ms, failures, state.failed, state.truncated)


async def _progress(
    states: AsyncGenerator[Imported, None], started: float
) -> AsyncGenerator[bytes, None]:
    async with aclosing(states):
        state = Imported()
        async for state in states:
            yield b'{"indexed":%d,"failed_total":%d}\n' % (state.indexed, state.failed)
    yield msgspec.json.encode(_outcome(state, _since(started))) + b"\n"
