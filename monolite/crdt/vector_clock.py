"""Vector clocks: how many events of each replica were seen.

Pruning takes inactive replicas out of a clock, so that nobody waits for them. What a set or a
sequence has seen of them is in its context (`Dots`), which is not pruned: an entry costs a name and
two to four bytes, and without it an old state would look new when its replica returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import ClassVar

from monolite.crdt.errors import CrdtError, MalformedError
from monolite.crdt.wire import KINDS, WHOLE_MAX, Reader, Writer, checked_name


class Order(Enum):
    """How one clock stands to another."""

    EQUAL = "equal"
    BEFORE = "before"
    AFTER = "after"
    CONCURRENT = "concurrent"


class VectorClock:
    """Counts by replica; one that is not named has 0."""

    KIND: ClassVar[int] = 7
    __slots__ = ("_counts",)

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self._counts = {checked_name(name): n for name, n in (counts or {}).items() if n}
        if any(not 0 < n <= WHOLE_MAX for n in self._counts.values()):
            raise CrdtError("a clock counts from 0 to 2^53 - 1")

    def __getitem__(self, replica: str) -> int:
        return self._counts.get(replica, 0)

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VectorClock) and self._counts == other._counts

    __hash__ = None  # type: ignore[assignment]

    def increment(self, replica: str) -> VectorClock:
        """One more event of a replica; returns the delta."""
        self._counts[checked_name(replica)] = self[replica] + 1
        return VectorClock({replica: self[replica]})

    def compare(self, other: VectorClock) -> Order:
        """How this clock stands to another: BEFORE where the other has seen all of it and more."""
        ahead = any(n > other[name] for name, n in self._counts.items())
        behind = any(n > self[name] for name, n in other._counts.items())
        if ahead and behind:
            return Order.CONCURRENT
        return Order.AFTER if ahead else Order.BEFORE if behind else Order.EQUAL

    def merge(self, other: VectorClock, now_ms: int | None = None) -> None:
        """Take the higher count of each replica."""
        for name, n in other._counts.items():
            self._counts[name] = max(n, self[name])

    def prune(self, inactive: Iterable[str]) -> VectorClock:
        """A clock without some replicas. Prune both clocks alike before you compare them."""
        without = set(inactive)
        return VectorClock({name: n for name, n in self._counts.items() if name not in without})

    def copy(self) -> VectorClock:
        return VectorClock(self._counts)

    def names(self, found: set[str]) -> None:
        found.update(self._counts)

    def write(self, writer: Writer) -> None:
        """Count of replicas; name and count of each, ascending by name."""
        writer.varint(len(self._counts))
        for name in sorted(self._counts):
            writer.name(name)
            writer.varint(self._counts[name])

    @classmethod
    def read(cls, reader: Reader) -> VectorClock:
        made = cls()
        for _ in range(reader.count()):
            name = reader.name()
            made._counts[name] = reader.varint()
            if made._counts[name] == 0:
                raise MalformedError("a count of 0 is left out")
        return made


KINDS[VectorClock.KIND] = VectorClock
