"""A counter that only grows: of each replica the highest count it was heard to have."""

from __future__ import annotations

from typing import ClassVar

from monolite.crdt.errors import CrdtError, MalformedError
from monolite.crdt.wire import KINDS, WHOLE_MAX, Reader, Writer, checked_name


class GCounter:
    """Counts by replica; the value is their sum."""

    KIND: ClassVar[int] = 2
    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    @property
    def value(self) -> int:
        """The sum of all counts."""
        return sum(self._counts.values())

    def increment(self, replica: str, by: int = 1) -> GCounter:
        """Count; returns the delta: this replica's new count.

        Raises:
            CrdtError: `by` is under 1, or the replica's count would be over 2^53 - 1.
        """
        count = self._counts.get(checked_name(replica), 0) + by
        if by < 1 or count > WHOLE_MAX:
            raise CrdtError("a count grows by 1 at least, up to 2^53 - 1")
        self._counts[replica] = count
        delta = GCounter()
        delta._counts[replica] = count
        return delta

    def merge(self, other: GCounter, now_ms: int | None = None) -> None:
        """Take the higher count of each replica."""
        for name, count in other._counts.items():
            if count > self._counts.get(name, 0):
                self._counts[name] = count

    def copy(self) -> GCounter:
        made = GCounter()
        made._counts = dict(self._counts)
        return made

    def names(self, found: set[str]) -> None:
        found.update(self._counts)

    def write(self, writer: Writer) -> None:
        """Count of replicas; name and count of each, ascending by name."""
        writer.varint(len(self._counts))
        for name in sorted(self._counts):
            writer.name(name)
            writer.varint(self._counts[name])

    @classmethod
    def read(cls, reader: Reader) -> GCounter:
        made = cls()
        for _ in range(reader.count()):
            name = reader.name()
            made._counts[name] = reader.varint()
            if made._counts[name] == 0:
                raise MalformedError("a count of 0 is left out")
        return made


KINDS[GCounter.KIND] = GCounter
