"""What groups hold, in SQLite: a row for each range of places that was delivered together.

    k = group << 40 | first seq    at              consumer   deliveries   count   bits
    3<<40 | 101                    1763871234…     7          1            48      01111…1011

`bits` has one for each place from the first, least significant first, set while it is pending;
`count` is how many are. Ranges of a group never overlap, so a place is in the last row at or below
it, or in none. `at` is the delivery's fence (microseconds) while a consumer holds the range, and
when it may be delivered again once nobody does. An ack clears bits; what is given back, claimed in
part or redriven splits the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import apsw

from monolite.streams.sqlite_state import SEQ_MAX, key

BITS_MAX = 1024
"""Of one row."""

_COLUMNS = "k, at, consumer_id, deliveries, count, bits"
_BELOW = f"SELECT {_COLUMNS} FROM stream_leases WHERE k BETWEEN ? AND ? ORDER BY k DESC LIMIT 1"
_BETWEEN = f"SELECT {_COLUMNS} FROM stream_leases WHERE k BETWEEN ? AND ? ORDER BY k"
_INSERT = f"INSERT INTO stream_leases ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM stream_leases WHERE k = ?"
_CLEAR = "UPDATE stream_leases SET count = ?, bits = ? WHERE k = ?"
_HAND_OVER = "UPDATE stream_leases SET at = ?, consumer_id = ?, deliveries = ? WHERE k = ?"
_HASTEN = (
    "UPDATE stream_leases SET at = ? WHERE k BETWEEN ? AND ? AND consumer_id IS NULL AND at > ?"
)
# `k >> 40` and `consumer_id IS NULL` are the index's own expressions, spelled alike.
_DUE = (
    f"SELECT {_COLUMNS} FROM stream_leases INDEXED BY stream_leases_by_time WHERE k >> 40 = ?"
    " AND (consumer_id IS NULL) = ? AND at > ? AND at <= ? ORDER BY at LIMIT ?"
)
_NEXT = (
    "SELECT at FROM stream_leases INDEXED BY stream_leases_by_time WHERE k >> 40 = ?"
    " AND (consumer_id IS NULL) = ? ORDER BY at LIMIT 1"
)


class Lease(NamedTuple):
    """A range of places; bit i of `bits` says that `first` + i is pending."""

    first: int
    at: int
    consumer: int | None
    deliveries: int
    bits: int

    @property
    def end(self) -> int:
        """The place behind the range."""
        return self.first + self.bits.bit_length()

    @property
    def pending(self) -> int:
        """How many places are pending."""
        return self.bits.bit_count()

    def places(self) -> Iterator[int]:
        """The pending places, ascending."""
        first, bits = self.first, self.bits
        while bits:
            low = bits & -bits
            yield first + low.bit_length() - 1
            bits ^= low


class Held(NamedTuple):
    """How places are held: a lease without its range."""

    at: int
    consumer: int | None
    deliveries: int


def holding(connection: apsw.Connection, group: int, seq: int) -> Lease | None:
    """The lease whose range covers a place; its bit may be clear."""
    row = connection.execute(_BELOW, (key(group, 0), key(group, seq))).fetchone()
    lease = None if row is None else _lease(row)
    return lease if lease is not None and seq < lease.end else None


def between(connection: apsw.Connection, group: int, first: int, last: int) -> Iterator[Lease]:
    """The leases that begin at `first` or later, up to `last`."""
    for row in connection.execute(_BETWEEN, (key(group, first), key(group, last))):
        yield _lease(row)


def last_of(connection: apsw.Connection, group: int) -> Lease | None:
    """A group's lease of the greatest places."""
    row = connection.execute(_BELOW, (key(group, 0), key(group, SEQ_MAX))).fetchone()
    return None if row is None else _lease(row)


def due(
    connection: apsw.Connection,
    group: int,
    *,
    released: bool,
    after_us: int,
    until_us: int,
    limit: int,
) -> list[Lease]:
    """Leases nobody holds (`released`), or somebody does, by their time."""
    rows = connection.execute(_DUE, (group, released, after_us, until_us, limit)).fetchall()
    return [_lease(row) for row in rows]


def next_at(connection: apsw.Connection, group: int, *, released: bool) -> int | None:
    """The least time of the leases that nobody holds (`released`), or somebody does."""
    row = connection.execute(_NEXT, (group, released)).fetchone()
    return None if row is None else row[0]


