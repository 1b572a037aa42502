"""A set in which an addition wins over a concurrent removal, without tombstones.

Each addition has a dot. An element is in the set while one of its dots is alive; a removal takes
the dots it has seen, and the context remembers them. Bieniusa, Zawirski, Preguiça, Shapiro,
Baquero, Balegas, Duarte: "An optimized conflict-free replicated set" (2012); deltas as in Almeida,
Shoker, Baquero: "Delta state replicated data types" (2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from monolite.crdt.dots import Dot, Dots
from monolite.crdt.errors import ConflictError, MalformedError
from monolite.crdt.wire import KINDS, Reader, Writer, value_bytes


class OrSet:
    """Elements, each with the dots of the additions that are alive; and all dots ever seen."""

    KIND: ClassVar[int] = 4
    __slots__ = ("_dots", "_elements", "context")

    def __init__(self) -> None:
        self.context = Dots()
        # An element's canonical bytes: 1, 1.0 and True are told apart as the encoding does.
        self._elements: dict[bytes, tuple[Dot, ...]] = {}
        self._dots: dict[Dot, bytes] = {}

    def __contains__(self, element: Any) -> bool:
        return value_bytes(element) in self._elements

    def __len__(self) -> int:
        return len(self._elements)

    def __iter__(self) -> Iterator[Any]:
        return (Reader(key).value() for key in sorted(self._elements))

    @property
    def value(self) -> list[Any]:
        """The elements, in the order of their encodings."""
        return list(self)

    def add(self, element: Any, replica: str) -> OrSet:
        """Put an element in; returns the delta: the new dot, and the dots that it stands for."""
        key = value_bytes(element)
        dot = self.context.next(replica)
        delta = OrSet()
        for old in self._elements.get(key, ()):
            del self._dots[old]
            delta.context.add(old)
        delta.context.add(dot)
        for one in (self, delta):
            one._elements[key] = (dot,)
            one._dots[dot] = key
        return delta

    def remove(self, element: Any) -> OrSet:
        """Take an element out, if it is in; returns the delta: the dots that are gone."""
        key = value_bytes(element)
        delta = OrSet()
        for dot in self._elements.pop(key, ()):
            del self._dots[dot]
            delta.context.add(dot)
        return delta

    def merge(self, other: OrSet, now_ms: int | None = None) -> None:
        """Keep what both have, and what one has and the other has not seen.

        Raises:
            ConflictError: one dot adds two elements.
        """
        mine = self._dots
        for dot, key in other._dots.items():
            if mine.get(dot, key) != key:
                raise ConflictError(f"one dot of {dot[0]} adds two elements")
        if len(other.context) < len(mine):
            gone = [d for d in other.context if d in mine and d not in other._dots]
        else:
            gone = [d for d in mine if d not in other._dots and d in other.context]
        new = [d for d in other._dots if d not in mine and d not in self.context]
        for dot in gone:
            self._drop(dot)
        for dot in new:
            key = other._dots[dot]
            mine[dot] = key
            held = self._elements.get(key)
            self._elements[key] = (dot,) if held is None else tuple(sorted((*held, dot)))
        self.context.update(other.context)

    def copy(self) -> OrSet:
        made = OrSet()
        made.context = self.context.copy()
        made._elements, made._dots = dict(self._elements), dict(self._dots)
        return made

    def names(self, found: set[str]) -> None:
        self.context.names(found)

    def write(self, writer: Writer) -> None:
        """Context; count of elements, ascending by bytes: value, count of dots, the dots."""
        self.context.write(writer)
        writer.varint(len(self._elements))
        for key in sorted(self._elements):
            writer.bytes += key
            dots = self._elements[key]
            writer.varint(len(dots))
            for dot in dots:
                writer.dot(dot)

    @classmethod
    def read(cls, reader: Reader) -> OrSet:
        made = cls()
        made.context = Dots.read(reader)
        for _ in range(reader.count()):
            start = reader.at
            reader.value()
            key = reader.data[start : reader.at]
            dots = tuple(reader.dot() for _ in range(reader.count()))
            if not dots or key in made._elements:
                raise MalformedError("an element without dots, or twice")
            made._elements[key] = dots
            for dot in dots:
                if dot in made._dots or dot not in made.context:
                    raise MalformedError("a dot is used twice, or not in the context")
                made._dots[dot] = key
        return made

    def _drop(self, dot: Dot) -> None:
        key = self._dots.pop(dot)
        left = tuple(one for one in self._elements[key] if one != dot)
        if left:
            self._elements[key] = left
        else:
            del self._elements[key]


KINDS[OrSet.KIND] = OrSet
