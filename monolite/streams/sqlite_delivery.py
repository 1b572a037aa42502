"""Delivering to consumers, in the writer's transaction."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from monolite.errors import Conflict
from monolite.streams import sqlite_leases as leases
from monolite.streams import sqlite_segments as segments
from monolite.streams.event import DeliveredRun
from monolite.streams.group import Read
from monolite.streams.sqlite_dead import bury, pick
from monolite.streams.sqlite_leases import Held, Lease
from monolite.streams.sqlite_segments import Piece
from monolite.streams.sqlite_state import GroupState, StreamState
from monolite.streams.sqlite_store import Store

CONSUMER_COUNT_MAX = 10_000
LOOKED_AT_ONCE = 64
"""Leases that one look takes from the index."""

BURIED_AT_ONCE = 1000
"""Events that one delivery gives up at most, before it leaves the rest to the next."""

_NEW_CONSUMER = (
    "INSERT INTO stream_consumers (tenant_id, group_id, name, seen_at) VALUES (?, ?, ?, ?)"
    " RETURNING id"
)


def read(
    connection: apsw.Connection,
    store: Store,
    state: StreamState,
    group: GroupState,
    consumer: str,
    count: int,
) -> Read:
    """Deliver what is due again, then new events. The caller saves the group."""
    now_us = store.now_us()
    who = known(connection, store, state, group, consumer)
    runs: list[DeliveredRun] = []
    if group.next_due_us <= now_us:
        idle_us = 1000 * group.settings.claim_idle_ms
        runs = again(connection, store, state, group, who, count, now_us, idle_us)
        count -= sum(len(run.pieces) for run in runs)
    room = group.settings.max_pending - group.pending
    position = max(group.position, state.first - 1)
    wanted = min(count, room, state.last - position)
    if wanted > 0:
        rows = store.catalog.rows
        pieces = segments.read(connection, state.number, position + 1, state.last, wanted, rows)
        runs += _deliver_new(connection, state, group, who, pieces, now_us)
    note(store, who, active=bool(runs))
    return Read(
        runs,
        backpressure=not runs and room <= 0,
        more=has_more(state, group, now_us),
        due_in_ms=None if runs else due_in_ms(group, now_us),
    )


def claim(
    connection: apsw.Connection,
    store: Store,
    state: StreamState,
    group: GroupState,
    consumer: str,
    min_idle_ms: int,
    count: int,
) -> Read:
    """Deliver what is released, and what others have held for long. The caller saves the group."""
    now_us = store.now_us()
    who = known(connection, store, state, group, consumer)
    runs = again(connection, store, state, group, who, count, now_us, 1000 * min_idle_ms)
    note(store, who, active=bool(runs))
    return Read(runs, due_in_ms=None if runs else due_in_ms(group, now_us))


def has_more(state: StreamState, group: GroupState, now_us: int) -> bool:
    """Whether someone who asked now might get something."""
    if group.pending and group.next_due_us <= now_us:
        return True
    return state.last > group.position and group.pending < group.settings.max_pending


def due_in_ms(group: GroupState, now_us: int) -> int | None:
    """When something may be due again; None where nothing is pending."""
    if not group.pending:
        return None
    return max(0, (group.next_due_us - now_us + 999) // 1000)


def again(
    connection: apsw.Connection,
    store: Store,
    state: StreamState,
    group: GroupState,
    who: int,
    count: int,
    now_us: int,
    idle_us: int,
) -> list[DeliveredRun]:
    """Deliver what nobody holds and is due, then what was held for `idle_us`; give up what was
    delivered often enough.
    """
    fence = group.next_fence(now_us)
    runs: list[DeliveredRun] = []
    buried = 0
    for released in (True, False):
        # What this call delivers is held from `fence` on.
        until_us = now_us if released else min(now_us - idle_us, fence - 1)
        while count > 0 and buried < BURIED_AT_ONCE:
            found = leases.due(
                connection,
                group.number,
                released=released,
                after_us=-1,
                until_us=until_us,
                limit=LOOKED_AT_ONCE,
            )
            for lease in found:
                if count <= 0 or buried >= BURIED_AT_ONCE:
                    break
                if lease.deliveries >= group.settings.max_deliveries:
                    reason = exhausted(group)
                    buried += bury(connection, store, state, group, lease, lease.bits, reason)[0]
                    continue
                pieces, part = pick(connection, state, lease, count)
                if not part:
                    leases.remove(connection, group.number, lease)
                    group.pending -= lease.pending
                    continue
                held = Held(fence, who, lease.deliveries + 1)
                leases.hand_over(connection, group.number, lease, part, held)
                count -= part.bit_count()
                runs += [
                    DeliveredRun(p.ms, p.n, p.pieces, lease.deliveries + 1, fence, p.seq)
                    for p in pieces
                ]
            if len(found) < LOOKED_AT_ONCE:
                break
    look_ahead(connection, group)
    return runs


def exhausted(group: GroupState) -> str:
    """Why an event that nobody acknowledged is dead."""
    return (
        f"not acknowledged within {group.settings.claim_idle_ms} ms of its delivery, "
        f"{group.settings.max_deliveries} times"
    )


def look_ahead(connection: apsw.Connection, group: GroupState) -> None:
    """Learn when the group's next lease falls due."""
    released = leases.next_at(connection, group.number, released=True)
    held = leases.next_at(connection, group.number, released=False)
    times = [] if released is None else [released]
    if held is not None:
        times.append(held + 1000 * group.settings.claim_idle_ms)
    group.next_due_us = min(times, default=2**62)


