"""Sets of numbers as text: `1-41,43`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

RANGE_COUNT_MAX = 1000
_DIGITS_MAX = 18

Range = tuple[int, int]
"""First and last, both included."""


def parse(text: str) -> Sequence[Range]:
    """`"1-41,43"` as `[(1, 41), (43, 43)]`: in order, joined where they touch.

    Raises:
        ValueError: it is empty, not such a list, counts from 0, or has over 1000 parts.
    """
    parts = text.split(",")
    if len(parts) > RANGE_COUNT_MAX:
        raise ValueError(f"over {RANGE_COUNT_MAX} ranges")
    ranges = []
    for part in parts:
        first, dash, last = part.strip().partition("-")
        low = _number(first, part)
        high = _number(last, part) if dash else low
        if low < 1 or high < low:
            raise ValueError(f"{part.strip()!r} is no range; numbers count from 1")
        ranges.append((low, high))
    return _joined(sorted(ranges))


def text_of(ranges: Iterable[Range]) -> str:
    """The shortest text of them."""
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)


def ranges_of(numbers: Iterable[int]) -> Sequence[Range]:
    """Ascending numbers as ranges."""
    return _joined([(number, number) for number in numbers])


def _number(text: str, part: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX):
        raise ValueError(f"{part.strip()!r} is no number or range such as 1-41")
    return int(digits)


def _joined(ranges: Sequence[Range]) -> list[Range]:
    joined: list[Range] = []
    for low, high in ranges:
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return joined
