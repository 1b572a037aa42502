r"""Events in SQLite: a row a run, under one packed integer key.

    k = stream << 40 | seq        seq counts every event of a stream from 1, without a gap

    k (first seq)   ms, n (first id)   count   events
    17<<40 | 1      1763871234567, 0   100     "order.created\t{…}\n…"      seqs 1 to 100
    17<<40 | 101    1763871234570, 0     1     "order.paid\t{…}"            seq 101

Ids of a row count on, so one id and a count say all of them. An id is found by bisection over the
keys: both grow together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import apsw

from monolite.errors import Conflict
from monolite.streams.event import NewEvent
from monolite.streams.event_id import PART_MAX, EventId, after, following, granted
from monolite.streams.sqlite_state import SEQ_MAX, RowRead, RowsRead, StreamState, key

SEGMENT_COUNT_MAX = 128
SEGMENT_BYTES_MAX = 64 * 1024
READ_BYTES_MAX = 4 << 20
"""What one read gives at most, beyond its first row."""

DELETED_AT_ONCE = 64
"""Rows that are removed at once: a trim removes so many by itself, the rest is upkeep's."""

_INSERT = "INSERT INTO stream_segments (k, ms, n, count, events) VALUES (?, ?, ?, ?, ?)"
_AT = "SELECT k, ms, n, count FROM stream_segments WHERE k BETWEEN ? AND ? ORDER BY k DESC LIMIT 1"
_FROM = "SELECT k, ms, n, events FROM stream_segments WHERE k BETWEEN ? AND ? ORDER BY k"
_NTH = "SELECT k FROM stream_segments WHERE k >= ? AND k < ? ORDER BY k LIMIT 1 OFFSET ?"
_DELETE = "DELETE FROM stream_segments WHERE k >= ? AND k < ?"
_SAVE = "UPDATE streams SET first_seq = ?, last_seq = ?, last_ms = ?, last_n = ? WHERE id = ?"


class Segment(NamedTuple):
    """A row without its events."""

    seq: int
    ms: int
    n: int
    size: int


class Piece(NamedTuple):
    """A part of a row: events from `seq` on."""

    seq: int
    ms: int
    n: int
    pieces: Sequence[bytes]

    @property
    def last_id(self) -> EventId:
        """The id of its last event."""
        return EventId(self.ms, self.n + len(self.pieces) - 1)


# ── Appending ──────────────────────────────────────────────────────────────────────────────────


def append(
    connection: apsw.Connection, state: StreamState, events: Sequence[NewEvent], now_ms: int
) -> list[tuple[EventId, int]]:
    """Append all events and give their ids, run by run.

    Raises Conflict where an id that was asked for is not greater than the last.
    """
    if state.last + len(events) > SEQ_MAX:
        raise _full()
    if state.n + len(events) < PART_MAX and all(event.wish is None for event in events):
        first = following(state.last_id, now_ms)
        _write(connection, state, first, [event.piece for event in events])
        return [(first, len(events))]
    runs = _with_ids(state.last_id, events, now_ms)
    for first, pieces in runs:
        _write(connection, state, first, pieces)
    return [(first, len(pieces)) for first, pieces in runs]


def is_one(events: Sequence[NewEvent]) -> bool:
    """Whether appending these takes a single statement."""
    return (
        len(events) <= SEGMENT_COUNT_MAX
        and sum([len(event.piece) for event in events]) <= SEGMENT_BYTES_MAX
    )


def restore(
    connection: apsw.Connection, state: StreamState, first: EventId, pieces: Sequence[bytes]
) -> None:
    """Append events under the ids that they had, counting on from `first`.

    Raises Conflict where that is not greater than the last; an empty stream takes any.
    """
    if state.last and first <= state.last_id:
        raise not_increasing(0, state.last_id)
    if state.last + len(pieces) > SEQ_MAX:
        raise _full()
    _write(connection, state, first, pieces)


def _with_ids(
    last: EventId, events: Sequence[NewEvent], now_ms: int
) -> list[tuple[EventId, list[bytes]]]:
    runs: list[tuple[EventId, list[bytes]]] = []
    for at, event in enumerate(events):
        try:
            given = following(last, now_ms) if event.wish is None else granted(event.wish, last)
        except OverflowError:
            raise _full() from None
        if given is None:
            raise not_increasing(at, last)
        if runs and given == after(last) and given.ms == last.ms:
            runs[-1][1].append(event.piece)
        else:
            runs.append((given, [event.piece]))
        last = given
    return runs


def not_increasing(at: int, last: EventId) -> Conflict:
    """The refusal of an id."""
    return Conflict(
        f"Event {at}: its id is not greater than {last}, the id before it. Ids of a stream only "
        "grow; leave the id out to have one made.",
        code="id_not_increasing",
    )


def _full() -> Conflict:
    return Conflict(
        "The stream has no greater id left, or 2^40 events behind it: go on in a new one.",
        code="stream_full",
    )


def _write(
    connection: apsw.Connection, state: StreamState, first: EventId, pieces: Sequence[bytes]
) -> None:
    ms, n = first
    for part in _segments(pieces):
        connection.execute(
            _INSERT, (key(state.number, state.last + 1), ms, n, len(part), b"\n".join(part))
        )
        state.last += len(part)
        n += len(part)
    state.ms, state.n = ms, n - 1


