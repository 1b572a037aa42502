"""Groups of consumers in SQLite."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

import apsw

from monolite.streams import sqlite_delivery as delivery
from monolite.streams import sqlite_holdings as holdings
from monolite.streams import sqlite_leases as leases
from monolite.streams import sqlite_segments as segments
from monolite.streams import sqlite_settling as settling
from monolite.streams.engine import Also
from monolite.streams.event_id import EventId
from monolite.streams.group import (
    Consumer,
    DeadLetter,
    Group,
    GroupSettings,
    Pending,
    PendingSummary,
    Read,
    Settled,
)
from monolite.streams.sqlite_dead import dead_letters, redrive, release
from monolite.streams.sqlite_state import (
    SEQ_MAX,
    GroupState,
    StreamState,
    free_number,
    key,
    load_groups,
    load_log,
)
from monolite.streams.sqlite_store import Store
from monolite.streams.tokens import Tokens
from monolite.streams.waiting import Place

T = TypeVar("T")

_INSERT = (
    "INSERT INTO stream_groups (id, tenant_id, stream_id, name, position, position_ms, position_n,"
    " fence, pending, max_deliveries, claim_idle_ms, max_pending, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?, ?)"
)
_SETTINGS = (
    "UPDATE stream_groups SET max_deliveries = ?, claim_idle_ms = ?, max_pending = ? WHERE id = ?"
)


class SqliteGroupEngine:
    """The embedded GroupEngine."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # ── Groups ─────────────────────────────────────────────────────────────────────────────────

    async def put_group(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        start: EventId | None,
        settings: GroupSettings,
    ) -> tuple[Group, bool]:
        store = self._store

        def work(connection: apsw.Connection) -> tuple[Group, bool]:
            state = store.made(connection, tenant_id, stream)
            found = state.groups.get(group)
            is_new = found is None
            if found is None:
                found = make_group(connection, state, group, start, settings, store.now_ms())
            else:
                found.settings = settings
                found.next_due_us, found.swept_us = 0, -1
                connection.execute(_SETTINGS, (*settings, found.number))
                store.released(tenant_id, stream, group)
            return holdings.shown(connection, state, found), is_new

        return await store.change(tenant_id, stream, work)

    async def group(self, tenant_id: int, stream: str, group: str) -> Group | None:
        return await self._look_at(
            tenant_id, stream, group, lambda c, state, found: holdings.shown(c, state, found)
        )

    async def groups(self, tenant_id: int, stream: str) -> Sequence[Group] | None:
        def look(connection: apsw.Connection) -> Sequence[Group] | None:
            state = load_log(connection, tenant_id, stream)
            if state is None:
                return None
            found = load_groups(connection, state)
            return [holdings.shown(connection, state, group) for group in found]

        return await self._store.look(look)

    async def move_group(
        self, tenant_id: int, stream: str, group: str, start: EventId | None
    ) -> Group:
        def work(connection: apsw.Connection, state: StreamState, found: GroupState) -> Group:
            found.position, found.position_id = _position(connection, state, start)
            # What lies behind it is delivered anew, and so is held no more.
            span = (key(found.number, found.position + 1), key(found.number, SEQ_MAX))
            _drop_behind(connection, found, found.position)
            connection.execute("DELETE FROM stream_leases WHERE k BETWEEN ? AND ?", span)
            found.pending = connection.execute(
                "SELECT coalesce(sum(count), 0) FROM stream_leases WHERE k BETWEEN ? AND ?",
                (key(found.number, 0), key(found.number, SEQ_MAX)),
            ).get
            found.next_due_us = 0
            self._store.released(tenant_id, stream, group)
            return holdings.shown(connection, state, found)

        return await self._change(tenant_id, stream, group, work, is_long=True)

    async def delete_group(self, tenant_id: int, stream: str, group: str) -> bool:
        store = self._store

        def work(connection: apsw.Connection) -> bool:
            state = store.existing(connection, tenant_id, stream)
            found = state.groups.pop(group, None)
            if found is None:
                return False
            # Its rows are upkeep's, under a stream that nobody has.
            connection.execute(
                "UPDATE stream_groups SET stream_id = 0, name = ? WHERE id = ?",
                (str(found.number), found.number),
            )
            store.released(tenant_id, stream, group)
            return True

        existed = await store.change(tenant_id, stream, work)
        store.work_waits.set()
        return existed

    # ── Consuming ──────────────────────────────────────────────────────────────────────────────

    def read(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        consumer: str,
        count: int,
        *,
        ack: Tokens | None = None,
        also: Also = None,
    ) -> Awaitable[Read]:
        if ack is None and also is None:
            nothing = self._nothing(tenant_id, stream, group, consumer)
            if nothing is not None:
                return _ready(nothing)

        def work(connection: apsw.Connection, state: StreamState, found: GroupState) -> Read:
            settled = settling.ack(connection, state, found, ack or {}, ())
            got = delivery.read(connection, self._store, state, found, consumer, count)
            got = got._replace(acked=settled.changed, stale=settled.stale)
            if also is not None:
                also(connection, got)
            return got

        return self._change(tenant_id, stream, group, work)

    def ack(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        tokens: Tokens,
        ids: Sequence[EventId] = (),
        also: Also = None,
    ) -> Awaitable[Settled]:
        def work(connection: apsw.Connection, state: StreamState, found: GroupState) -> Settled:
            settled = settling.ack(connection, state, found, tokens, ids)
            if also is not None:
                also(connection, settled)
            return settled

        return self._change(tenant_id, stream, group, work)

    async def nack(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        tokens: Tokens,
        *,
        delay_ms: int,
        reason: str,
        counts: bool = True,
    ) -> Settled:
        def work(connection: apsw.Connection, state: StreamState, found: GroupState) -> Settled:
            return settling.nack(
                connection,
                self._store,
                state,
                found,
                tokens,
                delay_ms=delay_ms,
                reason=reason,
                counts=counts,
            )

        return await self._change(tenant_id, stream, group, work)

    async def claim(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        consumer: str,
        min_idle_ms: int,
        count: int,
    ) -> Read:
        def work(connection: apsw.Connection, state: StreamState, found: GroupState) -> Read:
            return delivery.claim(
                connection, self._store, state, found, consumer, min_idle_ms, count
            )

        return await self._change(tenant_id, stream, group, work)

    def waiting(self, tenant_id: int, stream: str, group: str) -> AbstractContextManager[Place]:
        return self._store.waiting.stand((tenant_id, stream), group)

    def pass_on(self, tenant_id: int, stream: str, group: str) -> None:
        self._store.waiting.call_one((tenant_id, stream), group)

    # ── What is held ───────────────────────────────────────────────────────────────────────────

    async def pending(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        first: EventId,
        last: EventId,
        count: int,
        *,
        consumer: str | None = None,
        min_idle_ms: int = 0,
    ) -> Sequence[Pending] | None:
        now_us = self._store.now_us()
        return await self._look_at(
            tenant_id,
            stream,
            group,
            lambda connection, state, found: holdings.pending(
                *(connection, state, found, first, last, count, now_us),
                consumer=consumer,
                min_idle_ms=min_idle_ms,
            ),
        )

    async def pending_summary(
        self, tenant_id: int, stream: str, group: str
    ) -> PendingSummary | None:
        return await self._look_at(tenant_id, stream, group, holdings.summary)

    async def consumers(self, tenant_id: int, stream: str, group: str) -> Sequence[Consumer] | None:
        seen = self._store.seen
        return await self._look_at(
            tenant_id, stream, group, lambda c, _, found: holdings.consumers(c, found, seen)
        )

    async def delete_consumer(
        self, tenant_id: int, stream: str, group: str, consumer: str
    ) -> int | None:
        def work(connection: apsw.Connection, state: StreamState, found: GroupState) -> int | None:
            number = found.consumers.pop(consumer, None)
            if number is None:
                return None
            released = settling.release_all(connection, self._store, state, found, number, consumer)
            connection.execute("DELETE FROM stream_consumers WHERE id = ?", (number,))
            self._store.seen.pop(number, None)
            found.next_due_us = 0
            self._store.released(tenant_id, stream, group)
            return released

        return await self._change(tenant_id, stream, group, work, is_long=True)

    # ── Dead letters ───────────────────────────────────────────────────────────────────────────

    async def dead(
        self, tenant_id: int, stream: str, group: str, after: EventId, limit: int
    ) -> Sequence[DeadLetter] | None:
        return await self._look_at(
            tenant_id,
            stream,
            group,
            lambda connection, _, found: dead_letters(
                connection, tenant_id, found.number, after, limit
            ),
        )

    async def redrive(
        self, tenant_id: int, stream: str, group: str, ids: Sequence[EventId] | None, limit: int
    ) -> Settled:
        def work(connection: apsw.Connection, state: StreamState, found: GroupState) -> Settled:
            return redrive(connection, self._store, state, found, ids, limit)

        return await self._change(tenant_id, stream, group, work, is_long=True)

    async def hasten(self, tenant_id: int, stream: str, group: str) -> None:
        def work(connection: apsw.Connection, state: StreamState, found: GroupState) -> None:
            leases.hasten(connection, found.number, self._store.now_us())
            found.next_due_us = 0
            self._store.released(tenant_id, stream, group)

        await self._change(tenant_id, stream, group, work, is_long=True)

    async def redeliver(
        self, tenant_id: int, stream: str, group: str, first: EventId, last: EventId, limit: int
    ) -> int:
        def work(connection: apsw.Connection, state: StreamState, found: GroupState) -> int:
            begin = segments.seek(connection, state.number, state.first, state.last, first)
            end = segments.seek(connection, state.number, begin, state.last, last)
            if end > state.last or segments.id_at(connection, state.number, end) != last:
                end -= 1
            end = min(end, found.position, begin + limit - 1)
            return release(connection, self._store, state, found, range(begin, end + 1))

        return await self._change(tenant_id, stream, group, work, is_long=True)

    # ── Inside ─────────────────────────────────────────────────────────────────────────────────

    def _change(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        work: Callable[[apsw.Connection, StreamState, GroupState], T],
        *,
        is_long: bool = False,
    ) -> Awaitable[T]:
        store = self._store

        def saved(connection: apsw.Connection) -> T:
            state, found = store.existing_group(connection, tenant_id, stream, group)
            value = work(connection, state, found)
            found.save(connection)
            if found.pending:
                store.holding.add((tenant_id, stream, group))
            return value

        return store.change(tenant_id, stream, saved, is_long=is_long)

    async def _look_at(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        read: Callable[[apsw.Connection, StreamState, GroupState], T],
    ) -> T | None:
        def look(connection: apsw.Connection) -> T | None:
            found = holdings.found(connection, tenant_id, stream, group)
            return None if found is None else read(connection, *found)

        return await self._store.look(look)

    def _nothing(self, tenant_id: int, stream: str, group: str, consumer: str) -> Read | None:
        """An empty answer, where memory knows without a write that there is nothing to deliver."""
        store = self._store
        state = store.catalog.get(tenant_id, stream)
        found = None if state is None else state.groups.get(group)
        if state is None or found is None or consumer not in found.consumers:
            return None
        now_us = store.now_us()
        if found.pending >= found.settings.max_pending or delivery.has_more(state, found, now_us):
            return None
        delivery.note(store, found.consumers[consumer], active=False)
        return Read((), due_in_ms=delivery.due_in_ms(found, now_us))


