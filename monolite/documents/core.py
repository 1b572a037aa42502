"""The rules of documents."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from monolite.clock import Clock, Identifiers
from monolite.documents.document import Collection, Document
from monolite.documents.engine import Also, DocumentEngine
from monolite.errors import NotFound
from monolite.preconditions import Precondition

_MISSING = "There is no such document."


class Documents:
    """Documents of every tenant."""

    def __init__(self, engine: DocumentEngine, clock: Clock, identifiers: Identifiers) -> None:
        self._engine = engine
        self._clock = clock
        self._identifiers = identifiers

    def create(
        self, tenant_id: int, collection: str, data: str, also: Also = None
    ) -> Awaitable[Document]:
        """Store `data` (a JSON object's text) under a new id."""
        return self._engine.insert(
            tenant_id, collection, self._first(self._identifiers.new(), data), also
        )

    async def put(
        self,
        tenant_id: int,
        collection: str,
        document_id: str,
        data: str,
        precondition: Precondition,
    ) -> tuple[Document, bool]:
        """Replace a document, or create it under its caller's id; returns it and whether new."""
        return await self._engine.put(
            tenant_id, collection, self._first(document_id, data), precondition
        )

    async def patch(
        self,
        tenant_id: int,
        collection: str,
        document_id: str,
        merge_patch: str,
        precondition: Precondition,
    ) -> Document:
        """Apply a merge patch (RFC 7396) to a document."""
        return await self._engine.patch(
            tenant_id, collection, document_id, merge_patch, precondition, self._clock.now_ms()
        )

    async def delete(
        self, tenant_id: int, collection: str, document_id: str, precondition: Precondition
    ) -> None:
        """Remove a document; NotFound where there is none."""
        if not await self._engine.delete(tenant_id, collection, document_id, precondition):
            raise NotFound(_MISSING)

    async def get(self, tenant_id: int, collection: str, document_id: str) -> Document:
        """One document; NotFound where there is none."""
        document = await self._engine.get(tenant_id, collection, document_id)
        if document is None:
            raise NotFound(_MISSING)
        return document

    async def page(
        self, tenant_id: int, collection: str, after: str | None, limit: int
    ) -> Sequence[Document]:
        """Documents by id, beyond `after`; NotFound where there is no such collection."""
        page = await self._engine.page(tenant_id, collection, after, limit)
        if page is None:
            raise NotFound("There is no such collection.")
        return page

    async def collections(
        self, tenant_id: int, after: str | None, limit: int
    ) -> Sequence[Collection]:
        """A tenant's collections by name."""
        return await self._engine.collections(tenant_id, after, limit)

    def _first(self, document_id: str, data: str) -> Document:
        now_ms = self._clock.now_ms()
        return Document(document_id, data, 1, now_ms, now_ms)
