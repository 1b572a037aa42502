"""What streams put off, done in slices beside other writes, and begun again after a restart.

clean     rows of deleted streams and groups, and rows that were trimmed
retain    the retention of streams, every second
sweep     deliveries that fell due unseen, every second: dead letters, and consumers to wake
flush     when consumers were last seen, every ten seconds
measure   how long events are kept, and how many groups there are, for the operator
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import apsw

from monolite.streams import sqlite_delivery as delivery
from monolite.streams import sqlite_segments as segments
from monolite.streams.event_id import EventId
from monolite.streams.sqlite import trim_stream
from monolite.streams.sqlite_state import SEQ_MAX, key
from monolite.streams.sqlite_store import Store
from monolite.streams.stream import Trim
from monolite.streams.upkeep import CONSUMER_KEPT_MS, Kept

ROWS_AT_ONCE = 500

_HIDDEN = "SELECT id FROM streams WHERE deleted_at IS NOT NULL LIMIT 1"
_ORPHAN = "SELECT id, tenant_id FROM stream_groups WHERE stream_id = 0 LIMIT 1"
_A_STREAM = "SELECT id, name FROM streams WHERE tenant_id = ? LIMIT 1"
_A_GROUP = "SELECT id FROM stream_groups WHERE tenant_id = ? LIMIT 1"
_RETAINED = (
    "SELECT tenant_id, name FROM streams WHERE deleted_at IS NULL"
    " AND (max_length IS NOT NULL OR max_age_ms IS NOT NULL)"
)
_HOLDING = (
    "SELECT g.tenant_id, s.name, g.name FROM stream_groups g JOIN streams s ON s.id = g.stream_id"
    " WHERE g.pending > 0 AND s.deleted_at IS NULL"
)
_TRIMMED = "SELECT id FROM streams WHERE deleted_at IS NULL AND first_seq > 1"
_FIRST = "SELECT first_seq FROM streams WHERE id = ? AND deleted_at IS NULL"
_OLDEST = (
    "SELECT min((SELECT ms FROM stream_segments WHERE k BETWEEN s.id << 40 | s.first_seq"
    " AND s.id << 40 | ?1 ORDER BY k LIMIT 1)) FROM streams s WHERE s.deleted_at IS NULL"
)
_MOST_GROUPS = (
    "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM stream_groups WHERE stream_id > 0"
    " GROUP BY stream_id)"
)
_SEEN = "UPDATE stream_consumers SET seen_at = ?, active_at = coalesce(?, active_at) WHERE id = ?"
_GONE = (
    "SELECT c.id, c.group_id, c.name FROM stream_consumers c WHERE c.seen_at < ? AND NOT EXISTS"
    " (SELECT 1 FROM stream_leases WHERE k BETWEEN c.group_id << 40 AND c.group_id << 40 | ?"
    " AND consumer_id = c.id) LIMIT ?"
)


class SqliteStreamUpkeep:
    """The chores of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._has_looked = False
        self.kept = Kept()

    async def clean(self) -> bool:
        """Remove a slice of rows; whether more are left."""
        await self._look()
        return await self._store.writer.submit(self._clean, is_long=True)

    async def _look(self) -> None:
        """Find, once, what a server before this one left behind."""
        if self._has_looked:
            return
        store = self._store
        trimmed = await store.readers.run(_all_trimmed, deadline_s=60.0)
        holding = await store.readers.run(_all_holding, deadline_s=60.0)
        store.trimmed |= set(trimmed)
        store.holding.update(holding)
        self._has_looked = True

    def _clean(self, connection: apsw.Connection) -> bool:
        hidden = connection.execute(_HIDDEN).fetchone()
        if hidden is not None:
            return _remove_stream(connection, hidden[0])
        orphan = connection.execute(_ORPHAN).fetchone()
        if orphan is not None:
            return _remove_group(connection, *orphan)
        while self._store.trimmed:
            number = self._store.trimmed.pop()
            # From the file, not from memory: a number may be another stream's by now.
            row = connection.execute(_FIRST, (number,)).fetchone()
            if row and segments.remove_trimmed(connection, number, row[0], ROWS_AT_ONCE):
                self._store.trimmed.add(number)
                return True
        return False

    async def retain(self) -> None:
        """Trim every stream whose retention says so."""
        store = self._store
        due: list[Any] = await store.readers.run(lambda c: c.execute(_RETAINED).fetchall())
        for tenant_id, name in due:
            await store.change(tenant_id, name, self._retaining(tenant_id, name))

    def _retaining(self, tenant_id: int, name: str) -> Callable[[apsw.Connection], int]:
        store = self._store

        def work(connection: apsw.Connection) -> int:
            state = store.catalog.current(connection, tenant_id, name)
            if state is None:
                return 0
            max_length, max_age_ms = state.retention
            minid = None
            if max_age_ms is not None:
                minid = EventId(max(0, store.now_ms() - max_age_ms), 0)
            return trim_stream(connection, store, state, Trim(max_length, minid))

        return work

    async def sweep(self) -> None:
        """Look at what fell due since the last time."""
        await self._look()
        store = self._store
        for tenant_id, stream, group in list(store.holding):
            state = store.catalog.get(tenant_id, stream)
            known = None if state is None else state.groups.get(group)
            if known is not None and known.next_due_us > store.now_us():
                continue
            await store.change(tenant_id, stream, self._sweeping(tenant_id, stream, group))

    def _sweeping(
        self, tenant_id: int, stream: str, group: str
    ) -> Callable[[apsw.Connection], None]:
        store = self._store

        def work(connection: apsw.Connection) -> None:
            state = store.catalog.current(connection, tenant_id, stream)
            found = None if state is None else state.groups.get(group)
            if state is None or found is None or not found.pending:
                store.holding.discard((tenant_id, stream, group))
                return
            delivery.sweep(connection, store, state, found)
            found.save(connection)
            if found.next_due_us <= store.now_us():
                store.released(tenant_id, stream, group)

        return work

    async def flush(self) -> None:
        """Write down when consumers were seen, and forget those that have gone."""
        store = self._store
        seen, store.seen = store.seen, {}

        def work(connection: apsw.Connection) -> None:
            connection.executemany(
                _SEEN, [(seen_at, active_at, who) for who, (seen_at, active_at) in seen.items()]
            )

        if seen:
            await store.writer.submit(work, is_long=True)

    async def expire_consumers(self) -> None:
        """Forget consumers that have asked for nothing and held nothing for a week."""
        store = self._store
        before = store.now_ms() - CONSUMER_KEPT_MS

        def work(connection: apsw.Connection) -> None:
            gone = connection.execute(_GONE, (before, SEQ_MAX, ROWS_AT_ONCE)).fetchall()
            if gone:
                connection.executemany(
                    "DELETE FROM stream_consumers WHERE id = ?", [(row[0],) for row in gone]
                )
                # Their numbers are in memory too.
                store.catalog.forget_all()

        await store.writer.submit(work, is_long=True)

    def erase_tenant(self, connection: apsw.Connection, tenant_id: int, row_count_max: int) -> bool:
        """Remove some of a tenant's streams; whether there was something."""
        row = connection.execute(_A_STREAM, (tenant_id,)).fetchone()
        if row is not None:
            number, name = row
            self._store.forget(tenant_id, name)
            return _remove_stream(connection, number, row_count_max)
        row = connection.execute(_A_GROUP, (tenant_id,)).fetchone()
        return row is not None and _remove_group(connection, row[0], tenant_id, row_count_max)

    async def measure(self) -> None:
        """Look how much is kept."""

        def read(connection: apsw.Connection) -> tuple[int | None, int]:
            oldest = connection.execute(_OLDEST, (SEQ_MAX,)).get
            return oldest, connection.execute(_MOST_GROUPS).get

        oldest_ms, groups = await self._store.readers.run(read, deadline_s=60.0)
        age_ms = 0 if oldest_ms is None else max(0, self._store.now_ms() - oldest_ms)
        self.kept = Kept(age_ms / 3_600_000, groups)


