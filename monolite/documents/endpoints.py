"""Documents over HTTP."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec

from monolite.documents.collection import Change
from monolite.documents.core import Ask, Documents, Imported
from monolite.documents.document import Document
from monolite.documents.paths import Steps
from monolite.documents.query import project
from monolite.web.answer import Answer, Stream, json_answer, page_of_texts
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.decoding import query_pairs
from monolite.web.operation import ObjectText, Operation
from monolite.web.pages import Page, PageQuery
from monolite.web.sse import event_stream, frame
from monolite.web.timestamps import rfc3339

READ, WRITE = "documents:read", "documents:write"
NDJSON = "application/x-ndjson"

log = logging.getLogger("monolite.documents")


class DocumentShown(msgspec.Struct):
    """A document as it is answered; `data` is the caller's JSON object."""

    id: str
    data: dict[str, Any]
    created_at: str
    updated_at: str
    revision: int


class DocumentPage(Page[DocumentShown], omit_defaults=True):
    """One page of documents; `total` with `count=exact`."""

    total: int | None = None


class LineFailure(msgspec.Struct):
    """A line of an import that was not stored."""

    line: int
    detail: str


class ImportShown(msgspec.Struct):
    """An import's outcome: `failed` lists the first thousand lines that were not stored."""

    inserted: int
    failed: list[LineFailure]
    failed_total: int


class ExplanationShown(msgspec.Struct):
    """How a list would be answered."""

    engine: str
    index: str | None
    parses_json_per_row: bool
    plan: list[str]
    statement: str


class ChangeShown(msgspec.Struct):
    """One event of a collection's change feed."""

    type: Literal["created", "updated", "deleted"]
    id: str
    revision: int
    data: dict[str, Any] | None


class ListQuery(PageQuery):
    """`?order=&select=&limit=&cursor=&count=`; every other parameter is a filter."""

    order: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    select: Annotated[str, msgspec.Meta(max_length=2048)] | None = None
    count: Literal["exact"] | None = None


class ChangesQuery(msgspec.Struct):
    """`?since=`: where to begin when there is no `Last-Event-ID`; `0` is the earliest known."""

    since: Annotated[str, msgspec.Meta(max_length=64)] | None = None


_NOT_FILTERS = frozenset(ListQuery.__struct_fields__)


def operations(
    documents: Documents, cursors: Cursors, bytes_max: int, import_bytes_max: int
) -> list[Operation]:
    """The route table."""
    e = _Endpoints(documents, cursors)
    collection = "/v1/collections/{collection}"
    many = collection + "/documents"
    document = many + "/{id}"
    example = {"title": "Hello", "tags": ["first"]}
    filters = (
        "Every parameter but these is a filter in PostgREST's operators: `shipping_tier=gte.3`,"
        " `config.region=eq.us-east`, `or=(a.eq.1,b.is.null)`; `order=created_at.desc,region`."
    )
    return [
        Operation(
            "documents.create",
            "POST",
            many,
            WRITE,
            "Store a document, or import many",
            e.create,
            {201: DocumentShown, 200: ImportShown},
            joins=True,
            body=ObjectText,
            body_bytes_max=bytes_max,
            streams=(NDJSON,),
            stream_bytes_max=import_bytes_max,
            creates=True,
            hot=True,
            example=example,
            description="The body is the document itself. A collection exists from its first. As"
            f" `{NDJSON}` each line is one; with `Accept: {NDJSON}` the answer is a line of"
            " progress after each batch, and the outcome last.",
        ),
        Operation(
            "documents.list",
            "GET",
            many,
            READ,
            "List documents",
            e.list,
            {200: DocumentPage},
            query=ListQuery,
            known_query=False,
            description=f"{filters} In the order they were made, unless `order` says otherwise."
            f" With `Accept: {NDJSON}` all that match, a line each.",
            hot=True,
        ),
        Operation(
            "documents.explain",
            "GET",
            collection + "/explain",
            READ,
            "How a list would be answered",
            e.explain,
            {200: ExplanationShown},
            query=ListQuery,
            known_query=False,
            description=filters,
        ),
        Operation(
            "documents.changes",
            "GET",
            collection + "/changes",
            READ,
            "Follow a collection's changes",
            e.changes,
            {200: ChangeShown},
            query=ChangesQuery,
            produces="text/event-stream",
            description="Each committed change once, in order, with its document as it was then."
            " `Last-Event-ID` goes on behind an event.",
        ),
        Operation(
            "documents.get",
            "GET",
            document,
            READ,
            "One document",
            e.get,
            {200: DocumentShown, 304: None},
            hot=True,
        ),
        Operation(
            "documents.put",
            "PUT",
            document,
            WRITE,
            "Replace a document, or make it",
            e.put,
            {200: DocumentShown, 201: DocumentShown},
            joins=True,
            body=ObjectText,
            body_bytes_max=bytes_max,
            example=example,
        ),
        Operation(
            "documents.patch",
            "PATCH",
            document,
            WRITE,
            "Change a document by merge patch (RFC 7396)",
            e.patch,
            {200: DocumentShown},
            joins=True,
            body=ObjectText,
            body_bytes_max=bytes_max,
            example={"title": "Hello again"},
            consumes=("application/merge-patch+json", "application/json"),
        ),
        Operation(
            "documents.delete",
            "DELETE",
            document,
            WRITE,
            "Remove a document",
            e.delete,
            {204: None},
            joins=True,
        ),
    ]


