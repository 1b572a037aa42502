"""A counter that grows and shrinks: two that only grow, and their difference."""

from __future__ import annotations

from typing import ClassVar

from monolite.crdt.g_counter import GCounter
from monolite.crdt.wire import KINDS, Reader, Writer


class PnCounter:
    """What was added and what was taken away."""

    KIND: ClassVar[int] = 3
    __slots__ = ("_added", "_taken")

    def __init__(self) -> None:
        self._added, self._taken = GCounter(), GCounter()

    @property
    def value(self) -> int:
        """The sum of what was added less that of what was taken away."""
        return self._added.value - self._taken.value

    def increment(self, replica: str, by: int = 1) -> PnCounter:
        """Add; returns the delta."""
        delta = PnCounter()
        delta._added = self._added.increment(replica, by)
        return delta

    def decrement(self, replica: str, by: int = 1) -> PnCounter:
        """Take away; returns the delta."""
        delta = PnCounter()
        delta._taken = self._taken.increment(replica, by)
        return delta

    def merge(self, other: PnCounter, now_ms: int | None = None) -> None:
        """Take the higher counts of each replica."""
        self._added.merge(other._added)
        self._taken.merge(other._taken)

    def copy(self) -> PnCounter:
        made = PnCounter()
        made._added, made._taken = self._added.copy(), self._taken.copy()
        return made

    def names(self, found: set[str]) -> None:
        self._added.names(found)
        self._taken.names(found)

    def write(self, writer: Writer) -> None:
        """Two grow-only counters: added, taken away."""
        self._added.write(writer)
        self._taken.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> PnCounter:
        made = cls()
        made._added, made._taken = GCounter.read(reader), GCounter.read(reader)
        return made


KINDS[PnCounter.KIND] = PnCounter
