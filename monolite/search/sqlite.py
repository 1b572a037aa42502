"""Search in SQLite: rows and words in tables, scans over mapped files beside the database."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import apsw
import msgspec

from monolite.errors import Conflict, FieldError, Invalid, Unavailable
from monolite.search import sqlite_words
from monolite.search.core import follows
from monolite.search.engine import Also
from monolite.search.fusion import fuse
from monolite.search.index import Entry, Extent, Found, Hit, Index, Query, Source, Stored
from monolite.search.sqlite_rows import SqliteRows
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer

if TYPE_CHECKING:
    from monolite.search.view import View

# Children before what they reference: the order in which a tenant's rows are deleted.
TENANT_TABLES = ("search_removals", "search_vectors", "search_documents", "search_indexes")

LONG_FROM = 8
"""A write of so many documents runs on the writer's thread."""

REMOVED_AT_ONCE = 500
BEHIND_READ_S = 30.0
"""How long one read that brings a view up to date may take."""

_WAITS_S = 2.0

_INDEX = "id, name, model, dimensions, source, position, version, created_at, updated_at, tenant_id"
_BY_NAME = f"SELECT {_INDEX} FROM search_indexes WHERE tenant_id = ? AND name = ?" + (
    " AND deleted_at IS NULL"
)


class SqliteSearchEngine:
    """The embedded SearchEngine. `directory` holds the mapped files, and may be removed."""

    def __init__(self, writer: Writer, readers: Readers, directory: Path) -> None:
        self._writer = writer
        self._readers = readers
        self._directory = directory
        self._views: dict[int, View] = {}
        self._views_lock = threading.Lock()
        self._catching_up: dict[int, asyncio.Task[None]] = {}
        self.work_waits = asyncio.Event()

    # ── Indexes ────────────────────────────────────────────────────────────────────────────────

    async def define(
        self, tenant_id: int, name: str, model: str, source: Source | None, now_ms: int
    ) -> tuple[Index, bool]:
        def work(connection: apsw.Connection) -> tuple[Index, bool]:
            index = find(connection, tenant_id, name)
            if index is None:
                return _create(connection, tenant_id, name, model, source, now_ms), True
            if (index.model, index.source) == (model, source):
                return index, False
            if index.dimensions is not None and _holds_any(connection, tenant_id, index.number):
                raise Conflict(
                    f"Documents lie in {name}, which has the model {index.model}: delete it to"
                    " make it anew with another model or source.",
                    code="index_not_empty",
                )
            connection.execute(
                "UPDATE search_indexes SET model = ?, source = ?, position = NULL,"
                " dimensions = NULL, version = version + 1, updated_at = ? WHERE id = ?",
                (model, _source_text(source), now_ms, index.number),
            )
            return cast(Index, find(connection, tenant_id, name)), False

        return await self._writer.submit(work)

    async def index(self, tenant_id: int, name: str) -> Index | None:
        return find(self._readers.inline, tenant_id, name)

    async def indexes(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Index]:
        rows = self._readers.inline.execute(
            f"SELECT {_INDEX} FROM search_indexes WHERE tenant_id = ? AND name > ?"
            " AND deleted_at IS NULL ORDER BY name LIMIT ?",
            (tenant_id, after or "", limit),
        )
        return [_index(row) for row in rows]

    async def delete_index(self, tenant_id: int, name: str, now_ms: int) -> bool:
        def work(connection: apsw.Connection) -> bool:
            connection.execute(
                "UPDATE search_indexes SET deleted_at = ? WHERE tenant_id = ? AND name = ?"
                " AND deleted_at IS NULL",
                (now_ms, tenant_id, name),
            )
            return connection.changes() > 0

        was_there = await self._writer.submit(work)
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
        def work(connection: apsw.Connection) -> tuple[int, int]:
            index = find(connection, tenant_id, name)
            if index is None:
                index = _create(connection, tenant_id, name, model, None, now_ms)
            elif index.source is not None:
                raise follows(index)
            store(connection, tenant_id, index, entries, now_ms)
            if also is not None:
                also(connection, len(entries))
            return len(entries), index.number

        is_long = len(entries) >= LONG_FROM
        stored, number = await self._writer.submit(work, is_long=is_long)
        if is_long:
            self._catch_up_soon(tenant_id, number)
        return stored

    async def follow(
        self,
        tenant_id: int,
        number: int,
        entries: Sequence[Entry],
        removed: Sequence[str],
        position: str | None,
        now_ms: int,
    ) -> bool:
        def work(connection: apsw.Connection) -> bool:
            row = connection.execute(
                f"SELECT {_INDEX} FROM search_indexes WHERE id = ? AND tenant_id = ?"
                " AND deleted_at IS NULL",
                (number, tenant_id),
            ).fetchone()
            if row is None:
                return False
            if position is None:
                while _remove_some(connection, tenant_id, number):
                    pass
            for document_id in removed:
                _remove(connection, tenant_id, number, document_id)
            store(connection, tenant_id, _index(row), entries, now_ms)
            connection.execute(
                "UPDATE search_indexes SET position = ?, version = version + 1 WHERE id = ?",
                (position, number),
            )
            return True

        return await self._writer.submit(work, is_long=True)

    async def following(self) -> Sequence[tuple[int, Index]]:
        rows: Any = self._readers.inline.execute(
            f"SELECT {_INDEX} FROM search_indexes WHERE source IS NOT NULL AND deleted_at IS NULL"
        )
        return [(row[-1], _index(row)) for row in rows]

    async def remove(self, tenant_id: int, name: str, document_id: str, now_ms: int) -> bool:
        def work(connection: apsw.Connection) -> bool:
            index = find(connection, tenant_id, name)
            if index is None:
                return False
            if index.source is not None:
                raise follows(index)
            was_there = _remove(connection, tenant_id, index.number, document_id)
            _touch(connection, index.number, now_ms)
            return was_there

        return await self._writer.submit(work)

    async def get(self, tenant_id: int, name: str, document_id: str) -> Stored | None:
        connection = self._readers.inline
        index = find(connection, tenant_id, name)
        if index is None:
            return None
        row: Any = connection.execute(
            "SELECT id, text, json(metadata), vector, tokens, truncated, updated_at"
            " FROM search_documents JOIN search_vectors USING (key)"
            " WHERE search_documents.tenant_id = ? AND index_id = ? AND id = ?",
            (tenant_id, index.number, document_id),
        ).fetchone()
        if row is None:
            return None
        document_id, text, metadata, vector, tokens, truncated, updated_at = row
        return Stored(document_id, text, metadata, vector, tokens, bool(truncated), updated_at)

    # ── Search ─────────────────────────────────────────────────────────────────────────────────

    async def search(self, tenant_id: int, index: Index, query: Query) -> Found:
        if index.dimensions is None:
            return Found([], 0.0)
        if query.vector is not None and len(query.vector) != 4 * index.dimensions:
            why = f"has {len(query.vector) // 4} dimensions, the index {index.dimensions}"
            pointer = "#/vector"
            raise Invalid(f"{pointer}: {why}", [FieldError(pointer, why)], code="wrong_dimensions")

        def read(connection: apsw.Connection) -> Found | None:
            started = time.perf_counter()
            rows = _begin(connection, tenant_id, index.number)
            view = self._up_to_date(connection, rows, tenant_id, index)
            if view is None:
                return None
            ranked = self._ranked(connection, rows, view, index.number, query)
            hits = [hit for key, score in ranked if (hit := _hit(connection, key, score))]
            return Found(hits, (time.perf_counter() - started) * 1000)

        until = time.monotonic() + _WAITS_S
        while True:
            found = await self._readers.run(read, deadline_s=BEHIND_READ_S)
            if found is not None:
                return found
            task = self._catch_up_soon(tenant_id, index.number)
            done, _ = await asyncio.wait((task,), timeout=max(0.0, until - time.monotonic()))
            if not done:
                raise Unavailable(
                    "The index is catching up with many new documents; GET it to see how far.",
                    retry_after_s=1.0,
                    code="index_building",
                )

    def _ranked(
        self, connection: apsw.Connection, rows: SqliteRows, view: View, number: int, query: Query
    ) -> list[tuple[int, float]]:
        from monolite.search.vectors import from_bytes

        wide = query.k if query.mode != "hybrid" else max(4 * query.k, 50)
        near: list[tuple[int, float]] = []
        worded: list[tuple[int, float]] = []
        if query.vector is not None:
            ranked = view.rank(rows, from_bytes(query.vector), wide, query.where, query.exact)
            near = list(zip(ranked.keys.tolist(), ranked.scores.tolist(), strict=True))
        if query.mode != "semantic":
            allowed = None
            if query.where:
                allowed = view.allows(view.passing(rows, query.where))
            worded = sqlite_words.rank(connection, number, query.words, wide, allowed)
        if query.mode == "hybrid":
            return fuse(near, worded)[: query.k]
        return near or worded

    async def extent(self, tenant_id: int, index: Index) -> Extent:
        if index.dimensions is None:
            return Extent(0, 0, "exact")

        def read(connection: apsw.Connection) -> Extent:
            rows = _begin(connection, tenant_id, index.number)
            view = self._up_to_date(connection, rows, tenant_id, index)
            if view is not None:
                return view.extent(rows)
            count: Any = connection.execute(
                "SELECT count(*) FROM search_documents WHERE tenant_id = ? AND index_id = ?",
                (tenant_id, index.number),
            ).fetchone()
            return Extent(count[0], 0, "exact")

        return await self._readers.run(read, deadline_s=BEHIND_READ_S)

    # ── Views ──────────────────────────────────────────────────────────────────────────────────

    def _view(self, number: int, dimensions: int) -> View:
        from monolite.search.view import View

        with self._views_lock:
            view = self._views.get(number)
            if view is None:
                path = self._directory / f"{number}.vectors"
                view = self._views[number] = View(path, dimensions)
            return view

    def _up_to_date(
        self, connection: apsw.Connection, rows: SqliteRows, tenant_id: int, index: Index
    ) -> View | None:
        """The view at the reader's snapshot; None where it isn't open, or far behind."""
        assert index.dimensions is not None
        view = self._view(index.number, index.dimensions)
        row: Any = connection.execute(
            "SELECT version FROM search_indexes WHERE id = ?", (index.number,)
        ).fetchone()
        version = row[0] if row else -1
        if not view.is_open:
            return None
        if view.version < version:
            if view.behind(rows):
                return None
            view.follow(rows, version)
        return view

    def _catch_up_soon(self, tenant_id: int, number: int) -> asyncio.Task[None]:
        task = self._catching_up.get(number)
        if task is None or task.done():
            task = asyncio.get_running_loop().create_task(self._catch_up(tenant_id, number))
            self._catching_up[number] = task
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _catch_up(self, tenant_id: int, number: int) -> None:
        """Bring a view up to date, a slice of rows in each read."""
        row: Any = self._readers.inline.execute(
            "SELECT dimensions, stamp FROM search_indexes WHERE id = ?", (number,)
        ).fetchone()
        if row is None or row[0] is None:
            return
        view = self._view(number, row[0])
        if not view.is_open:
            # In the database first: a file with a stamp that it doesn't know is made again.
            stamp = os.urandom(16)
            await self._writer.submit(lambda connection: _stamp(connection, number, stamp))

            def opened(connection: apsw.Connection) -> None:
                rows = _begin(connection, tenant_id, number)
                newest: Any = connection.execute(
                    "SELECT coalesce(max(number), 0) FROM search_removals"
                ).fetchone()
                view.open(rows, (row[1], stamp), newest[0])

            await self._readers.run(opened, deadline_s=BEHIND_READ_S)

        def more(connection: apsw.Connection) -> bool:
            rows = _begin(connection, tenant_id, number)
            version: Any = connection.execute(
                "SELECT version FROM search_indexes WHERE id = ?", (number,)
            ).fetchone()
            if view.behind(rows):
                return True
            if version is not None:
                view.follow(rows, version[0])
            return False

        while await self._readers.run(more, deadline_s=BEHIND_READ_S):
            pass

    # ── What was put off ───────────────────────────────────────────────────────────────────────

    async def begin(self) -> None:
        """Drop files of another past; before anything is written."""
        newest: Any = self._readers.inline.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'search_documents'"
        ).fetchone()
        if self._directory.is_dir():
            from monolite.search.file_names import drop_strangers

            known: Any = self._readers.inline.execute("SELECT id FROM search_indexes").fetchall()
            drop_strangers(self._directory, {row[0] for row in known}, newest[0] if newest else 0)
        await self._writer.submit(_forget_removals)

    async def upkeep(self) -> bool:
        """Remove some rows of indexes that were deleted; whether there is more to do."""
        if not _is_work_left(self._readers.inline):
            return False
        taken = {number: view.removed_to for number, view in self._views.items() if view.is_open}

        def work(connection: apsw.Connection) -> tuple[bool, list[int]]:
            row: Any = connection.execute(
                "SELECT tenant_id, id FROM search_indexes WHERE deleted_at IS NOT NULL LIMIT 1"
            ).fetchone()
            if row is None:
                # Those of tenants that were deleted.
                gone = sqlite_words.orphans(connection)
                for number in gone:
                    sqlite_words.drop(connection, number)
                _forget_taken(connection, taken)
                return False, gone
            if _remove_some(connection, *row):
                return True, []
            connection.execute("DELETE FROM search_indexes WHERE id = ?", (row[1],))
            sqlite_words.drop(connection, row[1])
            return True, [row[1]]

        is_more, gone = await self._writer.submit(work, is_long=True)
        for number in gone:
            with self._views_lock:
                self._views.pop(number, None)
            (self._directory / f"{number}.vectors").unlink(missing_ok=True)
        return is_more

    async def close(self) -> None:
        """Let what is under way end."""
        tasks = [task for task in self._catching_up.values() if not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for view in self._views.values():
            await asyncio.to_thread(view.close)


def store(
    connection: apsw.Connection,
    tenant_id: int,
    index: Index,
    entries: Sequence[Entry],
    now_ms: int,
) -> None:
    """Put documents in place of those with their ids. Raises Invalid (`wrong_dimensions`)."""
    if not entries:
        return
    dimensions = index.dimensions or len(entries[0].vector) // 4
    for entry in entries:
        if len(entry.vector) != 4 * dimensions:
            why = f"{entry.id} has {len(entry.vector) // 4} dimensions, the index {dimensions}"
            raise Invalid(why, [FieldError("#/vector", why)], code="wrong_dimensions")
    sqlite_words.create(connection, index.number)
    for entry in entries:
        _remove(connection, tenant_id, index.number, entry.id)
        connection.execute(
            "INSERT INTO search_documents (tenant_id, index_id, id, text, metadata, tokens,"
            " truncated, updated_at) VALUES (?, ?, ?, ?, jsonb(?), ?, ?, ?)",
            (
                tenant_id,
                index.number,
                entry.id,
                entry.text,
                entry.metadata,
                entry.tokens,
                entry.truncated,
                now_ms,
            ),
        )
        key = connection.last_insert_rowid()
        connection.execute(
            "INSERT INTO search_vectors (key, tenant_id, vector) VALUES (?, ?, ?)",
            (key, tenant_id, entry.vector),
        )
        if entry.text:
            sqlite_words.add(connection, index.number, key, entry.text)
    connection.execute(
        "UPDATE search_indexes SET dimensions = ?, version = version + 1, updated_at = ?"
        " WHERE id = ?",
        (dimensions, now_ms, index.number),
    )


def find(connection: apsw.Connection, tenant_id: int, name: str) -> Index | None:
    """A tenant's index by name."""
    row = connection.execute(_BY_NAME, (tenant_id, name)).fetchone()
    return None if row is None else _index(row)


def _index(row: Any) -> Index:
    number, name, model, dimensions, source, position, version, created, updated, _ = row
    return Index(
        number=number,
        name=name,
        model=model,
        dimensions=dimensions,
        source=None if source is None else msgspec.json.decode(source, type=Source),
        position=position,
        version=version,
        created_at=created,
        updated_at=updated,
    )


def _create(
    connection: apsw.Connection,
    tenant_id: int,
    name: str,
    model: str,
    source: Source | None,
    now_ms: int,
) -> Index:
    connection.execute(
        "INSERT INTO search_indexes (tenant_id, name, model, source, stamp, version, created_at,"
        " updated_at) VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
        (tenant_id, name, model, _source_text(source), os.urandom(16), now_ms, now_ms),
    )
    return cast(Index, find(connection, tenant_id, name))


def restore_index(
    connection: apsw.Connection,
    tenant_id: int,
    name: str,
    model: str,
    source: Source | None,
    times: tuple[int, int],
) -> None:
    """Make an index as an export has it; `times` are when it was created and updated."""
    index = _create(connection, tenant_id, name, model, source, times[0])
    connection.execute(
        "UPDATE search_indexes SET updated_at = ? WHERE id = ?", (times[1], index.number)
    )


def _source_text(source: Source | None) -> str | None:
    return None if source is None else msgspec.json.encode(source).decode()


def _stamp(connection: apsw.Connection, number: int, stamp: bytes) -> None:
    connection.execute("UPDATE search_indexes SET stamp = ? WHERE id = ?", (stamp, number))


def _is_work_left(connection: apsw.Connection) -> bool:
    row: Any = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM search_indexes WHERE deleted_at IS NOT NULL)"
        " OR EXISTS (SELECT 1 FROM search_removals)"
    ).fetchone()
    return bool(row[0]) or bool(sqlite_words.orphans(connection))


