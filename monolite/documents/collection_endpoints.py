"""Collections and their indexes over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from monolite.clock import Clock
from monolite.documents.advice import field_flags, is_unused, suggestions
from monolite.documents.collection import INDEXED_FIELDS_MAX, Collection, Index, IndexReport
from monolite.documents.collections import Collections
from monolite.documents.fields import FieldDefinition
from monolite.web.answer import Answer, json_answer, page_answer
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.operation import Operation
from monolite.web.pages import Page, PageQuery
from monolite.web.timestamps import rfc3339

READ, WRITE = "documents:read", "documents:write"


class Definition(msgspec.Struct, forbid_unknown_fields=True):
    """What is defined about a collection. `schema` is a JSON Schema (2020-12)."""

    fields: dict[str, FieldDefinition] = {}
    schema: dict[str, Any] | bool | None = None


class FieldShown(msgspec.Struct):
    """A promoted field. `state` is its index's: `building` until queries use it."""

    path: str
    type: str
    index: bool
    state: str | None


class CollectionShown(msgspec.Struct):
    """A collection of the tenant."""

    name: str
    created_at: str
    updated_at: str
    fields: dict[str, FieldShown]
    schema: Any


class IndexWish(msgspec.Struct, forbid_unknown_fields=True):
    """An index to make. `tenant_only` scopes it to the caller's tenant."""

    fields: Annotated[list[str], msgspec.Meta(min_length=1, max_length=INDEXED_FIELDS_MAX)]
    tenant_only: bool = False
    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None = None


class IndexShown(msgspec.Struct):
    """An index and its use: `scans` counts queries since `since`."""

    name: str
    fields: list[str]
    where: str | None
    bytes: int
    scans: int
    since: str
    last_used_at: str | None
    unused: bool
    state: str
    progress: float


class SuggestionShown(msgspec.Struct):
    """An index that queries would have used; `promote` are its fields that are paths yet."""

    fields: list[str]
    promote: list[str]
    queries: int
    mean_ms: float
    last_seen_at: str


class FlagShown(msgspec.Struct):
    """What speaks against a promoted field."""

    field: str
    flag: str
    detail: str


class FieldUseShown(msgspec.Struct):
    """How often a promoted field was written, and filtered by."""

    name: str
    writes: int
    filters: int
    since: str
    last_filtered_at: str | None


class IndexesShown(msgspec.Struct):
    """A collection's indexes, what is missing, and what doesn't earn its keep."""

    data: list[IndexShown]
    next_cursor: str | None
    suggestions: list[SuggestionShown]
    fields: list[FieldUseShown]
    flags: list[FlagShown]


def operations(collections: Collections, cursors: Cursors, clock: Clock) -> list[Operation]:
    """The route table."""
    e = _Endpoints(collections, cursors, clock)
    collection = "/v1/collections/{collection}"
    indexes = collection + "/indexes"
    field = {"path": "$.config.shipping_tier", "type": "integer", "index": True}
    return [
        Operation(
            "documents.list_collections",
            "GET",
            "/v1/collections",
            READ,
            "List collections",
            e.list,
            {200: Page[CollectionShown]},
            query=PageQuery,
        ),
        Operation(
            "documents.define_collection",
            "PUT",
            collection,
            WRITE,
            "Define a collection's fields and schema",
            e.define,
            {200: CollectionShown, 201: CollectionShown},
            body=Definition,
            example={"fields": {"shipping_tier": field}},
            description="Each field becomes a typed, generated column, and with `index` an index,"
            " which is filled beside other writes. What is left out is removed.",
        ),
        Operation(
            "documents.get_collection",
            "GET",
            collection,
            READ,
            "One collection",
            e.get,
            {200: CollectionShown, 304: None},
        ),
        Operation(
            "documents.delete_collection",
            "DELETE",
            collection,
            WRITE,
            "Remove a collection with its documents",
            e.delete,
            {204: None},
        ),
        Operation(
            "documents.list_indexes",
            "GET",
            indexes,
            READ,
            "Indexes, and whether they earn their keep",
            e.list_indexes,
            {200: IndexesShown},
        ),
        Operation(
            "documents.create_index",
            "POST",
            indexes,
            WRITE,
            "Make an index over promoted fields",
            e.create_index,
            {201: IndexShown},
            body=IndexWish,
            creates=True,
            example={"fields": ["region"], "tenant_only": True},
        ),
        Operation(
            "documents.delete_index",
            "DELETE",
            indexes + "/{index}",
            WRITE,
            "Drop an index",
            e.delete_index,
            {204: None},
        ),
    ]


