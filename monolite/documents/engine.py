"""What the rules of documents need of a database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from monolite.documents.collection import (
    Change,
    Collection,
    Definition,
    Explanation,
    Index,
    UsageReport,
)
from monolite.documents.document import Document
from monolite.documents.filters import Group
from monolite.documents.query import Found, Query
from monolite.preconditions import Precondition

Also = Callable[[Any, Document], Awaitable[None] | None] | None
"""What else to do in the same transaction, given the engine's handle and the document. What it
returns is awaited there, over an engine that awaits; over SQLite it returns None.
"""

AlsoPut = Callable[[Any, tuple[Document, bool]], Awaitable[None] | None] | None
"""The same, given the document and whether it is new."""

AlsoDelete = Callable[[Any, str], Awaitable[None] | None] | None
"""The same for a document that was removed, given its id."""

AlsoIndex = Callable[[Any, Index], Awaitable[None] | None] | None
"""The same for an index."""

Validate = Callable[[Collection, str], None]
"""Raises Invalid where JSON text doesn't fit the collection's schema; called in the transaction
that writes it, and only for a collection that has a schema.
"""


class DocumentEngine(Protocol):
    """Documents at rest. A collection comes into being with its first document or its definition.

    Where there is no such collection, a method that reads answers None, one that writes to it
    raises NotFound.
    """

    # ── Documents ──────────────────────────────────────────────────────────────────────────────

    def insert(
        self, tenant_id: int, collection: str, document: Document, also: Also = None
    ) -> Awaitable[Document]:
        """Store a new one. Not a coroutine itself: each layer of them costs at every wake-up."""
        ...

    async def insert_many(
        self, tenant_id: int, collection: str, documents: Sequence[Document]
    ) -> Sequence[Exception | None]:
        """Store new ones in one transaction; for each, None or why it alone was left out."""
        ...

    async def put(
        self,
        tenant_id: int,
        collection: str,
        document: Document,
        precondition: Precondition,
        also: AlsoPut = None,
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
        also: Also = None,
    ) -> Document:
        """Apply a merge patch (RFC 7396); NotFound where there is none."""
        ...

    async def delete(
        self,
        tenant_id: int,
        collection: str,
        document_id: str,
        precondition: Precondition,
        now_ms: int,
        also: AlsoDelete = None,
    ) -> bool:
        """Remove it; False where there is none."""
        ...

    async def get(self, tenant_id: int, collection: str, document_id: str) -> Document | None:
        """One document."""
        ...

    # ── Queries ────────────────────────────────────────────────────────────────────────────────

    async def find(self, tenant_id: int, collection: Collection, query: Query) -> Found:
        """A page of documents. Raises Invalid (`filter_too_slow`) at the engine's deadline."""
        ...

    async def count(self, tenant_id: int, collection: Collection, where: Group) -> int:
        """How many documents pass, exactly. Raises as `find` does."""
        ...

    async def explain(self, tenant_id: int, collection: Collection, query: Query) -> Explanation:
        """How `find` would run, without running it."""
        ...

    # ── Collections and indexes ────────────────────────────────────────────────────────────────

    async def collection(self, tenant_id: int, name: str) -> Collection | None:
        """One collection as it is defined now; cheap enough to ask at every query."""
        ...

    async def collections(
        self, tenant_id: int, after: str | None, limit: int
    ) -> Sequence[Collection]:
        """A tenant's collections by name, beyond `after`."""
        ...

    async def define(
        self,
        tenant_id: int,
        name: str,
        definition: Definition,
        precondition: Precondition,
        now_ms: int,
    ) -> tuple[Collection, bool]:
        """Replace a collection's definition, or make it; returns it and whether it is new.

        A field's column is there at once. An index is `building` until every document is in it,
        and used by queries only then. Raises Conflict (`too_many_promoted_fields`) past the
        engine's own limit on columns.
        """
        ...

    async def delete_collection(self, tenant_id: int, name: str, now_ms: int) -> bool:
        """Remove it with all its documents; gone for every reader at once."""
        ...

    async def create_index(
        self,
        tenant_id: int,
        collection: str,
        name: str,
        fields: tuple[str, ...],
        tenant_only: bool,
        now_ms: int,
        also: AlsoIndex = None,
    ) -> Index:
        """Begin an index. Raises Conflict for a name in use, an equal one, or past a limit."""
        ...

    async def drop_index(self, tenant_id: int, collection: str, name: str) -> bool:
        """Drop an index; False where there is none."""
        ...

    async def usage(self, tenant_id: int, collection: str) -> UsageReport | None:
        """How often each index and field was used."""
        ...

    # ── Changes ────────────────────────────────────────────────────────────────────────────────

    async def last_change(self, tenant_id: int, collection: Collection) -> str:
        """The position behind the newest change."""
        ...

    async def changes(
        self, tenant_id: int, collection: Collection, after: str, limit: int
    ) -> Sequence[Change]:
        """Committed changes beyond a position, in order, none ever skipped.

        Raises ValueError for what is no position, Gone (`changes_expired`) where changes beyond it
        were dropped from the log, or it lies beyond the newest: the database was restored.
        """
        ...

    def watch(
        self, tenant_id: int, collection: Collection
    ) -> AbstractContextManager[asyncio.Event]:
        """An event that is set soon after each commit that may have changed the collection, or
        deleted it. It is cleared by whoever waits, before reading.
        """
        ...
