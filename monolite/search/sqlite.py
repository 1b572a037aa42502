"""Search in SQLite: rows and words in tables, scans over mapped files beside the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import msgspec

from monolite.errors import NotFound
from monolite.search import sqlite_store
from monolite.search.engine import Also
from monolite.search.fusion import depth_for, fuse
from monolite.search.index import (
    Entry,
    Extent,
    Found,
    Index,
    Query,
    Source,
    Stored,
    check_width,
    follows,
)
from monolite.search.sqlite_views import Views, search_scope
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer

if TYPE_CHECKING:
    from monolite.search.scope import Ranked, Scope
    from monolite.search.sqlite_rows import SqliteRows
    from monolite.search.view import View

# Children before what they reference: the order in which a tenant's rows are deleted.
TENANT_TABLES = ("search_documents", "search_removals", "search_indexes")

LONG_FROM = 8
"""A write of so many documents, or so many characters, runs on the writer's thread."""

_LONG_CHARACTERS = 20_000


class SqliteSearchEngine:
    """The embedded SearchEngine. `directory` holds the mapped files, and may be removed."""

    def __init__(self, writer: Writer, readers: Readers, directory: Path) -> None:
        self._writer = writer
        self._readers = readers
        self._views = Views(writer, readers, directory)
        self.work_waits = asyncio.Event()

    # ── Indexes ────────────────────────────────────────────────────────────────────────────────

    async def define(
        self, tenant_id: int, name: str, model: str, source: Source | None, now_ms: int
    ) -> tuple[Index, bool]:
        made = await self._writer.submit(
            lambda connection: sqlite_store.define(
                connection, tenant_id, name, model, source, now_ms
            )
        )
        self.work_waits.set()
        return made

    async def index(self, tenant_id: int, name: str) -> Index | None:
        return sqlite_store.find(self._readers.inline, tenant_id, name)

    async def indexes(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Index]:
        return sqlite_store.find_after(self._readers.inline, tenant_id, after or "", limit)

    async def delete_index(self, tenant_id: int, name: str, now_ms: int) -> bool:
        was_there = await self._writer.submit(
            lambda connection: sqlite_store.delete(connection, tenant_id, name, now_ms)
        )
        self.work_waits.set()
        return was_there

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
        def work(connection: apsw.Connection) -> Index:
            index = sqlite_store.find(connection, tenant_id, name)
            if index is None:
                index = sqlite_store.create(connection, tenant_id, name, model, None, now_ms)
            elif index.source is not None:
                raise follows(index)
            sqlite_store.store(connection, tenant_id, index, entries, now_ms)
            if also is not None:
                also(connection, len(entries))
            return index

        is_long = len(entries) >= LONG_FROM or _characters(entries) > _LONG_CHARACTERS
        index = await self._writer.submit(work, is_long=is_long)
        if is_long and entries:
            self._catch_up_soon(tenant_id, index, entries)
        return len(entries)

    async def follow(
        self,
        tenant_id: int,
        index: Index,
        entries: Sequence[Entry],
        removed: Sequence[str],
        position: str,
        now_ms: int,
    ) -> bool:
        def work(connection: apsw.Connection) -> bool:
            now = sqlite_store.find_number(connection, tenant_id, index.number)
            if now is None or now.position != index.position:
                return False
            for document_id in removed:
                sqlite_store.remove(connection, tenant_id, now.number, document_id)
            sqlite_store.store(connection, tenant_id, now, entries, now_ms)
            connection.execute(
                "UPDATE search_indexes SET position = ?, version = version + 1 WHERE id = ?",
                (position, now.number),
            )
            return True

        done = await self._writer.submit(work, is_long=True)
        if done and entries:
            self._catch_up_soon(tenant_id, index, entries)
        return done

    async def empty(self, tenant_id: int, index: Index, now_ms: int) -> None:
        await self._writer.submit(
            lambda connection: sqlite_store.renew(connection, tenant_id, index, now_ms)
        )
        self.work_waits.set()

    def on_news(self, heard: Callable[[], None]) -> None:
        """There is no other server."""

    @asynccontextmanager
    async def following_alone(self) -> AsyncIterator[asyncio.Event]:
        # No other server has this database.
        yield asyncio.Event()

    async def following(self) -> Sequence[tuple[int, Index]]:
        return sqlite_store.find_following(self._readers.inline)

    async def remove(self, tenant_id: int, name: str, document_id: str, now_ms: int) -> bool:
        def work(connection: apsw.Connection) -> bool:
            index = sqlite_store.find(connection, tenant_id, name)
            if index is None:
                return False
            if index.source is not None:
                raise follows(index)
            was_there = sqlite_store.remove(connection, tenant_id, index.number, document_id)
            if was_there:
                sqlite_store.touch(connection, index.number, now_ms)
            return was_there

        return await self._writer.submit(work)

    async def get(self, tenant_id: int, name: str, document_id: str) -> Stored | None:
        connection = self._readers.inline
        index = sqlite_store.find(connection, tenant_id, name)
        if index is None:
            return None
        return sqlite_store.stored(connection, tenant_id, index.number, document_id)

    # ── Search ─────────────────────────────────────────────────────────────────────────────────

    async def search(self, tenant_id: int, index: Index, query: Query) -> Found:
        if index.dimensions is None:
            return Found([], 0.0)
        check_width(query, index)

        def read(connection: apsw.Connection, view: View) -> Found | None:
            started = time.perf_counter()
            looked = search_scope(connection, view, tenant_id, index.number)
            if looked is None:
                return None
            rows, scope = looked
            ranked = _ranked(view, scope, rows, index, query)
            hits = [
                hit for key, score in ranked if (hit := sqlite_store.hit(connection, key, score))
            ]
            return Found(hits, (time.perf_counter() - started) * 1000)

        found = await self._views.read(tenant_id, index, read)
        if found is None:
            raise NotFound("There is no such index.")
        return found

    async def extent(self, tenant_id: int, index: Index) -> Extent:
        if index.dimensions is None:
            return Extent(0, 0, "exact")

        def read(connection: apsw.Connection, view: View) -> Extent | None:
            looked = search_scope(connection, view, tenant_id, index.number)
            if looked is None:
                return None
            rows, scope = looked
            recall = view.recall.measure(scope, rows)
            mapped = len(scope.rows) / len(scope) if len(scope) else 1.0
            return Extent(
                scope.alive_count,
                view.memory_bytes,
                "exact" if recall is None else "prefiltered",
                mapped,
                recall,
            )

        return await self._views.read(tenant_id, index, read) or Extent(0, 0, "exact")

    def _catch_up_soon(self, tenant_id: int, index: Index, entries: Sequence[Entry]) -> None:
        dimensions = index.dimensions or len(entries[0].vector) // 4
        self._views.catch_up_soon(tenant_id, msgspec.structs.replace(index, dimensions=dimensions))

    # ── What was put off ───────────────────────────────────────────────────────────────────────

    async def begin(self) -> None:
        """Drop files of another past; before anything is written."""
        connection = self._readers.inline
        newest: Any = connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'search_documents'"
        ).fetchone()
        self._views.begin(sqlite_store.numbers(connection), newest[0] if newest else 0)

    async def upkeep(self) -> bool:
        """Remove some rows of indexes that were deleted, and removals that all have taken; whether
        there is more to do.
        """
        connection = self._readers.inline
        self._views.drop_all_but(lambda: sqlite_store.numbers(connection))
        if not sqlite_store.is_work_left(connection):
            return False
        is_more = await self._writer.submit(
            lambda connection: (
                self._views.forget_removals(connection) or sqlite_store.forget_some(connection)
            ),
            is_long=True,
        )
        for tenant_id, number in self._views.lagging():
            index = sqlite_store.find_number(self._readers.inline, tenant_id, number)
            if index is not None and index.dimensions is not None:
                self._views.catch_up_soon(tenant_id, index)
        return is_more

    async def close(self) -> None:
        """Let what is under way end."""
        await self._views.close()

    # ── What the operator sees ─────────────────────────────────────────────────────────────────

    def gauges(self) -> dict[str, tuple[str, float]]:
        return {
            "search_open_indexes": (
                "Indexes whose files are mapped.",
                self._views.open_count,
            ),
            "search_index_bytes": ("Memory that their scans take.", self._views.memory_bytes),
        }

    def counters(self) -> dict[str, tuple[str, float]]:
        return {
            "search_files_made": (
                "Mapped files that were made anew from the database.",
                self._views.made_total,
            )
        }


def _ranked(
    view: View, scope: Scope, rows: SqliteRows, index: Index, query: Query
) -> Sequence[tuple[int, float]]:
    from monolite.search.postings import rank_words
    from monolite.search.scan import nearest, prefilters
    from monolite.search.vectors import from_bytes

    allowed = None
    if query.where:
        allowed = view.passing(rows, scope, query.where, index.declared)
    depth = query.k if query.mode != "hybrid" else depth_for(query.k)
    rankings = []
    if query.vector is not None:
        vector = from_bytes(query.vector)
        near = nearest(scope, rows, vector, depth, allowed, exact=query.exact)
        rankings.append(_pairs(near))
        if allowed is None and prefilters(scope):
            view.recall.add(vector)
    if query.words:
        rankings.append(_pairs(rank_words(scope, rows, query.words, depth, allowed)))
    return rankings[0] if query.mode != "hybrid" else fuse(*rankings)[: query.k]


def _pairs(ranked: Ranked) -> list[tuple[int, float]]:
    return list(zip(ranked.keys.tolist(), ranked.scores.tolist(), strict=True))


def _characters(entries: Sequence[Entry]) -> int:
    return sum(len(entry.text or "") for entry in entries)
