"""A value that the last write wins: the higher stamp, its node's name where times are equal."""

from __future__ import annotations

from typing import Any, ClassVar

from monolite.crdt.errors import ConflictError
from monolite.crdt.hybrid_clock import NEVER, HybridClock, Stamp, refuse_ahead
from monolite.crdt.wire import KINDS, Reader, Writer, normal, value_bytes


class LwwRegister:
    """One value with its stamp; null with the stamp NEVER until it is first set."""

    KIND: ClassVar[int] = 1
    __slots__ = ("_value", "stamp")

    def __init__(self) -> None:
        self.stamp: Stamp = NEVER
        self._value: Any = None

    @property
    def value(self) -> Any:
        """What was last set; lists and maps are copies."""
        return normal(self._value)

    def assign(self, value: Any, clock: HybridClock) -> LwwRegister:
        """Set it; returns the delta, which here is the whole state."""
        self._value, self.stamp = normal(value), clock.tick(self.stamp)
        return self.copy()

    def merge(self, other: LwwRegister, now_ms: int | None = None) -> None:
        """Take the later of both.

        Raises:
            AheadError: its stamp is more than five minutes ahead of `now_ms`, by default the
                system's clock.
            ConflictError: equal stamps and nodes with unequal values.
        """
        refuse_ahead(other.stamp, now_ms)
        if other.stamp == self.stamp:
            if value_bytes(other._value) != value_bytes(self._value):
                raise ConflictError(f"two values with one stamp of {self.stamp.node!r}")
        elif other.stamp > self.stamp:
            self._value, self.stamp = other._value, other.stamp

    def copy(self) -> LwwRegister:
        made = LwwRegister()
        made._value, made.stamp = self._value, self.stamp
        return made

    def names(self, found: set[str]) -> None:
        self.stamp.names(found)

    def write(self, writer: Writer) -> None:
        """Stamp, value."""
        self.stamp.write(writer)
        writer.value(self._value)

    @classmethod
    def read(cls, reader: Reader) -> LwwRegister:
        made = cls()
        made.stamp, made._value = Stamp.read(reader), reader.value()
        return made


KINDS[LwwRegister.KIND] = LwwRegister