def insert(connection: apsw.Connection, group: int, lease: Lease) -> None:
    """Store a lease whose range is free."""
    bits = lease.bits
    connection.execute(
        _INSERT,
        (
            *(key(group, lease.first), lease.at, lease.consumer, lease.deliveries),
            *(bits.bit_count(), bits.to_bytes((bits.bit_length() + 7) // 8, "little")),
        ),
    )


def remove(connection: apsw.Connection, group: int, lease: Lease) -> None:
    """Remove a lease."""
    connection.execute(_DELETE, (key(group, lease.first),))


def clear(connection: apsw.Connection, group: int, lease: Lease, bits: int) -> None:
    """Let only `bits` of it be pending; without any the row goes."""
    if not bits:
        remove(connection, group, lease)
        return
    size = (bits.bit_length() + 7) // 8
    connection.execute(
        _CLEAR, (bits.bit_count(), bits.to_bytes(size, "little"), key(group, lease.first))
    )


def hasten(connection: apsw.Connection, group: int, now_us: int) -> None:
    """Let all that nobody holds be due now."""
    connection.execute(_HASTEN, (now_us, key(group, 0), key(group, SEQ_MAX), now_us))


def hand_over(connection: apsw.Connection, group: int, lease: Lease, part: int, held: Held) -> None:
    """Let the bits `part` of a lease be held otherwise; the rest stays as it is."""
    rest = lease.bits & ~part
    if not rest:
        connection.execute(_HAND_OVER, (*held, key(group, lease.first)))
        return
    old = Held(lease.at, lease.consumer, lease.deliveries)
    remove(connection, group, lease)
    low, high = (part & -part).bit_length() - 1, part.bit_length()
    if not rest >> low & (1 << high - low) - 1:
        # Nothing of the rest lies between: what is below, the part, what is above.
        for bits, how in (
            (rest & (1 << low) - 1, old),
            (part, held),
            (rest >> high << high, old),
        ):
            if bits:
                zeros = (bits & -bits).bit_length() - 1
                insert(connection, group, Lease(lease.first + zeros, *how, bits >> zeros))
        return
    moved = set(Lease(lease.first, 0, None, 0, part).places())
    _store(connection, group, ((seq, held if seq in moved else old) for seq in lease.places()))


def put(connection: apsw.Connection, group: int, seqs: Iterable[int], held: Held) -> int:
    """Hold places that are not pending; those that are stay as they are. Returns how many."""
    placed = 0
    near: list[int] = []
    for seq in sorted(seqs):
        if near and seq - near[0] >= BITS_MAX:
            placed += _put(connection, group, near, held)
            near = []
        near.append(seq)
    return placed + _put(connection, group, near, held) if near else placed


def _put(connection: apsw.Connection, group: int, wanted: Sequence[int], held: Held) -> int:
    leases = list(between(connection, group, wanted[0], wanted[-1]))
    before = holding(connection, group, wanted[0])
    if before is not None and before.first < wanted[0]:
        leases.insert(0, before)
    holds: dict[int, Held] = {}
    for lease in leases:
        remove(connection, group, lease)
        old = Held(lease.at, lease.consumer, lease.deliveries)
        holds.update(dict.fromkeys(lease.places(), old))
    pending = len(holds)
    for seq in wanted:
        holds.setdefault(seq, held)
    _store(connection, group, sorted(holds.items()))
    return len(holds) - pending


def _store(connection: apsw.Connection, group: int, places: Iterable[tuple[int, Held]]) -> None:
    """Store places in their order, those beside each other that are held alike in one row."""
    for held, alike in groupby(places, key=lambda place: place[1]):
        seqs = [seq for seq, _ in alike]
        begin = 0
        while begin < len(seqs):
            first = seqs[begin]
            end = begin
            bits = 0
            while end < len(seqs) and seqs[end] - first < BITS_MAX:
                bits |= 1 << (seqs[end] - first)
                end += 1
            insert(connection, group, Lease(first, held.at, held.consumer, held.deliveries, bits))
            begin = end


def _lease(row: tuple[Any, ...]) -> Lease:
    k, at, consumer, deliveries, _, bits = row
    return Lease(k & SEQ_MAX, at, consumer, deliveries, int.from_bytes(bits, "little"))