class _Endpoints:
    def __init__(self, collections: Collections, cursors: Cursors, clock: Clock) -> None:
        self._collections = collections
        self._cursors = cursors
        self._clock = clock

    async def list(self, call: Call) -> Answer:
        after = self._cursors.after(call, call.query.cursor)
        limit = call.query.limit
        found = await self._collections.list(call.tenant_id, after, limit + 1)
        more = len(found) > limit
        cursor = self._cursors.encode(call, [found[limit - 1].name]) if more else None
        return page_answer([_shown(collection) for collection in found[:limit]], cursor)

    async def define(self, call: Call) -> Answer:
        body: Definition = call.body
        collection, is_new = await self._collections.define(
            call.tenant_id,
            call.params["collection"],
            body.fields,
            body.schema,
            call.precondition(),
        )
        return _answer(collection, 201 if is_new else 200)

    async def get(self, call: Call) -> Answer:
        collection = await self._collections.get(call.tenant_id, call.params["collection"])
        if call.is_fresh(collection.etag):
            return Answer(304, b"", [(b"etag", collection.etag.encode())])
        return _answer(collection, 200)

    async def delete(self, call: Call) -> Answer:
        await self._collections.delete(call.tenant_id, call.params["collection"])
        return Answer(204)

    async def list_indexes(self, call: Call) -> Answer:
        report = await self._collections.usage(call.tenant_id, call.params["collection"])
        now_ms = self._clock.now_ms()
        own = {r.index.fields[0]: r for r in report.indexes if len(r.index.fields) == 1}
        return json_answer(
            IndexesShown(
                data=[_reported(r, now_ms) for r in report.indexes],
                next_cursor=None,
                suggestions=[
                    SuggestionShown(
                        list(s.fields),
                        list(s.promote),
                        s.evidence.queries,
                        round(s.evidence.mean_ms, 3),
                        rfc3339(s.evidence.last_seen_at),
                    )
                    for s in suggestions(report)
                ],
                fields=[
                    FieldUseShown(
                        f.name, f.writes, f.filters, rfc3339(f.since), _time(f.last_filtered_at)
                    )
                    for f in report.fields
                ],
                flags=[
                    FlagShown(f.name, flag, detail)
                    for f in report.fields
                    for flag, detail in field_flags(f, own.get(f.name), now_ms)
                ],
            )
        )

    async def create_index(self, call: Call) -> Answer:
        wish: IndexWish = call.body
        name = call.params["collection"]

        def created(index: Index) -> Answer:
            progress = 1.0 if index.state == "ready" else 0.0
            report = IndexReport(index, None, 0, 0, index.created_at, None, progress)
            location = f"/v1/collections/{name}/indexes/{index.name}".encode()
            return json_answer(_reported(report, index.created_at), 201, [(b"location", location)])

        return created(
            await self._collections.create_index(
                call.tenant_id,
                name,
                wish.fields,
                wish.tenant_only,
                wish.name,
                call.companion(created),
            )
        )

    async def delete_index(self, call: Call) -> Answer:
        await self._collections.drop_index(
            call.tenant_id, call.params["collection"], call.params["index"]
        )
        return Answer(204)


def _shown(collection: Collection) -> CollectionShown:
    declared: dict[str, Index] = {i.fields[0]: i for i in collection.indexes if i.declared}
    fields = {
        field.name: FieldShown(
            field.path,
            field.kind,
            field.index,
            declared[field.name].state if field.name in declared else None,
        )
        for field in collection.fields
    }
    return CollectionShown(
        collection.name,
        rfc3339(collection.created_at),
        rfc3339(collection.updated_at),
        fields,
        None if collection.schema is None else msgspec.Raw(collection.schema.encode()),
    )


def _answer(collection: Collection, status: int) -> Answer:
    return json_answer(_shown(collection), status, [(b"etag", collection.etag.encode())])


def _reported(report: IndexReport, now_ms: int) -> IndexShown:
    index = report.index
    return IndexShown(
        index.name,
        list(index.fields),
        report.where,
        report.bytes,
        report.scans,
        rfc3339(report.since),
        _time(report.last_used_at),
        is_unused(report, now_ms),
        index.state,
        round(report.progress, 3),
    )


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else rfc3339(at_ms)
