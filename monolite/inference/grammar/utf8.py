"""Ranges of characters as sequences of ranges of bytes.

Splits where the count of bytes changes, then where the leading bytes do, as Thompson's grep and
RE2's `utf8-ranges` do: [U+0000-U+FFFF] needs five sequences.
"""

from __future__ import annotations

from collections.abc import Iterator

from monolite.inference.grammar.expression import Ranges

_LAST_OF_LENGTH = (0x7F, 0x7FF, 0xFFFF, 0x10FFFF)

ByteRanges = tuple[tuple[int, int], ...]


def byte_ranges(ranges: Ranges) -> Iterator[ByteRanges]:
    """Each yields one range a byte; together they are the UTF-8 of the ranges, each once."""
    for low, high in ranges:
        for last in _LAST_OF_LENGTH:
            if low <= last:
                yield from _of_one_length(low, min(high, last))
                low = last + 1
            if low > high:
                break


def _of_one_length(low: int, high: int) -> Iterator[ByteRanges]:
    """`low` and `high` take as many bytes."""
    for places in (1, 2, 3):
        rest = (1 << 6 * places) - 1
        if low & ~rest != high & ~rest:
            if low & rest:
                yield from _of_one_length(low, low | rest)
                yield from _of_one_length((low | rest) + 1, high)
                return
            if high & rest != rest:
                yield from _of_one_length(low, (high & ~rest) - 1)
                yield from _of_one_length(high & ~rest, high)
                return
    yield tuple(zip(chr(low).encode(), chr(high).encode(), strict=True))