def _segments(pieces: Sequence[bytes]) -> list[Sequence[bytes]]:
    if len(pieces) <= SEGMENT_COUNT_MAX and sum(map(len, pieces)) <= SEGMENT_BYTES_MAX:
        return [pieces]
    parts: list[Sequence[bytes]] = []
    begin = size = 0
    for at, piece in enumerate(pieces):
        if at > begin and (
            at - begin == SEGMENT_COUNT_MAX or size + len(piece) > SEGMENT_BYTES_MAX
        ):
            parts.append(pieces[begin:at])
            begin, size = at, 0
        size += len(piece)
    parts.append(pieces[begin:])
    return parts


# ── Reading ────────────────────────────────────────────────────────────────────────────────────


def read(
    connection: apsw.Connection,
    number: int,
    first: int,
    last: int,
    count: int,
    rows: RowsRead | None = None,
) -> list[Piece]:
    """Events at the places `first` to `last`, at most `count`, and not many more bytes than
    READ_BYTES_MAX; what was trimmed is left out. With `rows`, on the writer's connection, what is
    left of the row that was read last is not read again.
    """
    found: list[Piece] = []
    left, size = count, 0
    known = rows.get(number, first) if rows is not None else None
    if known is not None:
        at = first - known.seq
        taken = known.pieces[at : min(at + left, last - known.seq + 1)]
        found.append(Piece(first, known.ms, known.n + at, taken))
        left -= len(taken)
        first += len(taken)
        if left <= 0 or first > last:
            return found
        begin = key(number, first)
    else:
        start = segment_at(connection, number, first)
        begin = key(number, first if start is None else start.seq)
    events = b""
    for k, ms, n, events in connection.execute(_FROM, (begin, key(number, last))):
        seq = k & SEQ_MAX
        pieces = events.split(b"\n")
        end = seq + len(pieces)
        if seq >= first and len(pieces) <= left and end <= last + 1:
            found.append(Piece(seq, ms, n, pieces))
            left -= len(pieces)
        else:
            skipped = max(0, first - seq)
            taken = pieces[skipped : min(skipped + left, last - seq + 1)]
            if taken:
                found.append(Piece(seq + skipped, ms, n + skipped, taken))
                left -= len(taken)
        size += len(events)
        if left <= 0 or size >= READ_BYTES_MAX:
            break
    if rows is not None and 0 < len(events) <= SEGMENT_BYTES_MAX:
        rows.put(number, RowRead(seq, ms, n, pieces))
    return found


def segment_at(connection: apsw.Connection, number: int, seq: int) -> Segment | None:
    """The row that holds a place, or the last one before it."""
    row = connection.execute(_AT, (key(number, 0), key(number, seq))).fetchone()
    return None if row is None else Segment(row[0] & SEQ_MAX, *row[1:])


def seek(connection: apsw.Connection, number: int, first: int, last: int, id: EventId) -> int:
    """The first place in `first` to `last` whose id is `id` or greater; `last` + 1 for none."""
    low, high = first, last
    while low <= high:
        segment = segment_at(connection, number, (low + high) // 2)
        if segment is None:
            break
        if id < (segment.ms, segment.n):
            high = segment.seq - 1
        elif id > (segment.ms, segment.n + segment.size - 1):
            low = segment.seq + segment.size
        else:
            return max(first, segment.seq + id.n - segment.n)
    return low


def id_at(connection: apsw.Connection, number: int, seq: int) -> EventId | None:
    """The id at a place; None where nothing is there."""
    segment = segment_at(connection, number, seq)
    if segment is None or seq >= segment.seq + segment.size:
        return None
    return EventId(segment.ms, segment.n + seq - segment.seq)


# ── Trimming ───────────────────────────────────────────────────────────────────────────────────


def trim_to(
    connection: apsw.Connection, state: StreamState, first: int, *, approximate: bool = False
) -> int:
    """Let the stream begin at `first`; returns how many events that dropped.

    The beginning is a number in the stream's row, so a trim is exact and short; rows that lie
    wholly before it are left to `remove_trimmed`.
    """
    first = min(first, state.last + 1)
    if approximate and first <= state.last:
        segment = segment_at(connection, state.number, first)
        first = first if segment is None else segment.seq
    dropped = first - state.first
    if dropped <= 0:
        return 0
    state.first = first
    connection.execute(_SAVE, (first, state.last, state.ms, state.n, state.number))
    return dropped


def remove_trimmed(
    connection: apsw.Connection, number: int, first: int, count_max: int = DELETED_AT_ONCE
) -> bool:
    """Remove rows that end before `first`; whether more of them are left."""
    segment = segment_at(connection, number, first)
    if segment is None:
        return False
    ends_before = segment.seq + segment.size <= first
    begin, end = key(number, 0), key(number, first if ends_before else segment.seq)
    nth = connection.execute(_NTH, (begin, end, count_max)).fetchone()
    connection.execute(_DELETE, (begin, end if nth is None else nth[0]))
    return nth is not None