def _remove_stream(
    connection: apsw.Connection, number: int, row_count_max: int = ROWS_AT_ONCE
) -> bool:
    """Remove a stream's rows, its own last; always True, since there may be more."""
    if not _remove_some(connection, "stream_segments", number, row_count_max):
        connection.execute(
            "UPDATE stream_groups SET stream_id = 0, name = id WHERE stream_id = ?", (number,)
        )
        connection.execute("DELETE FROM streams WHERE id = ?", (number,))
    return True


def _remove_group(
    connection: apsw.Connection, number: int, tenant_id: int, row_count_max: int = ROWS_AT_ONCE
) -> bool:
    """Remove a group's rows, its own last; always True, since there may be more."""
    if _remove_some(connection, "stream_leases", number, row_count_max):
        return True
    gone = connection.execute(
        "DELETE FROM stream_dead_letters WHERE (tenant_id, group_id, seq) IN"
        " (SELECT tenant_id, group_id, seq FROM stream_dead_letters WHERE tenant_id = ?"
        " AND group_id = ? LIMIT ?) RETURNING 1",
        (tenant_id, number, row_count_max),
    ).fetchall()
    if not gone:
        connection.execute("DELETE FROM stream_consumers WHERE group_id = ?", (number,))
        connection.execute("DELETE FROM stream_groups WHERE id = ?", (number,))
    return True


def _remove_some(connection: apsw.Connection, table: str, number: int, row_count_max: int) -> bool:
    """Remove rows of one packed number; whether there were any."""
    span = (key(number, 0), key(number, SEQ_MAX))
    gone = connection.execute(
        f"DELETE FROM {table} WHERE k IN (SELECT k FROM {table} WHERE k BETWEEN ? AND ?"
        " ORDER BY k LIMIT ?) RETURNING 1",
        (*span, row_count_max),
    ).fetchall()
    return bool(gone)


def _all_trimmed(connection: apsw.Connection) -> list[int]:
    return [number for (number,) in connection.execute(_TRIMMED)]


def _all_holding(connection: apsw.Connection) -> list[tuple[int, str, str]]:
    return [(tenant, stream, group) for tenant, stream, group in connection.execute(_HOLDING)]