class _Endpoints:
    def __init__(self, documents: Documents, cursors: Cursors) -> None:
        self._documents = documents
        self._cursors = cursors

    async def create(self, call: Call) -> Answer | Stream:
        if call.is_streamed:
            return await self._import(call)
        collection = call.params["collection"]

        def created(document: Document) -> Answer:
            location = f"/v1/collections/{collection}/documents/{document.id}".encode()
            return _shown(document, 201, (b"location", location))

        return created(
            await self._documents.create(
                call.tenant_id, collection, call.raw, call.companion(created)
            )
        )

    async def _import(self, call: Call) -> Answer | Stream:
        states = self._documents.import_lines(
            call.tenant_id, call.params["collection"], call.chunks()
        )
        if _accepts_lines(call):
            return Stream(200, _progress(states), [(b"content-type", NDJSON.encode())])
        state = Imported()
        async with aclosing(states):
            async for state in states:  # noqa: B007  # the last one counts
                pass
        return json_answer(_outcome(state))

    async def list(self, call: Call) -> Answer | Stream:
        tenant_id, collection = call.tenant_id, call.params["collection"]
        ask = _ask(call)
        if _accepts_lines(call):
            found = await self._documents.export(tenant_id, collection, ask)
            return Stream(200, _exported(found), [(b"content-type", NDJSON.encode())])
        after = self._cursors.decode(call, call.query.cursor)
        listed = await self._documents.list(tenant_id, collection, ask, after)
        shown = [_text(document, listed.selected) for document in listed.documents]
        position = listed.position
        cursor = None if position is None else self._cursors.encode(call, position)
        extra = {} if listed.total is None else {"total": listed.total}
        return page_of_texts(shown, cursor, **extra)

    async def explain(self, call: Call) -> Answer:
        explanation = await self._documents.explain(
            call.tenant_id, call.params["collection"], _ask(call)
        )
        return json_answer(explanation)

    async def changes(self, call: Call) -> Stream:
        since, pointer = call.header(b"last-event-id"), "Last-Event-ID"
        if not since:
            since, pointer = call.query.since, "?since"
        found = await self._documents.follow(
            call.tenant_id, call.params["collection"], since, pointer
        )
        return event_stream(_events(found))

    async def get(self, call: Call) -> Answer:
        params = call.params
        document = await self._documents.get(call.tenant_id, params["collection"], params["id"])
        if b"if-none-match" in call.headers and call.is_fresh(document.etag):
            return Answer(304, b"", [(b"etag", document.etag.encode())])
        return _shown(document, 200)

    async def put(self, call: Call) -> Answer:
        params = call.params

        def stored(result: tuple[Document, bool]) -> Answer:
            document, is_new = result
            return _shown(document, 201 if is_new else 200)

        return stored(
            await self._documents.put(
                *(call.tenant_id, params["collection"], params["id"], call.raw),
                call.precondition(),
                call.companion(stored),
            )
        )

    async def patch(self, call: Call) -> Answer:
        params = call.params

        def patched(document: Document) -> Answer:
            return _shown(document, 200)

        return patched(
            await self._documents.patch(
                *(call.tenant_id, params["collection"], params["id"], call.raw),
                call.precondition(),
                call.companion(patched),
            )
        )

    async def delete(self, call: Call) -> Answer:
        params = call.params
        await self._documents.delete(
            *(call.tenant_id, params["collection"], params["id"]),
            call.precondition(),
            call.companion(_removed),
        )
        return Answer(204)


def _removed(document_id: str) -> Answer:
    """What an event tells of a removal, which itself is answered with nothing."""
    return Answer(204, msgspec.json.encode({"id": document_id}))


def _ask(call: Call) -> Ask:
    query = call.query
    pairs = query_pairs(call.query_string)
    return Ask(
        filters=[pair for pair in pairs if pair[0] not in _NOT_FILTERS],
        order=query.order,
        select=query.select,
        limit=query.limit,
        counts=query.count is not None,
    )


def _accepts_lines(call: Call) -> bool:
    return NDJSON in (call.header(b"accept") or "").lower()


def _text(document: Document, selected: tuple[tuple[str, Steps], ...] | None = None) -> str:
    # `data` is JSON text already; decoding it only to encode it again would cost a GET twice over.
    data = document.data
    if selected is not None:
        data = msgspec.json.encode(project(msgspec.json.decode(data), selected)).decode()
    created = updated = rfc3339(document.created_at)
    if document.updated_at != document.created_at:
        updated = rfc3339(document.updated_at)
    return (
        f'{{"id":"{document.id}","data":{data},"created_at":"{created}"'
        f',"updated_at":"{updated}","revision":{document.revision}}}'
    )


def _shown(document: Document, status: int, *headers: tuple[bytes, bytes]) -> Answer:
    etag = (b"etag", document.etag.encode())
    return Answer(
        status, _text(document).encode(), [(b"content-type", b"application/json"), etag, *headers]
    )


def _outcome(state: Imported) -> ImportShown:
    failures = [LineFailure(line, detail) for line, detail in state.failures or ()]
    return ImportShown(state.inserted, failures, state.failed)


async def _progress(states: AsyncGenerator[Imported, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(states):
        state = Imported()
        async for state in states:
            yield b'{"inserted":%d,"failed_total":%d}\n' % (state.inserted, state.failed)
    yield msgspec.json.encode(_outcome(state)) + b"\n"


async def _exported(found: AsyncGenerator[Document, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(found):
        async for document in found:
            yield _text(document).encode() + b"\n"


async def _events(found: AsyncGenerator[Change, None]) -> AsyncIterator[bytes]:
    async with aclosing(found):
        async for change in found:
            data = (
                f'{{"type":"{change.type}","id":"{change.id}","revision":{change.revision}'
                f',"data":{change.data or "null"}}}'
            )
            yield frame(data.encode(), event_id=change.position)
