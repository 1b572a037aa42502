"""Bytes of the encoding: varints, values, and the two ends that write and read them.

    varint   unsigned LEB128, as short as it can be, at most 2^53 - 1
    text     varint length in bytes, UTF-8
    value    a tag, then by tag
             0 null   1 false   2 true
             3 whole number n >= 0: varint n       4 whole number n < 0: varint -1 - n
             5 any other number: IEEE 754 binary64, big-endian
             6 text   7 bytes: varint length, bytes
             8 list: varint count, values
             9 map: varint count, then text key and value, ascending by the key's bytes

A number that is whole and at most 2^53 - 1 in size has tag 3 or 4, also 1.0 and -0.0: JavaScript
has one kind of number, and equal values have equal bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol, Self

from monolite.crdt.errors import CrdtError, MalformedError

WHOLE_MAX = 2**53 - 1
DEPTH_MAX = 16
NAME_LENGTH_MAX = 64

_DOUBLE = struct.Struct(">d")
_VARINT_BYTES_MAX = 8


class State(Protocol):
    """What every type of this library has."""

    KIND: ClassVar[int]

    def merge(self, other: Self, now_ms: int | None = None) -> None:
        """Take in what `other`, a whole state or a delta, knows. All or nothing."""
        ...

    def copy(self) -> Self:
        """A state of its own, equal to this one."""
        ...

    def names(self, found: set[str]) -> None:
        """Adds every replica's name that the encoding refers to."""
        ...

    def write(self, writer: Writer) -> None:
        """Writes the body of the encoding."""
        ...

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Reads the body of the encoding."""
        ...


KINDS: dict[int, type[State]] = {}
"""Every type by the number that the encoding has for it."""


def checked_name(name: str) -> str:
    """A replica's name: 1 to 64 characters of printable ASCII, no space.

    Raises:
        CrdtError: it is not.
    """
    if not 0 < len(name) <= NAME_LENGTH_MAX or any(not "!" <= c <= "~" for c in name):
        raise CrdtError(f"a replica's name is 1 to {NAME_LENGTH_MAX} of printable ASCII: {name!r}")
    return name


def normal(value: Any, depth: int = 0) -> Any:
    """A copy of a value as it comes back from its encoding: `(1.0, "a")` is `[1, "a"]`.

    Raises:
        CrdtError: it is none of null, bool, number, text, bytes, list and map of them, or a number
            is not finite or, being an int, over 2^53 - 1.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise CrdtError("text with half of a surrogate pair") from None
        return str(value)
    if value is None or isinstance(value, (bool, bytes)):
        return value
    if isinstance(value, int):
        if abs(value) > WHOLE_MAX:
            raise CrdtError("a whole number is at most 2^53 - 1")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CrdtError("a number is finite")
        return int(value) if value.is_integer() and abs(value) <= WHOLE_MAX else value
    if depth == DEPTH_MAX:
        raise CrdtError(f"over {DEPTH_MAX} lists or maps in each other")
    if isinstance(value, (list, tuple)):
        return [normal(item, depth + 1) for item in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise CrdtError("a map's keys are text")
        return {normal(key): normal(item, depth + 1) for key, item in value.items()}
    raise CrdtError(f"no value of this library: {type(value).__name__}")


class Writer:
    """Collects bytes; replicas' names are written as their place in a sorted table."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.bytes = bytearray()
        self._places = {name: place for place, name in enumerate(names)}

    def varint(self, number: int) -> None:
        out = self.bytes
        while number > 0x7F:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        out.append(number)

    def raw(self, data: bytes) -> None:
        self.varint(len(data))
        self.bytes += data

    def text(self, text: str) -> None:
        self.raw(text.encode())

    def name(self, name: str) -> None:
        self.varint(self._places[name])

    def dot(self, dot: tuple[str, int]) -> None:
        self.varint(self._places[dot[0]])
        self.varint(dot[1])

    def value(self, value: Any) -> None:
        """A value that `normal` gave."""
        out = self.bytes
        if isinstance(value, str):
            out.append(6)
            self.text(value)
        elif value is None:
            out.append(0)
        elif isinstance(value, bool):
            out.append(2 if value else 1)
        elif isinstance(value, int):
            out.append(3 if value >= 0 else 4)
            self.varint(value if value >= 0 else -1 - value)
        elif isinstance(value, float):
            out.append(5)
            out += _DOUBLE.pack(value)
        elif isinstance(value, bytes):
            out.append(7)
            self.raw(value)
        elif isinstance(value, list):
            out.append(8)
            self.varint(len(value))
            for item in value:
                self.value(item)
        else:
            out.append(9)
            self.varint(len(value))
            for key in sorted(value):  # code points sort as their UTF-8 does
                self.text(key)
                self.value(value[key])


class Reader:
    """Reads what a Writer wrote; anything else is a MalformedError."""

    def __init__(self, data: bytes, at: int = 0, names: list[str] | None = None) -> None:
        self.data = data
        self.at = at
        self.names = names or []
        self.depth = 0

    def byte(self) -> int:
        if self.at >= len(self.data):
            raise MalformedError("cut short")
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        number = 0
        for place in range(_VARINT_BYTES_MAX):
            byte = self.byte()
            number |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if (byte == 0 and place) or number > WHOLE_MAX:
                    break
                return number
        raise MalformedError("a varint is longer than it need be, or over 2^53 - 1")

    def count(self) -> int:
        """How many of something follow, each of a byte at least."""
        count = self.varint()
        if count > len(self.data) - self.at:
            raise MalformedError("cut short")
        return count

    def raw(self) -> bytes:
        length = self.count()
        self.at += length
        return self.data[self.at - length : self.at]

    def text(self) -> str:
        try:
            return self.raw().decode()
        except UnicodeDecodeError:
            raise MalformedError("text that is not UTF-8") from None

    def name(self) -> str:
        place = self.varint()
        if place >= len(self.names):
            raise MalformedError("a replica that the table of names lacks")
        return self.names[place]

    def dot(self) -> tuple[str, int]:
        name, number = self.name(), self.varint()
        if number == 0:
            raise MalformedError("a dot counts from 1")
        return name, number

    def value(self, depth: int = 0) -> Any:
        tag = self.byte()
        if tag <= 2:
            return (None, False, True)[tag]
        if tag == 3:
            return self.varint()
        if tag == 4:
            return -1 - self.varint()
        if tag == 5:
            if len(self.data) - self.at < _DOUBLE.size:
                raise MalformedError("cut short")
            self.at += _DOUBLE.size
            number = _DOUBLE.unpack_from(self.data, self.at - _DOUBLE.size)[0]
            if not math.isfinite(number) or normal(number) is not number:
                raise MalformedError("a double is finite, and no number that has the tag 3 or 4")
            return number
        if tag == 6:
            return self.text()
        if tag == 7:
            return self.raw()
        if tag > 9:
            raise MalformedError(f"no value has the tag {tag}")
        if depth == DEPTH_MAX:
            raise MalformedError(f"over {DEPTH_MAX} lists or maps in each other")
        if tag == 8:
            return [self.value(depth + 1) for _ in range(self.count())]
        return {self.text(): self.value(depth + 1) for _ in range(self.count())}


def value_bytes(value: Any) -> bytes:
    """The one encoding of a value, which also is what two equal values have in common."""
    writer = Writer()
    writer.value(normal(value))
    return bytes(writer.bytes)