def sweep(connection: apsw.Connection, store: Store, state: StreamState, group: GroupState) -> bool:
    """Give up what was delivered often enough and fell due unseen; whether more is to be looked at.

    Leases fall due in the order of their fences, so each is looked at once. The caller saves.
    """
    until_us = store.now_us() - 1000 * group.settings.claim_idle_ms
    found = leases.due(
        connection,
        group.number,
        released=False,
        after_us=group.swept_us,
        until_us=until_us,
        limit=LOOKED_AT_ONCE,
    )
    for lease in found:
        if lease.deliveries >= group.settings.max_deliveries:
            reason, part = exhausted(group), lease.bits
            while part:
                _, settled = bury(connection, store, state, group, lease, part, reason)
                part &= ~settled
                lease = lease._replace(bits=part)
    if found:
        group.swept_us = found[-1].at
    look_ahead(connection, group)
    return len(found) == LOOKED_AT_ONCE


def known(
    connection: apsw.Connection,
    store: Store,
    state: StreamState,
    group: GroupState,
    consumer: str,
) -> int:
    """A consumer's number; it is made with its first call."""
    number = group.consumers.get(consumer)
    if number is None:
        if len(group.consumers) >= CONSUMER_COUNT_MAX:
            raise Conflict(
                f"The group has {CONSUMER_COUNT_MAX} consumers: name them for what stays, like a"
                " machine, or delete those that have gone.",
                code="too_many_consumers",
            )
        number = connection.execute(
            _NEW_CONSUMER, (state.tenant_id, group.number, consumer, store.now_ms())
        ).get
        group.consumers[consumer] = number
    return number


def _deliver_new(
    connection: apsw.Connection,
    state: StreamState,
    group: GroupState,
    who: int,
    pieces: Sequence[Piece],
    now_us: int,
) -> list[DeliveredRun]:
    if not pieces:
        return []
    fence = group.next_fence(now_us)
    first, last = pieces[0].seq, pieces[-1]
    end = last.seq + len(last.pieces)
    for begin in range(first, end, leases.BITS_MAX):
        width = min(leases.BITS_MAX, end - begin)
        leases.insert(connection, group.number, Lease(begin, fence, who, 1, (1 << width) - 1))
    group.position = end - 1
    group.position_id = last.last_id
    group.pending += end - first
    due_us = fence + 1000 * group.settings.claim_idle_ms
    group.next_due_us = min(group.next_due_us, due_us)
    return [DeliveredRun(ms, n, events, 1, fence, seq) for seq, ms, n, events in pieces]


def note(store: Store, who: int, *, active: bool) -> None:
    """A consumer asked, and got something where `active`."""
    now_ms = store.now_ms()
    store.seen[who] = (now_ms, now_ms if active else store.seen.get(who, (0, None))[1])
