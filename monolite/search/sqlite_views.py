"""The open views of indexes in SQLite: opened when first asked for, brought up to date beside."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import apsw

from monolite.search.file_names import drop_strangers, numbers_in, path_of
from monolite.search.index import Index
from monolite.search.sqlite_rows import SqliteRows
from monolite.search.sqlite_store import version_of
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer

if TYPE_CHECKING:
    from monolite.search.scope import Scope
    from monolite.search.view import View

log = logging.getLogger("monolite.search")

T = TypeVar("T")

OPEN_MAX = 128
"""Files that are open at once; each takes two descriptors."""

READ_DEADLINE_S = 30.0
"""How long one read of a search, or of a view that catches up, may take."""

_REMOVALS_AT_ONCE = 5000
_CATCHING_UP_WAIT_S = 0.5
"""How long a search waits for a file that lacks many rows, before it reads them itself."""


class Views:
    """Views by their index. `directory` holds the mapped files, and may be removed."""

    def __init__(self, writer: Writer, readers: Readers, directory: Path) -> None:
        self._writer = writer
        self._readers = readers
        self._directory = directory
        self._views: dict[int, View] = {}
        self._catching_up: dict[int, asyncio.Task[None]] = {}
        self._lagging: set[tuple[int, int]] = set()
        self._lock = threading.Lock()
        self.made_total = 0

    @property
    def memory_bytes(self) -> int:
        """What all open views take."""
        return sum(view.memory_bytes for view in list(self._views.values()))

    @property
    def open_count(self) -> int:
        """How many are open."""
        return sum(view.is_open for view in list(self._views.values()))

    async def read(
        self, tenant_id: int, index: Index, read: Callable[[apsw.Connection, View], T | None]
    ) -> T | None:
        """What `read` gives in a read of the pool, given the index's open view, which is caught up
        unless that takes long. None where the index went just now. It has dimensions.

        `read` answers None where it finds neither, and the view may have been released meanwhile.
        """
        while True:
            view = self._of(index)
            if not view.is_open and not await self._open(tenant_id, index.number, view):
                return None
            if view.is_far_behind:
                task = self.catch_up_soon(tenant_id, index)
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(task), _CATCHING_UP_WAIT_S)
            found = await self._readers.run(
                lambda connection: read(connection, view),  # noqa: B023  # awaited here
                deadline_s=READ_DEADLINE_S,
            )
            if view.is_sparse or view.is_full:
                self.catch_up_soon(tenant_id, index)
            if found is not None or view.is_open:
                return found

    def catch_up_soon(self, tenant_id: int, index: Index) -> asyncio.Task[None]:
        """Begin to bring the index's file up to date, unless that is under way."""
        task = self._catching_up.get(index.number)
        if task is None or task.done():
            task = asyncio.get_running_loop().create_task(self._catch_up(tenant_id, index))
            self._catching_up[index.number] = task
            task.add_done_callback(lambda _: self._catching_up.pop(index.number, None))
        return task

    def forget_removals(self, connection: apsw.Connection) -> bool:
        """Drop some removals that no view needs, on the writer's connection; whether there may be
        more. A view that opens looks at the rows.
        """
        found: Any = connection.execute(
            "SELECT number, tenant_id, index_id FROM search_removals ORDER BY number LIMIT ?",
            (_REMOVALS_AT_ONCE,),
        ).fetchall()
        gone: list[tuple[int]] = []
        self._lagging.clear()
        for number, tenant_id, index_id in found:
            view = self._views.get(index_id)
            if view is None or view.has_taken(number):
                gone.append((number,))
            else:
                self._lagging.add((tenant_id, index_id))
        connection.executemany("DELETE FROM search_removals WHERE number = ?", gone)
        return len(gone) == _REMOVALS_AT_ONCE

    def lagging(self) -> Sequence[tuple[int, int]]:
        """Tenant and number of the indexes whose views keep removals from being dropped."""
        return list(self._lagging)

    def drop_all_but(self, known: Callable[[], set[int]]) -> None:
        """Forget the views of every other index, and remove the files of those that are gone."""
        # Listed first: an index has its row before it has a file.
        files = numbers_in(self._directory)
        numbers = known()
        with self._lock:
            gone = [self._views.pop(number) for number in self._views.keys() - numbers]
        for view in gone:
            view.discard()
        for number in files - numbers:
            path_of(self._directory, number).unlink(missing_ok=True)

    def begin(self, known: set[int], newest_key: int) -> None:
        """Drop the files of indexes that are gone and of another past."""
        if self._directory.is_dir():
            drop_strangers(self._directory, known, newest_key)

    async def close(self) -> None:
        """Break off what is under way, and have files written."""
        tasks = list(self._catching_up.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for view in self._views.values():
            await asyncio.to_thread(view.close)

    def _of(self, index: Index) -> View:
        from monolite.search.view import View

        assert index.dimensions is not None
        with self._lock:
            view = self._views.get(index.number)
            if view is None:
                path = path_of(self._directory, index.number)
                view = self._views[index.number] = View(path, index.dimensions)
            else:
                # The last is the one most lately used.
                self._views[index.number] = self._views.pop(index.number)
            return view

    async def _open(self, tenant_id: int, number: int, view: View) -> bool:
        """Open a view; False where the index is gone."""
        row: Any = self._readers.inline.execute(
            "SELECT stamp FROM search_indexes WHERE id = ?", (number,)
        ).fetchone()
        # In the database first: a file with a stamp that it doesn't know is made again.
        stamp = os.urandom(16)
        await self._writer.submit(
            lambda connection: connection.execute(
                "UPDATE search_indexes SET stamp = ? WHERE id = ?", (stamp, number)
            )
        )

        def read(connection: apsw.Connection) -> bool:
            rows, version = snapshot(connection, tenant_id, number)
            if version is None or row is None:
                return False
            newest: Any = connection.execute(
                "SELECT coalesce(max(number), 0) FROM search_removals"
            ).fetchone()
            self.made_total += view.open(rows, version, (row[0], stamp), newest[0])
            return True

        is_there = await self._readers.run(read, deadline_s=READ_DEADLINE_S)
        self._release_some()
        return is_there

    def _release_some(self) -> None:
        """Close the files that were not searched for the longest time."""
        with self._lock:
            opened = [view for view in self._views.values() if view.is_open]
        for view in opened[: max(0, len(opened) - OPEN_MAX)]:
            view.release()

    async def _catch_up(self, tenant_id: int, index: Index) -> None:
        view = self._of(index)

        def more(connection: apsw.Connection) -> bool:
            found = looked_at(connection, view, tenant_id, index.number)
            return found is not None and view.map_some(*found)

        try:
            if not view.is_open and not await self._open(tenant_id, index.number, view):
                return
            while True:
                while await self._readers.run(more, deadline_s=READ_DEADLINE_S):
                    if view.is_full:
                        await asyncio.to_thread(view.remake)
                if not view.is_sparse:
                    break
                await asyncio.to_thread(view.remake)
        except OSError as error:
            log.warning("the file of index %s can't be made anew: %s", index.name, error)
        except Exception:
            # It is derived, and searches find what it lacks; the next one tries again.
            log.exception("index %s couldn't catch up", index.name)


def snapshot(
    connection: apsw.Connection, tenant_id: int, number: int
) -> tuple[SqliteRows, int | None]:
    """Begin a snapshot of an index, which the pool ends with the read; None where it is gone."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    connection.execute("BEGIN")
    return SqliteRows(connection, tenant_id, number), version_of(connection, number)


def looked_at(
    connection: apsw.Connection, view: View, tenant_id: int, number: int
) -> tuple[SqliteRows, Scope] | None:
    """A new snapshot of an index and its rows as they are searched; None where the index is gone
    or the view was released.
    """
    from monolite.search.view import Overtaken

    while True:
        rows, version = snapshot(connection, tenant_id, number)
        if version is None:
            return None
        with suppress(Overtaken):
            scope = view.scope(rows, version)
            return None if scope is None else (rows, scope)


def search_scope(
    connection: apsw.Connection, view: View, tenant_id: int, number: int
) -> tuple[SqliteRows, Scope] | None:
    """What a search looks at, as `looked_at`; the file is given a few rows that it lacks first."""
    found = looked_at(connection, view, tenant_id, number)
    if found is not None and view.missing and not (view.is_far_behind or view.is_full):
        view.map_some(*found)
        return looked_at(connection, view, tenant_id, number)
    return found
