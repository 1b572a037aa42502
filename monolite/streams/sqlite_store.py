"""What the two SQLite engines share: the writer, the state of streams, and who is to be woken.

Appends that wait for the same turn of the writer are joined into one write of one run: 64
producers of an event each then cost one insert.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import apsw

from monolite.errors import NotFound
from monolite.storage.errors import StorageUnavailable
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer
from monolite.streams import sqlite_segments as segments
from monolite.streams.event import NewEvent
from monolite.streams.event_id import EventId
from monolite.streams.sqlite_state import Catalog, GroupState, StreamState
from monolite.streams.stream import dead_letters_of
from monolite.streams.waiting import Key, Waiting

T = TypeVar("T")

JOINED_COUNT_MAX = 1024
JOINED_BYTES_MAX = 256 * 1024
NO_STREAM = "There is no such stream."
NO_GROUP = "There is no such group."


class Joined:
    """Appends to one stream that are written together.

    The first has the write's own future; `others` are the futures of those that joined it.
    """

    __slots__ = ("counts", "events", "first_id", "has_begun", "others", "size")

    def __init__(self, events: Sequence[NewEvent], size: int) -> None:
        self.events = list(events)
        self.counts = [len(events)]
        self.size = size
        self.others: list[asyncio.Future[list[tuple[EventId, int]]]] = []
        self.has_begun = False
        self.first_id: EventId | None = None

    def settle(self, error: Exception | None) -> None:
        """The write is committed, or failed: tell those that joined."""
        at = self.counts[0]
        for future, count in zip(self.others, self.counts[1:], strict=True):
            if not future.done():
                if error is not None or self.first_id is None:
                    future.set_exception(error or _lost())
                else:
                    ms, n = self.first_id
                    future.set_result([(EventId(ms, n + at), count)])
            at += count


class Store:
    """Streams in one SQLite file. `now_us` never goes back while the process lives."""

    def __init__(
        self,
        writer: Writer,
        readers: Readers,
        *,
        now_ms: Callable[[], int],
        now_us: Callable[[], int],
    ) -> None:
        self.writer = writer
        self.readers = readers
        self.now_ms = now_ms
        self.now_us = now_us
        self.catalog = Catalog()
        self.waiting = Waiting()
        self.work_waits = asyncio.Event()
        self.appended_count = 0
        self.dead_count = 0
        self._appended: set[Key] = set()
        self._released: set[tuple[Key, str]] = set()
        self._gathering: dict[Key, Joined] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._written: list[Joined] = []
        # When consumers last asked and last got something (ms), by number, to be written down.
        self.seen: dict[int, tuple[int, int | None]] = {}
        # Groups that hold something, and streams with trimmed rows: what upkeep looks at.
        self.holding: set[tuple[int, str, str]] = set()
        self.trimmed: set[int] = set()
        writer.on_commit.append(self._committed)
        writer.on_failure.append(self._failed)

    # ── Changes ────────────────────────────────────────────────────────────────────────────────

    def change(
        self,
        tenant_id: int,
        stream: str,
        work: Callable[[apsw.Connection], T],
        *,
        is_long: bool = False,
        is_atomic: bool = False,
    ) -> asyncio.Future[T]:
        """Submit a write to one stream and its groups."""

        def guarded(connection: apsw.Connection) -> T:
            try:
                return work(connection)
            except BaseException:
                self.forget(tenant_id, stream)
                raise

        return self.writer.submit(
            guarded, is_long=is_long, is_atomic=is_atomic, is_prompt=not is_long
        )

    def forget(self, tenant_id: int, stream: str) -> None:
        """What was learned of a stream goes with the write that failed."""
        self.catalog.forget(tenant_id, stream)
        dead = dead_letters_of(stream)
        if dead is not None:
            self.catalog.forget(tenant_id, dead)

    def existing(self, connection: apsw.Connection, tenant_id: int, stream: str) -> StreamState:
        """A stream on the writer's connection; NotFound where there is none."""
        state = self.catalog.current(connection, tenant_id, stream)
        if state is None:
            raise NotFound(NO_STREAM)
        return state

    def existing_group(
        self, connection: apsw.Connection, tenant_id: int, stream: str, group: str
    ) -> tuple[StreamState, GroupState]:
        """A stream and one of its groups; NotFound where there is none."""
        state = self.existing(connection, tenant_id, stream)
        found = state.groups.get(group)
        if found is None:
            raise NotFound(NO_GROUP)
        return state, found

    def made(self, connection: apsw.Connection, tenant_id: int, stream: str) -> StreamState:
        """A stream, made where it is missing."""
        state = self.catalog.current(connection, tenant_id, stream)
        return state or self.catalog.make(connection, tenant_id, stream, self.now_ms())

    def hide(self, connection: apsw.Connection, state: StreamState) -> None:
        """Let a stream be gone; upkeep removes its rows."""
        connection.execute(
            "UPDATE streams SET deleted_at = ? WHERE id = ?", (self.now_ms(), state.number)
        )
        self.catalog.forget(state.tenant_id, state.name)
        # Those that wait are to find it gone.
        self._appended.add((state.tenant_id, state.name))
        for group in state.groups:
            self.released(state.tenant_id, state.name, group)

    async def look(self, read: Callable[[apsw.Connection], T]) -> T:
        """What `read` finds in one snapshot: on the loop while that is brief, else on a thread."""
        inline = self.readers.inline
        inline.execute("BEGIN")
        try:
            brief = self.readers.briefly(lambda connection: (read(connection),))
        finally:
            if inline.in_transaction:
                inline.execute("ROLLBACK")
        if brief is not None:
            return brief[0]

        def in_snapshot(connection: apsw.Connection) -> T:
            # The pool ends the transaction.
            connection.execute("BEGIN")
            return read(connection)

        return await self.readers.run(in_snapshot)

    # ── Appends ────────────────────────────────────────────────────────────────────────────────

    def append(
        self, connection: apsw.Connection, state: StreamState, events: Sequence[NewEvent]
    ) -> list[tuple[EventId, int]]:
        """Append in the writer's transaction."""
        ids = segments.append(connection, state, events, self.now_ms())
        self._appended.add((state.tenant_id, state.name))
        self.appended_count += len(events)
        return ids

    def append_joined(
        self, tenant_id: int, stream: str, events: Sequence[NewEvent], size: int
    ) -> Awaitable[list[tuple[EventId, int]]]:
        """Append events without ids of their own, together with what else waits to be appended."""
        key = (tenant_id, stream)
        # A write may begin on the writer's thread while this looks.
        with self._lock:
            joined = self._gathering.get(key)
            if (
                joined is not None
                and len(joined.events) + len(events) <= JOINED_COUNT_MAX
                and joined.size + size <= JOINED_BYTES_MAX
            ):
                joined.events.extend(events)
                joined.counts.append(len(events))
                joined.size += size
                other: asyncio.Future[list[tuple[EventId, int]]] = self._loop.create_future()
                joined.others.append(other)
                return other
        joined = Joined(events, size)
        future = self._submit(key, joined)
        with self._lock:
            if not joined.has_begun:
                self._gathering[key] = joined
        return future

    def _submit(self, key: Key, joined: Joined) -> asyncio.Future[list[tuple[EventId, int]]]:
        def work(connection: apsw.Connection) -> list[tuple[EventId, int]]:
            with self._lock:
                joined.has_begun = True
                if self._gathering.get(key) is joined:
                    del self._gathering[key]
            try:
                state = self.catalog.get(*key)
                if state is not None and segments.is_one(joined.events):
                    ((first, _),) = self.append(connection, state, joined.events)
                else:
                    with connection:  # a savepoint: it takes more than one statement
                        state = self.made(connection, *key)
                        ((first, _),) = self.append(connection, state, joined.events)
            except Exception as error:
                self._loop.call_soon_threadsafe(joined.settle, error)
                raise
            joined.first_id = first
            self._written.append(joined)
            return [(first, joined.counts[0])]

        def ended(future: asyncio.Future[list[tuple[EventId, int]]]) -> None:
            if future.cancelled() and not joined.has_begun and joined.others:
                # The first has gone before its turn; the others are still to be written.
                self._resubmit(key, joined)

        future = self.change(*key, work, is_atomic=True)
        if not future.done():
            future.add_done_callback(ended)
        return future

    def _resubmit(self, key: Key, joined: Joined) -> None:
        with self._lock:
            if self._gathering.get(key) is joined:
                del self._gathering[key]
        events = joined.events[joined.counts[0] :]
        again = Joined(events, joined.size)
        again.counts = [0, *joined.counts[1:]]
        again.others = joined.others
        try:
            self._submit(key, again)
        except Exception as error:
            again.settle(error)

    def call_upkeep(self) -> None:
        """There are rows to be removed. From a work, which may run on the writer's thread."""
        self._loop.call_soon_threadsafe(self.work_waits.set)

    # ── After a commit ─────────────────────────────────────────────────────────────────────────

    def released(self, tenant_id: int, stream: str, group: str) -> None:
        """Something of a group can be delivered again, now or at another time than was known."""
        self._released.add(((tenant_id, stream), group))

    def _committed(self, _: int) -> None:
        if self._written:
            written, self._written = self._written, []
            for joined in written:
                if joined.others:
                    self.writer.have_company()
                joined.settle(None)
        if self._appended:
            appended, self._appended = self._appended, set()
            for key in appended:
                self.waiting.appended(key)
        if self._released:
            released, self._released = self._released, set()
            for key, group in released:
                self.waiting.call_all(key, group)

    def _failed(self) -> None:
        self.catalog.forget_all()
        self._appended.clear()
        self._released.clear()
        written, self._written = self._written, []
        for joined in written:
            joined.settle(_lost())


def _lost() -> StorageUnavailable:
    return StorageUnavailable("the transaction was lost and this write rolled back: repeat it")
