"""Streams and groups as the writer knows them: their counters in memory, their rows in the file.

Every change of a counter is written in the transaction that makes it. What is kept here is the
state after the writer's last statement, so nothing is read back before a write; a write that
failed lets go of the stream it touched, and the next one reads it again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import apsw

from monolite.errors import OutOfSpace
from monolite.streams.event_id import EventId
from monolite.streams.group import GroupSettings
from monolite.streams.stream import Retention

SEQ_BITS = 40
"""Of a packed key; above them is the number of a stream or a group."""

SEQ_MAX = (1 << SEQ_BITS) - 1
NUMBER_MAX = (1 << 63 - SEQ_BITS) - 1
KEPT_COUNT_MAX = 10_000
ROWS_KEPT = 64

_STREAM = (
    "SELECT id, name, first_seq, last_seq, last_ms, last_n, max_length, max_age_ms, created_at"
    " FROM streams WHERE tenant_id = ? AND name = ? AND deleted_at IS NULL"
)
_NEWEST = (
    "SELECT k, ms, n, count FROM stream_segments WHERE k BETWEEN ? AND ? ORDER BY k DESC LIMIT 1"
)
_GROUPS = (
    "SELECT id, name, position, position_ms, position_n, fence, pending, max_deliveries,"
    " claim_idle_ms, max_pending, created_at FROM stream_groups WHERE tenant_id = ?"
    " AND stream_id = ? ORDER BY name"
)
_CONSUMERS = "SELECT name, id FROM stream_consumers WHERE group_id = ?"
_SAVE_GROUP = (
    "UPDATE stream_groups SET position = ?, position_ms = ?, position_n = ?, fence = ?,"
    " pending = ? WHERE id = ?"
)


def key(number: int, seq: int) -> int:
    """A packed key: the number of a stream or a group above, a place in the stream below."""
    return number << SEQ_BITS | seq


def free_number(connection: apsw.Connection, table: Literal["streams", "stream_groups"]) -> int:
    """A number for a new stream or group. Rows under a number go before its own row does, so one
    may come again, and does once the greatest is in use.
    """
    number: int = connection.execute(f"SELECT coalesce(max(id), 0) + 1 FROM {table}").get
    if number > NUMBER_MAX:
        number = connection.execute(
            f"SELECT min(id) + 1 FROM {table} AS taken"
            f" WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE id = taken.id + 1)"
        ).get
    if number > NUMBER_MAX:
        raise OutOfSpace(f"There are {NUMBER_MAX} of these already; delete some.")
    return number


class GroupState:
    """A group's counters. `position` is the last place delivered, and its id beside it.

    `next_due_us` is never later than when the next of its leases falls due, 0 where that is not
    known. Leases up to `swept_us` were looked at for ones that are exhausted.
    """

    __slots__ = (
        "consumers",
        "created_at",
        "fence",
        "name",
        "next_due_us",
        "number",
        "pending",
        "position",
        "position_id",
        "settings",
        "swept_us",
    )

    def __init__(
        self,
        number: int,
        name: str,
        position: int,
        position_id: EventId,
        fence: int,
        pending: int,
        settings: GroupSettings,
        created_at: int,
    ) -> None:
        self.number = number
        self.name = name
        self.position = position
        self.position_id = position_id
        self.fence = fence
        self.pending = pending
        self.settings = settings
        self.created_at = created_at
        self.consumers: dict[str, int] = {}
        self.next_due_us = 0
        self.swept_us = -1

    def save(self, connection: apsw.Connection) -> None:
        """Write the counters down."""
        connection.execute(
            _SAVE_GROUP,
            (self.position, *self.position_id, self.fence, self.pending, self.number),
        )

    def next_fence(self, now_us: int) -> int:
        """The fence of a delivery made now; it only grows."""
        self.fence = max(now_us, self.fence + 1)
        return self.fence


class StreamState:
    """A stream's counters: it holds the places `first` to `last`; `ms` and `n` are the last id."""

    __slots__ = (
        "created_at",
        "first",
        "groups",
        "last",
        "ms",
        "n",
        "name",
        "number",
        "retention",
        "tenant_id",
    )

    def __init__(
        self,
        tenant_id: int,
        number: int,
        name: str,
        first: int,
        last: int,
        last_id: EventId,
        retention: Retention,
        created_at: int,
    ) -> None:
        self.tenant_id = tenant_id
        self.number = number
        self.name = name
        self.first = first
        self.last = last
        self.ms, self.n = last_id
        self.retention = retention
        self.created_at = created_at
        self.groups: dict[str, GroupState] = {}

    @property
    def last_id(self) -> EventId:
        """The greatest id it ever had."""
        return EventId(self.ms, self.n)

    @property
    def length(self) -> int:
        """How many events it holds."""
        return self.last - self.first + 1