def _forget_taken(connection: apsw.Connection, taken: dict[int, int]) -> None:
    """Drop removals that every open view has taken; one that isn't open needs none."""
    for number, removed_to in taken.items():
        connection.execute(
            "DELETE FROM search_removals WHERE index_id = ? AND number <= ?", (number, removed_to)
        )
    marks = ",".join("?" * len(taken))
    connection.execute(f"DELETE FROM search_removals WHERE index_id NOT IN ({marks})", tuple(taken))


def _forget_removals(connection: apsw.Connection) -> None:
    connection.execute("DELETE FROM search_removals")


def _touch(connection: apsw.Connection, number: int, now_ms: int) -> None:
    connection.execute(
        "UPDATE search_indexes SET version = version + 1, updated_at = ? WHERE id = ?",
        (now_ms, number),
    )


def _holds_any(connection: apsw.Connection, tenant_id: int, number: int) -> bool:
    row = connection.execute(
        "SELECT 1 FROM search_documents WHERE tenant_id = ? AND index_id = ? LIMIT 1",
        (tenant_id, number),
    ).fetchone()
    return row is not None


def _remove(connection: apsw.Connection, tenant_id: int, number: int, document_id: str) -> bool:
    row: Any = connection.execute(
        "DELETE FROM search_documents WHERE tenant_id = ? AND index_id = ? AND id = ?"
        " RETURNING key",
        (tenant_id, number, document_id),
    ).fetchone()
    if row is None:
        return False
    _forget(connection, tenant_id, number, row[0])
    return True


