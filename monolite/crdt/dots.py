"""Dots and causal contexts.

A dot `(replica, n)` names a replica's n-th event; n counts from 1. A context is a set of dots:
what a state has seen. A whole state's is a vector clock, `{"a": [(1, 7)], "b": [(1, 2)]}`; a
delta's has its own few dots alone, `{"a": [(7, 7)]}`, and a replica that deltas reached out of
order has gaps. All three are ranges, in order and joined where they touch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from monolite.crdt.errors import CrdtError, MalformedError
from monolite.crdt.wire import WHOLE_MAX, Reader, Writer, checked_name

Dot = tuple[str, int]
Ranges = list[tuple[int, int]]


class Dots:
    """A set of dots."""

    __slots__ = ("_ranges",)

    def __init__(self, dots: Iterable[Dot] = ()) -> None:
        self._ranges: dict[str, Ranges] = {}
        for dot in dots:
            self.add(dot)

    def __contains__(self, dot: Dot) -> bool:
        ranges = self._ranges.get(dot[0])
        if ranges is None:
            return False
        number = dot[1]
        if len(ranges) == 1:
            return ranges[0][0] <= number <= ranges[0][1]
        at = bisect_right(ranges, number, key=_first) - 1
        return at >= 0 and number <= ranges[at][1]

    def __len__(self) -> int:
        return sum(hi - lo + 1 for ranges in self._ranges.values() for lo, hi in ranges)

    def __iter__(self) -> Iterator[Dot]:
        for name, ranges in self._ranges.items():
            for lo, hi in ranges:
                for number in range(lo, hi + 1):
                    yield name, number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dots) and self._ranges == other._ranges

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Dots({self._ranges})"

    def copy(self) -> Dots:
        """A set of its own."""
        made = Dots()
        made._ranges = {name: list(ranges) for name, ranges in self._ranges.items()}
        return made

    def next(self, replica: str) -> Dot:
        """The replica's next dot, which now is in the set.

        Raises:
            CrdtError: no replica can have this name, or it has used 2^53 - 1 dots.
        """
        ranges = self._ranges.get(replica)
        if ranges is None:
            self._ranges[checked_name(replica)] = [(1, 1)]
            return replica, 1
        lo, hi = ranges[-1]
        if hi == WHOLE_MAX:
            raise CrdtError("a replica has at most 2^53 - 1 dots")
        ranges[-1] = (lo, hi + 1)
        return replica, hi + 1

    def add(self, dot: Dot) -> None:
        """Put one dot in."""
        name, number = dot
        ranges = self._ranges.setdefault(name, [])
        if ranges and ranges[-1][1] + 1 == number:
            ranges[-1] = (ranges[-1][0], number)
        elif not ranges or ranges[-1][1] < number:
            ranges.append((number, number))
        elif dot not in self:
            self._ranges[name] = _joined(ranges, [(number, number)])

    def update(self, other: Dots) -> None:
        """Put every dot of another in."""
        for name, ranges in other._ranges.items():
            mine = self._ranges.get(name)
            self._ranges[name] = list(ranges) if mine is None else _joined(mine, ranges)

    def add_prefix(self, replica: str, count: int) -> None:
        """Put a replica's first dots in."""
        if count:
            ranges = self._ranges.get(replica, [])
            self._ranges[replica] = _joined(ranges, [(1, count)])

    def prefix(self, replica: str) -> int:
        """How many of a replica's dots are here from its first on without a gap."""
        ranges = self._ranges.get(replica)
        return ranges[0][1] if ranges and ranges[0][0] == 1 else 0

    def replicas(self) -> list[str]:
        """Whose dots are here."""
        return list(self._ranges)

    def names(self, found: set[str]) -> None:
        found.update(self._ranges)

    def write(self, writer: Writer) -> None:
        """Count of replicas; for each, ascending: name, count of ranges; of each gap and length.

        The gap is from the last range's end (0 before the first) to this one's start, less 1; the
        length is less 1 too.
        """
        writer.varint(len(self._ranges))
        for name in sorted(self._ranges):
            writer.name(name)
            writer.varint(len(self._ranges[name]))
            end = 0
            for lo, hi in self._ranges[name]:
                writer.varint(lo - end - 1)
                writer.varint(hi - lo)
                end = hi

    @classmethod
    def read(cls, reader: Reader) -> Dots:
        made = cls()
        for _ in range(reader.count()):
            name = reader.name()
            ranges: Ranges = []
            end = 0
            for _ in range(reader.count()):
                lo = end + 1 + reader.varint()
                end = lo + reader.varint()
                ranges.append((lo, end))
            if not ranges or end > WHOLE_MAX:
                raise MalformedError("a context without dots, or with one over 2^53 - 1")
            made._ranges[name] = ranges
        return made


def _first(one: tuple[int, int]) -> int:
    return one[0]


def _joined(some: Ranges, more: Ranges) -> Ranges:
    joined: Ranges = []
    for lo, hi in sorted(some + more):
        if joined and lo <= joined[-1][1] + 1:
            if hi > joined[-1][1]:
                joined[-1] = (joined[-1][0], hi)
        else:
            joined.append((lo, hi))
    return joined
