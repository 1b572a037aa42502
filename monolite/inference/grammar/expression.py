"""What grammars are made of, whichever language they were written in.

Characters are code points here; machine.py makes bytes of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

CODE_POINT_MAX = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)

Ranges = tuple[tuple[int, int], ...]
"""Code points from and to, both in it: sorted, apart, and without surrogates."""


@dataclass(frozen=True, slots=True)
class Text:
    """These bytes."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of these."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Chain:
    """One after the other; the empty text where there are none."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of them; nothing at all where there are none."""

    options: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """So many times; `most` None is without bound."""

    part: Expression
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Call:
    """What the rule of this name says."""

    rule: str


Expression = Text | Characters | Chain | Choice | Repeat | Call
NOTHING = Choice(())
EMPTY = Chain(())


@dataclass(frozen=True, slots=True)
class Grammar:
    """Rules by name, of which `root` is the whole."""

    rules: dict[str, Expression]
    root: str = "root"


def text(value: str) -> Text:
    """The text as UTF-8."""
    return Text(value.encode())


def chain(*parts: Expression) -> Expression:
    """Parts one after the other; a single one stands for itself."""
    return parts[0] if len(parts) == 1 else Chain(parts)


def choice(*options: Expression) -> Expression:
    """One of the options; a single one stands for itself."""
    return options[0] if len(options) == 1 else Choice(options)


def optional(part: Expression) -> Expression:
    """The part, or nothing."""
    return Repeat(part, 0, 1)


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Any ranges, sorted, joined where they touch, surrogates taken out."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if low > high:
            continue
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    found: list[tuple[int, int]] = []
    for low, high in joined:
        if high < SURROGATES[0] or low > SURROGATES[1]:
            found.append((low, high))
            continue
        if low < SURROGATES[0]:
            found.append((low, SURROGATES[0] - 1))
        if high > SURROGATES[1]:
            found.append((SURROGATES[1] + 1, high))
    return tuple(found)


def negated(ranges: Sequence[tuple[int, int]]) -> Ranges:
    """Every character that is not of them."""
    found, at = [], 0
    for low, high in normal(ranges):
        found.append((at, low - 1))
        at = high + 1
    found.append((at, CODE_POINT_MAX))
    return normal(found)


def common(left: Ranges, right: Ranges) -> Ranges:
    """What is of both."""
    return normal(
        (max(a, c), min(b, d)) for a, b in left for c, d in right if max(a, c) <= min(b, d)
    )


ANY = normal([(0, CODE_POINT_MAX)])
