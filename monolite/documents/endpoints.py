"""Documents over HTTP."""

from __future__ import annotations

from typing import Any

import msgspec

from monolite.documents.core import Documents
from monolite.documents.document import Document
from monolite.web.answer import Answer, page_answer
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.operation import Operation
from monolite.web.pages import Page, PageQuery
from monolite.web.timestamps import rfc3339

READ, WRITE = "documents:read", "documents:write"

JsonObject = dict[str, msgspec.Raw]


class DocumentShown(msgspec.Struct):
    """A document as it is answered; `data` is the caller's JSON object."""

    id: str
    data: dict[str, Any]
    created_at: str
    updated_at: str
    revision: int


class CollectionShown(msgspec.Struct):
    """A collection of the tenant."""

    name: str
    created_at: str


def operations(documents: Documents, cursors: Cursors, bytes_max: int) -> list[Operation]:
    """The route table."""
    e = _Endpoints(documents, cursors)
    collection = "/v1/collections/{collection}/documents"
    document = collection + "/{id}"
    example = {"title": "Hello", "tags": ["first"]}
    return [
        Operation(
            "documents.create",
            "POST",
            collection,
            WRITE,
            "Store a document",
            e.create,
            {201: DocumentShown},
            body=JsonObject,
            body_bytes_max=bytes_max,
            creates=True,
            hot=True,
            example=example,
            description="The body is the document itself. A collection exists from its first.",
        ),
        Operation(
            "documents.list",
            "GET",
            collection,
            READ,
            "List documents in the order they were made",
            e.list,
            {200: Page[DocumentShown]},
            query=PageQuery,
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
            body=JsonObject,
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
            body=JsonObject,
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
        ),
        Operation(
            "documents.list_collections",
            "GET",
            "/v1/collections",
            READ,
            "List collections",
            e.list_collections,
            {200: Page[CollectionShown]},
            query=PageQuery,
        ),
    ]


class _Endpoints:
    def __init__(self, documents: Documents, cursors: Cursors) -> None:
        self._documents = documents
        self._cursors = cursors

    async def create(self, call: Call) -> Answer:
        collection = call.params["collection"]

        def created(document: Document) -> Answer:
            location = f"/v1/collections/{collection}/documents/{document.id}".encode()
            return _shown(document, 201, (b"location", location))

        return created(
            await self._documents.create(
                call.tenant_id, collection, call.text, call.companion(created)
            )
        )

    async def list(self, call: Call) -> Answer:
        after = self._cursors.after(call, call.query.cursor)
        limit = call.query.limit
        found = await self._documents.page(
            call.tenant_id, call.params["collection"], after, limit + 1
        )
        more = len(found) > limit
        shown = [msgspec.Raw(_json(document)) for document in found[:limit]]
        cursor = self._cursors.encode(call, [found[limit - 1].id]) if more else None
        return page_answer(shown, cursor)

    async def get(self, call: Call) -> Answer:
        params = call.params
        document = await self._documents.get(call.tenant_id, params["collection"], params["id"])
        if b"if-none-match" in call.headers and call.is_fresh(document.etag):
            return Answer(304, b"", [(b"etag", document.etag.encode())])
        return _shown(document, 200)

    async def put(self, call: Call) -> Answer:
        params = call.params
        document, is_new = await self._documents.put(
            call.tenant_id,
            params["collection"],
            params["id"],
            call.text,
            call.precondition(),
        )
        return _shown(document, 201 if is_new else 200)

    async def patch(self, call: Call) -> Answer:
        params = call.params
        document = await self._documents.patch(
            call.tenant_id,
            params["collection"],
            params["id"],
            call.text,
            call.precondition(),
        )
        return _shown(document, 200)

    async def delete(self, call: Call) -> Answer:
        params = call.params
        await self._documents.delete(
            call.tenant_id, params["collection"], params["id"], call.precondition()
        )
        return Answer(204)

    async def list_collections(self, call: Call) -> Answer:
        after = self._cursors.after(call, call.query.cursor)
        limit = call.query.limit
        found = await self._documents.collections(call.tenant_id, after, limit + 1)
        shown = [CollectionShown(c.name, rfc3339(c.created_at)) for c in found[:limit]]
        more = len(found) > limit
        return page_answer(
            shown, self._cursors.encode(call, [found[limit - 1].name]) if more else None
        )


def _json(document: Document) -> bytes:
    # `data` is JSON text already; decoding it only to encode it again would cost a GET twice over.
    return (
        f'{{"id":"{document.id}","data":{document.data}'
        f',"created_at":"{rfc3339(document.created_at)}"'
        f',"updated_at":"{rfc3339(document.updated_at)}","revision":{document.revision}}}'
    ).encode()


def _shown(document: Document, status: int, *headers: tuple[bytes, bytes]) -> Answer:
    etag = (b"etag", document.etag.encode())
    return Answer(status, _json(document), [(b"content-type", b"application/json"), etag, *headers])