async def _ready(value: T) -> T:
    return value


def make_group(
    connection: apsw.Connection,
    state: StreamState,
    name: str,
    start: EventId | None,
    settings: GroupSettings,
    now_ms: int,
) -> GroupState:
    """Make a group that goes on behind `start`, now where that is None."""
    number = free_number(connection, "stream_groups")
    position, id = _position(connection, state, start)
    connection.execute(
        _INSERT,
        (number, state.tenant_id, state.number, name, position, *id, *settings, now_ms),
    )
    group = GroupState(number, name, position, id, 0, 0, settings, now_ms)
    state.groups[name] = group
    return group


def _position(
    connection: apsw.Connection, state: StreamState, start: EventId | None
) -> tuple[int, EventId]:
    """The last place at or before an id, and the id."""
    if start is None or start >= state.last_id:
        return state.last, state.last_id
    at = segments.seek(connection, state.number, state.first, state.last, start)
    if segments.id_at(connection, state.number, at) != start:
        at -= 1
    return at, start


def _drop_behind(connection: apsw.Connection, group: GroupState, position: int) -> None:
    """Shorten the lease that goes beyond a place."""
    lease = leases.holding(connection, group.number, position)
    if lease is not None:
        width = position - lease.first + 1
        leases.clear(connection, group.number, lease, lease.bits & ((1 << width) - 1))
