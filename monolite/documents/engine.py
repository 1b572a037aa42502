"""What the rules of documents need of a database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from monolite.documents.document import Collection, Document
from monolite.preconditions import Precondition

Also = Callable[[Any, Document], None] | None
"""What else to do in the same transaction, given the engine's handle and the document."""


class DocumentEngine(Protocol):
    """Documents at rest. A collection comes into being with its first document."""

    def insert(
        self, tenant_id: int, collection: str, document: Document, also: Also = None
    ) -> Awaitable[Document]:
        """Store a new one. Not a coroutine itself: each layer of them costs at every wake-up."""
        ...

    async def put(
        self, tenant_id: int, collection: str, document: Document, precondition: Precondition
    ) -> tuple[Document, bool]:
        """Store it as the only or the next revision; returns it and whether it is new."""
        ...

    async def patch(
        self,
        tenant_id: int,
        collection: str,
        document_id: str,
        merge_patch: str,
        precondition: Precondition,
        now_ms: int,
    ) -> Document:
        """Apply a merge patch (RFC 7396); NotFound where there is none."""
        ...

    async def delete(
        self, tenant_id: int, collection: str, document_id: str, precondition: Precondition
    ) -> bool:
        """Remove it; False where there is none."""
        ...

    async def get(self, tenant_id: int, collection: str, document_id: str) -> Document | None:
        """One document."""
        ...

    async def page(
        self, tenant_id: int, collection: str, after: str | None, limit: int
    ) -> Sequence[Document] | None:
        """Documents by id, beyond `after`; None where there is no such collection."""
        ...

    async def collections(
        self, tenant_id: int, after: str | None, limit: int
    ) -> Sequence[Collection]:
        """A tenant's collections by name, beyond `after`."""
        ...
