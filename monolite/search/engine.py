"""What the rules of search need of a database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from monolite.search.index import Entry, Extent, Found, Index, Query, Source, Stored

Also = Callable[[Any, int], Awaitable[None] | None] | None
"""What else to do in the same transaction, given the engine's handle and how many were stored."""


class SearchEngine(Protocol):
    """Indexes at rest, and searches in them."""

    # ── Indexes ────────────────────────────────────────────────────────────────────────────────

    async def define(
        self,
        tenant_id: int,
        name: str,
        model: str,
        source: Source | None,
        now_ms: int,
    ) -> tuple[Index, bool]:
        """Make an index, or another in its place; returns it and whether it is new.

        An index that follows a collection begins again from it. Raises Conflict (`index_not_empty`)
        where documents lie in one that has no source, and the model or the source would change.
        """
        ...

    async def index(self, tenant_id: int, name: str) -> Index | None:
        """One index as it is now; cheap enough to ask at every search."""
        ...

    async def indexes(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Index]:
        """A tenant's indexes by name, beyond `after`."""
        ...

    async def delete_index(self, tenant_id: int, name: str, now_ms: int) -> bool:
        """Remove it with all its documents; gone for every reader at once."""
        ...

    # ── Documents ──────────────────────────────────────────────────────────────────────────────

    async def upsert(
        self,
        tenant_id: int,
        name: str,
        model: str,
        entries: Sequence[Entry],
        now_ms: int,
        also: Also = None,
    ) -> int:
        """Store documents in place of those with their ids, in one transaction; returns how many.

        The index exists from its first. Raises Invalid (`wrong_dimensions`) where a vector is not
        as long as the index's, Conflict (`index_follows_collection`) where it has a source.
        """
        ...

    async def remove(self, tenant_id: int, name: str, document_id: str, now_ms: int) -> bool:
        """Remove a document; False where there is none. Raises Conflict as `upsert` does."""
        ...

    async def get(self, tenant_id: int, name: str, document_id: str) -> Stored | None:
        """One document."""
        ...

    # ── Following ──────────────────────────────────────────────────────────────────────────────

    def on_news(self, heard: Callable[[], None]) -> None:
        """Call `heard` when another server may have defined or deleted an index."""
        ...

    def following_alone(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """Entered once no other server follows; the event is set when that may no longer be so."""
        ...

    async def following(self) -> Sequence[tuple[int, Index]]:
        """Every index with a source, with its tenant."""
        ...

    async def follow(
        self,
        tenant_id: int,
        index: Index,
        entries: Sequence[Entry],
        removed: Sequence[str],
        position: str,
        now_ms: int,
    ) -> bool:
        """Store what an index's source led to, with the position behind it, in one transaction.

        False, and nothing is stored, where the index is gone or no longer at its position.
        """
        ...

    async def empty(self, tenant_id: int, index: Index, now_ms: int) -> None:
        """Put an empty index, which has followed nothing, in place of one that is still there."""
        ...

    # ── Search ─────────────────────────────────────────────────────────────────────────────────

    async def search(self, tenant_id: int, index: Index, query: Query) -> Found:
        """The best documents that pass.

        Raises Invalid (`unknown_field`, `wrong_dimensions`), NotFound where the index went.
        """
        ...

    async def extent(self, tenant_id: int, index: Index) -> Extent:
        """How large an index is, and how well a search finds what is there."""
        ...
