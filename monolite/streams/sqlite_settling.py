"""Acknowledging and giving back, in the writer's transaction."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

import apsw

from monolite.streams import sqlite_leases as leases
from monolite.streams import sqlite_segments as segments
from monolite.streams import tokens
from monolite.streams.event_id import EventId
from monolite.streams.group import Settled
from monolite.streams.sqlite_dead import bury
from monolite.streams.sqlite_leases import Held, Lease
from monolite.streams.sqlite_state import SEQ_MAX, GroupState, StreamState
from monolite.streams.sqlite_store import Store
from monolite.streams.tokens import Place, Tokens

# A lease with those of its bits that a call means.
_Part = tuple[Lease, int]


def ack(
    connection: apsw.Connection,
    state: StreamState,
    group: GroupState,
    marked: Tokens,
    ids: Sequence[EventId],
) -> Settled:
    """Events are done. The caller saves the group."""
    count = 0
    stale: list[str] = []
    for fence, places in marked.items():
        for lease, part in _held(connection, state, group, places, fence, stale):
            leases.clear(connection, group.number, lease, lease.bits & ~part)
            count += part.bit_count()
    for lease, part in _held(connection, state, group, ids, None, stale):
        leases.clear(connection, group.number, lease, lease.bits & ~part)
        count += part.bit_count()
    group.pending -= count
    return Settled(count, stale)


def nack(
    connection: apsw.Connection,
    store: Store,
    state: StreamState,
    group: GroupState,
    marked: Tokens,
    *,
    delay_ms: int,
    reason: str,
    counts: bool,
) -> Settled:
    """Events are given back, or were so too often. The caller saves the group."""
    count = dead = 0
    stale: list[str] = []
    due_us = store.now_us() + 1000 * delay_ms
    for fence, places in marked.items():
        for lease, part in _held(connection, state, group, places, fence, stale):
            taken = part.bit_count()
            if counts and lease.deliveries >= group.settings.max_deliveries:
                dead += _bury(connection, store, state, group, lease, part, reason)
            else:
                deliveries = lease.deliveries - (not counts)
                leases.hand_over(
                    connection, group.number, lease, part, Held(due_us, None, deliveries)
                )
            count += taken
    if count:
        group.next_due_us = min(group.next_due_us, due_us)
        store.released(state.tenant_id, state.name, group.name)
    return Settled(count, stale, dead)


def release_all(
    connection: apsw.Connection,
    store: Store,
    state: StreamState,
    group: GroupState,
    who: int,
    name: str,
) -> int:
    """Give back all that a consumer holds; returns how much. The caller saves the group."""
    now_us = store.now_us()
    held = [
        lease
        for lease in leases.between(connection, group.number, 0, SEQ_MAX)
        if lease.consumer == who
    ]
    for lease in held:
        if lease.deliveries >= group.settings.max_deliveries:
            _bury(connection, store, state, group, lease, lease.bits, f"{name} was deleted")
        else:
            released = Held(now_us, None, lease.deliveries)
            leases.hand_over(connection, group.number, lease, lease.bits, released)
    return sum(lease.pending for lease in held)


def _bury(
    connection: apsw.Connection,
    store: Store,
    state: StreamState,
    group: GroupState,
    lease: Lease,
    part: int,
    reason: str,
) -> int:
    dead = 0
    while part:
        died, settled = bury(connection, store, state, group, lease, part, reason)
        dead += died
        part &= ~settled
        lease = lease._replace(bits=lease.bits & ~settled)
    return dead


def _held(
    connection: apsw.Connection,
    state: StreamState,
    group: GroupState,
    places: Sequence[Place],
    fence: int | None,
    stale: list[str],
) -> Iterator[_Part]:
    """The leases of pending places, with the bits meant; tokens or ids of others go to `stale`.

    With a fence, only what was delivered under it and is still held.
    """
    seqs = sorted(_seqs(connection, state, places, fence, stale))
    at = 0
    while at < len(seqs):
        lease = leases.holding(connection, group.number, seqs[at])
        if lease is None:
            _refuse(connection, state, seqs[at], fence, stale)
            at += 1
            continue
        good = fence is None or (lease.at == fence and lease.consumer is not None)
        behind = bisect_left(seqs, lease.end, at)
        begin, width = seqs[at] - lease.first, behind - at
        if seqs[behind - 1] - seqs[at] == width - 1:
            # Places in a row, as they were delivered.
            meant = ((1 << width) - 1) << begin
        else:
            meant = sum([1 << (seq - lease.first) for seq in seqs[at:behind]])
        part = meant & lease.bits if good else 0
        if part != meant:
            for seq in seqs[at:behind]:
                if not part >> (seq - lease.first) & 1:
                    _refuse(connection, state, seq, fence, stale)
        at = behind
        if part:
            yield lease, part


def _seqs(
    connection: apsw.Connection,
    state: StreamState,
    places: Sequence[Place],
    fence: int | None,
    stale: list[str],
) -> set[int]:
    seqs = {place for place in places if isinstance(place, int) and place <= SEQ_MAX}
    if len(seqs) == len(places):
        return seqs
    for place in places:
        if isinstance(place, int):
            if place > SEQ_MAX:
                stale.append(tokens.text(fence or 0, place))
            continue
        seq = segments.seek(connection, state.number, state.first, state.last, place)
        if seq <= state.last and segments.id_at(connection, state.number, seq) == place:
            seqs.add(seq)
        else:
            stale.append(str(place) if fence is None else tokens.text(fence, place))
    return seqs


def _refuse(
    connection: apsw.Connection,
    state: StreamState,
    seq: int,
    fence: int | None,
    stale: list[str],
) -> None:
    if fence is not None:
        stale.append(tokens.text(fence, seq))
    else:
        stale.append(str(segments.id_at(connection, state.number, seq)))
