"""Events that a group gave up: a row with a copy of each, and an event in the stream of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from monolite.streams import sqlite_leases as leases
from monolite.streams import sqlite_segments as segments
from monolite.streams.dead_letter import dead_event
from monolite.streams.event import parts
from monolite.streams.event_id import EventId
from monolite.streams.group import DeadLetter, Settled
from monolite.streams.sqlite_leases import Held, Lease
from monolite.streams.sqlite_segments import Piece
from monolite.streams.sqlite_state import SEQ_MAX, GroupState, StreamState
from monolite.streams.sqlite_store import Store
from monolite.streams.stream import dead_letters_of

_INSERT = (
    "INSERT OR REPLACE INTO stream_dead_letters (tenant_id, group_id, seq, ms, n, event,"
    " deliveries, reason, consumer, dead_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_LIST = (
    "SELECT ms, n, event, deliveries, reason, consumer, dead_at FROM stream_dead_letters"
    " WHERE tenant_id = ? AND group_id = ? AND (ms, n) > (?, ?) ORDER BY seq LIMIT ?"
)
_BETWEEN = (
    "SELECT seq, ms, n FROM stream_dead_letters WHERE tenant_id = ? AND group_id = ?"
    " AND seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"
)
_REMOVE = (
    "DELETE FROM stream_dead_letters WHERE tenant_id = ? AND group_id = ? AND seq BETWEEN ? AND ?"
)
_CONSUMER = "SELECT name FROM stream_consumers WHERE id = ?"


def bury(
    connection: apsw.Connection,
    store: Store,
    state: StreamState,
    group: GroupState,
    lease: Lease,
    part: int,
    reason: str,
) -> tuple[int, int]:
    """Give the bits `part` of a lease up; those that were trimmed are dropped.

    Returns how many are dead letters now, and the bits that are settled: what is too much for one
    call stays in the lease.
    """
    pieces, found = pick(connection, state, lease._replace(bits=part), part.bit_count())
    settled = part & ~_from(lease.first, part, state.first) | found if found else part
    leases.clear(connection, group.number, lease, lease.bits & ~settled)
    group.pending -= settled.bit_count()
    now_ms = store.now_ms()
    consumer = None
    if lease.consumer is not None:
        row: Any = connection.execute(_CONSUMER, (lease.consumer,)).fetchone()
        consumer = None if row is None else row[0]
    letters = []
    for piece in pieces:
        for at, event in enumerate(piece.pieces):
            id = EventId(piece.ms, piece.n + at)
            letter = DeadLetter(id, *parts(event), lease.deliveries, reason, consumer, now_ms)
            where = (state.tenant_id, group.number, piece.seq + at)
            connection.execute(_INSERT, (*where, *id, event, *letter[3:]))
            letters.append(letter)
    dead = dead_letters_of(state.name)
    if dead is not None and letters:
        log = store.made(connection, state.tenant_id, dead)
        store.append(connection, log, [dead_event(group.name, letter) for letter in letters])
    store.dead_count += len(letters)
    return len(letters), settled


def pick(
    connection: apsw.Connection, state: StreamState, lease: Lease, count: int
) -> tuple[list[Piece], int]:
    """The first `count` pending events of a lease that are still in the stream, and their bits."""
    bits = _from(lease.first, lease.bits, state.first)
    if not bits:
        return [], 0
    first = lease.first + (bits & -bits).bit_length() - 1
    found: list[Piece] = []
    part = 0
    for piece in segments.read(connection, state.number, first, lease.end - 1, lease.end - first):
        for begin, end in _ones(bits >> (piece.seq - lease.first), len(piece.pieces)):
            end = min(end, begin + count)
            found.append(
                Piece(piece.seq + begin, piece.ms, piece.n + begin, piece.pieces[begin:end])
            )
            part |= ((1 << (end - begin)) - 1) << (piece.seq - lease.first + begin)
            count -= end - begin
            if not count:
                return found, part
    return found, part


def _from(begin: int, bits: int, first: int) -> int:
    """The bits of a lease that begins at `begin` for the places from `first` on."""
    gone = max(0, first - begin)
    return bits >> gone << gone


def _ones(bits: int, width: int) -> list[tuple[int, int]]:
    """The ranges of set bits below `width`, as (begin, end)."""
    bits &= (1 << width) - 1
    ranges = []
    while bits:
        begin = (bits & -bits).bit_length() - 1
        # The lowest clear bit above them ends a range of ones.
        above = ~(bits >> begin)
        end = begin + (above & -above).bit_length() - 1
        ranges.append((begin, end))
        bits = bits >> end << end
    return ranges


def dead_letters(
    connection: apsw.Connection, tenant_id: int, group: int, after: EventId, limit: int
) -> Sequence[DeadLetter]:
    """A group's dead letters behind an id."""
    return [
        DeadLetter(EventId(ms, n), *parts(event), *how)
        for ms, n, event, *how in connection.execute(_LIST, (tenant_id, group, *after, limit))
    ]


def redrive(
    connection: apsw.Connection,
    store: Store,
    state: StreamState,
    group: GroupState,
    ids: Sequence[EventId] | None,
    limit: int,
) -> Settled:
    """Release dead letters that the stream still has; `stale` are the others."""
    who = (state.tenant_id, group.number)
    if ids is None:
        rows: list[Any] = connection.execute(_BETWEEN, (*who, 0, state.first - 1, limit)).fetchall()
        rows += connection.execute(_BETWEEN, (*who, state.first, SEQ_MAX, limit)).fetchall()
    else:
        wanted = msgspec.json.encode([list(id) for id in ids]).decode()
        rows = connection.execute(
            "SELECT seq, ms, n FROM stream_dead_letters WHERE tenant_id = ? AND group_id = ?"
            " AND (ms, n) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?)) ORDER BY seq",
            (*who, wanted),
        ).fetchall()
    there = [seq for seq, _, _ in rows if seq >= state.first]
    found = {EventId(ms, n) for _, ms, n in rows}
    stale = [str(EventId(ms, n)) for seq, ms, n in rows if seq < state.first]
    stale += [str(id) for id in ids or () if id not in found]
    count = release(connection, store, state, group, there)
    return Settled(count, stale)


def release(
    connection: apsw.Connection,
    store: Store,
    state: StreamState,
    group: GroupState,
    seqs: Sequence[int],
) -> int:
    """Let places that are not pending be delivered as if for the first time; returns how many."""
    if not seqs:
        return 0
    now_us = store.now_us()
    count = leases.put(connection, group.number, seqs, Held(now_us, None, 0))
    connection.executemany(_REMOVE, [(state.tenant_id, group.number, seq, seq) for seq in seqs])
    group.pending += count
    group.next_due_us = 0
    group.save(connection)
    store.released(state.tenant_id, state.name, group.name)
    return count