class RowRead(NamedTuple):
    """A row of events, taken apart: those from the place `seq` on, with their first id."""

    seq: int
    ms: int
    n: int
    pieces: Sequence[bytes]


class RowsRead:
    """The row that deliveries read last, of some streams.

    A row of a hundred events is read by two consumers, or in two halves, and never changes. A
    number may come again, so what is known of a stream is forgotten with its state.
    """

    def __init__(self) -> None:
        self._rows: OrderedDict[int, RowRead] = OrderedDict()

    def get(self, number: int, seq: int) -> RowRead | None:
        """The row that holds a place, where it is known."""
        row = self._rows.get(number)
        return row if row is not None and 0 <= seq - row.seq < len(row.pieces) else None

    def put(self, number: int, row: RowRead) -> None:
        """Remember a row as the last of its stream."""
        self._rows[number] = row
        self._rows.move_to_end(number)
        if len(self._rows) > ROWS_KEPT:
            self._rows.popitem(last=False)

    def forget(self, number: int) -> None:
        """A stream's row may be another's soon."""
        self._rows.pop(number, None)


class Catalog:
    """The streams in use, by tenant and name."""

    def __init__(self) -> None:
        self._streams: OrderedDict[tuple[int, str], StreamState] = OrderedDict()
        self.rows = RowsRead()

    def get(self, tenant_id: int, name: str) -> StreamState | None:
        """A stream that is known without a look into the file."""
        return self._streams.get((tenant_id, name))

    def current(self, connection: apsw.Connection, tenant_id: int, name: str) -> StreamState | None:
        """A stream as it is on the writer's connection; None where there is none."""
        found = self._streams.get((tenant_id, name))
        if found is not None:
            self._streams.move_to_end((tenant_id, name))
            return found
        state = load(connection, tenant_id, name)
        if state is not None:
            self._streams[tenant_id, name] = state
            if len(self._streams) > KEPT_COUNT_MAX:
                _, dropped = self._streams.popitem(last=False)
                self.rows.forget(dropped.number)
        return state

    def make(
        self,
        connection: apsw.Connection,
        tenant_id: int,
        name: str,
        now_ms: int,
        retention: Retention | None = None,
    ) -> StreamState:
        """Make a stream that is not there, in the writer's transaction."""
        kept = retention or Retention()
        number = free_number(connection, "streams")
        connection.execute(
            "INSERT INTO streams (id, tenant_id, name, first_seq, last_seq, last_ms, last_n,"
            " max_length, max_age_ms, created_at) VALUES (?, ?, ?, 1, 0, 0, 0, ?, ?, ?)",
            (number, tenant_id, name, *kept, now_ms),
        )
        state = StreamState(tenant_id, number, name, 1, 0, EventId(0, 0), kept, now_ms)
        self._streams[tenant_id, name] = state
        return state

    def forget(self, tenant_id: int, name: str) -> None:
        """Read it again before its next use."""
        state = self._streams.pop((tenant_id, name), None)
        if state is not None:
            self.rows.forget(state.number)

    def forget_all(self) -> None:
        """Read every stream again."""
        self._streams.clear()
        self.rows = RowsRead()


def load(connection: apsw.Connection, tenant_id: int, name: str) -> StreamState | None:
    """A stream with its groups, from its rows."""
    state = load_log(connection, tenant_id, name)
    if state is None:
        return None
    for group in load_groups(connection, state):
        known: list[Any] = connection.execute(_CONSUMERS, (group.number,)).fetchall()
        group.consumers.update(known)
        state.groups[group.name] = group
    return state


def load_groups(connection: apsw.Connection, state: StreamState) -> list[GroupState]:
    """A stream's groups by name, without their consumers."""
    groups = []
    for row in connection.execute(_GROUPS, (state.tenant_id, state.number)):
        number, name, position, ms, n, fence, pending, *settings, created_at = row
        groups.append(
            GroupState(
                *(number, name, position, EventId(ms, n), fence, pending),
                *(GroupSettings(*settings), created_at),
            )
        )
    return groups


def load_log(connection: apsw.Connection, tenant_id: int, name: str) -> StreamState | None:
    """A stream without its groups."""
    row = connection.execute(_STREAM, (tenant_id, name)).fetchone()
    if row is None:
        return None
    number, name, first, last, ms, n, max_length, max_age_ms, created_at = row
    newest = connection.execute(_NEWEST, (key(number, 0), key(number, SEQ_MAX))).fetchone()
    if newest is not None:
        # Appends write no row but their own: the newest segment says where the stream ends.
        k, ms, first_n, count = newest
        last, n = (k & SEQ_MAX) + count - 1, first_n + count - 1
    return StreamState(
        *(tenant_id, number, name, first, last, EventId(ms, n)),
        Retention(max_length, max_age_ms),
        created_at,
    )
