"""What groups hold, as it is shown: reads of one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from monolite.streams import sqlite_leases as leases
from monolite.streams import sqlite_segments as segments
from monolite.streams.event_id import EventId
from monolite.streams.group import Consumer, Group, Pending, PendingSummary
from monolite.streams.sqlite_state import (
    SEQ_MAX,
    GroupState,
    StreamState,
    key,
    load_groups,
    load_log,
)

_COUNTS = (
    "SELECT (SELECT count(*) FROM stream_dead_letters WHERE tenant_id = ?1 AND group_id = ?2),"
    " (SELECT count(*) FROM stream_consumers WHERE group_id = ?2)"
)
_BY_CONSUMER = (
    "SELECT name, sum(count) FROM stream_leases JOIN stream_consumers"
    " ON stream_consumers.id = consumer_id WHERE k BETWEEN ? AND ? GROUP BY name ORDER BY name"
)
_CONSUMERS = (
    "SELECT name, (SELECT coalesce(sum(count), 0) FROM stream_leases"
    " WHERE k BETWEEN ?2 AND ?3 AND consumer_id = stream_consumers.id), id, seen_at, active_at"
    " FROM stream_consumers WHERE group_id = ?1 ORDER BY name"
)
_NAMES = "SELECT id, name FROM stream_consumers WHERE group_id = ?"


def found(
    connection: apsw.Connection, tenant_id: int, stream: str, group: str
) -> tuple[StreamState, GroupState] | None:
    """A stream and one of its groups, as committed."""
    state = load_log(connection, tenant_id, stream)
    if state is None:
        return None
    for each in load_groups(connection, state):
        if each.name == group:
            return state, each
    return None


def shown(connection: apsw.Connection, state: StreamState, group: GroupState) -> Group:
    """A group with its counts."""
    counts: Any = connection.execute(_COUNTS, (state.tenant_id, group.number)).fetchone()
    dead, consumer_count = counts
    return Group(
        name=group.name,
        settings=group.settings,
        last_delivered_id=group.position_id,
        pending=group.pending,
        lag=state.last - max(group.position, state.first - 1),
        dead=dead,
        consumer_count=consumer_count,
        created_at=group.created_at,
    )


def pending(
    connection: apsw.Connection,
    state: StreamState,
    group: GroupState,
    first: EventId,
    last: EventId,
    count: int,
    now_us: int,
    *,
    consumer: str | None,
    min_idle_ms: int,
) -> Sequence[Pending]:
    """What a group holds between two ids."""
    begin = segments.seek(connection, state.number, state.first, state.last, first)
    known: list[Any] = connection.execute(_NAMES, (group.number,)).fetchall()
    names: dict[int, str] = dict(known)
    covering = leases.holding(connection, group.number, begin)
    start = begin if covering is None else covering.first
    listed: list[Pending] = []
    for lease in leases.between(connection, group.number, start, SEQ_MAX):
        name = None if lease.consumer is None else names.get(lease.consumer)
        idle_ms = 0 if name is None else max(0, (now_us - lease.at) // 1000)
        if idle_ms < min_idle_ms or (consumer is not None and name != consumer):
            continue
        for id in _ids(connection, state, lease, begin):
            if id > last or len(listed) == count:
                return listed
            listed.append(Pending(id, name, idle_ms, lease.deliveries))
    return listed


def summary(connection: apsw.Connection, state: StreamState, group: GroupState) -> PendingSummary:
    """How much a group holds, and who."""
    span = (key(group.number, 0), key(group.number, SEQ_MAX))
    ends: list[EventId] = []
    for lease in leases.between(connection, group.number, 0, SEQ_MAX):
        ends += _ids(connection, state, lease, state.first)[:1]
        if ends:
            break
    newest = leases.last_of(connection, group.number)
    if newest is not None:
        ends += _ids(connection, state, newest, state.first)[-1:]
    by_consumer = [
        (str(name), int(count)) for name, count in connection.execute(_BY_CONSUMER, span)
    ]
    return PendingSummary(
        group.pending, ends[0] if ends else None, ends[-1] if ends else None, by_consumer
    )


def consumers(
    connection: apsw.Connection,
    group: GroupState,
    seen: dict[int, tuple[int, int | None]],
) -> Sequence[Consumer]:
    """Everyone who ever asked; `seen` is what has not been written down yet."""
    span = (key(group.number, 0), key(group.number, SEQ_MAX))
    listed = []
    for name, count, number, seen_at, active_at in connection.execute(
        _CONSUMERS, (group.number, *span)
    ):
        seen_at, newly_active = seen.get(number, (seen_at, active_at))
        listed.append(Consumer(name, count, seen_at, newly_active or active_at))
    return listed


def _ids(
    connection: apsw.Connection, state: StreamState, lease: leases.Lease, begin: int
) -> list[EventId]:
    """The ids of a lease's pending places from `begin` on that the stream still has."""
    ids: list[EventId] = []
    segment = None
    for seq in lease.places():
        if seq < max(begin, state.first):
            continue
        if segment is None or seq >= segment.seq + segment.size:
            segment = segments.segment_at(connection, state.number, seq)
        if segment is not None:
            ids.append(EventId(segment.ms, segment.n + seq - segment.seq))
    return ids