def _remove_some(connection: apsw.Connection, tenant_id: int, number: int) -> bool:
    rows: Any = connection.execute(
        "SELECT key FROM search_documents WHERE tenant_id = ? AND index_id = ? LIMIT ?",
        (tenant_id, number, REMOVED_AT_ONCE),
    ).fetchall()
    for (key,) in rows:
        connection.execute("DELETE FROM search_documents WHERE key = ?", (key,))
        _forget(connection, tenant_id, number, key)
    return len(rows) == REMOVED_AT_ONCE


def _forget(connection: apsw.Connection, tenant_id: int, number: int, key: int) -> None:
    connection.execute("DELETE FROM search_vectors WHERE key = ?", (key,))
    sqlite_words.remove(connection, number, key)
    connection.execute(
        "INSERT INTO search_removals (tenant_id, index_id, key) VALUES (?, ?, ?)",
        (tenant_id, number, key),
    )


def _begin(connection: apsw.Connection, tenant_id: int, number: int) -> SqliteRows:
    """Begin a snapshot; the pool ends it with the read."""
    connection.execute("BEGIN")
    return SqliteRows(connection, tenant_id, number)


def _hit(connection: apsw.Connection, key: int, score: float) -> Hit | None:
    row: Any = connection.execute(
        "SELECT id, text, json(metadata) FROM search_documents WHERE key = ?", (key,)
    ).fetchone()
    return None if row is None else Hit(row[0], score, row[1], row[2])
