"""Ids of events, in Redis's form: `1763871234567-0`, milliseconds and a count within them.

Ids of a stream strictly increase (redis.io/docs/latest/develop/data-types/streams, "Entry IDs").
The clock gives the milliseconds; where it stands still or jumps back, the last id's are kept and
the count goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

PART_MAX = 2**63 - 1
"""The greatest of either part: what an INTEGER of SQLite holds."""

_ID = re.compile(r"(0|[1-9][0-9]{0,18})(?:-(0|[1-9][0-9]{0,18}|\*))?").fullmatch
PATTERN = r"(0|[1-9][0-9]{0,18})(-(0|[1-9][0-9]{0,18}))?"


class EventId(NamedTuple):
    """One id. Ids compare as their parts do."""

    ms: int
    n: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.n}"


ZERO = EventId(0, 0)
"""Before every id; no event has it."""

LAST = EventId(PART_MAX, PART_MAX)
"""No id is greater."""


def parse(text: str, *, n: int = 0) -> EventId:
    """An id, or its milliseconds alone with `n` for the rest; ValueError for anything else."""
    found = _ID(text)
    if found is None or found[2] == "*":
        raise ValueError(f"not an event id: {text!r}")
    return _bounded(int(found[1]), n if found[2] is None else int(found[2]))


class Wish(NamedTuple):
    """An id that a caller asks for; where `n` is None, the next free one of those milliseconds."""

    ms: int
    n: int | None


def parse_wish(text: str) -> Wish:
    """`5-1`, `5` (which is 5-0) or `5-*`; ValueError for anything else and for 0-0."""
    found = _ID(text)
    if found is None:
        raise ValueError(f"not an event id: {text!r}")
    if found[2] == "*":
        return Wish(_bounded(int(found[1]), 0).ms, None)
    wished = parse(text)
    if wished == ZERO:
        raise ValueError("ids begin at 0-1")
    return Wish(*wished)


def following(last: EventId, now_ms: int) -> EventId:
    """The id that the clock gives next."""
    if now_ms > last.ms:
        return EventId(now_ms, 0)
    return after(last)


def after(last: EventId) -> EventId:
    """The least id that is greater; OverflowError where there is none."""
    if last.n < PART_MAX:
        return EventId(last.ms, last.n + 1)
    if last.ms < PART_MAX:
        return EventId(last.ms + 1, 0)
    raise OverflowError("the stream has its greatest id")


def granted(wish: Wish, last: EventId) -> EventId | None:
    """The id of a wish behind `last`; None where it would not be greater."""
    if wish.n is not None:
        asked = EventId(wish.ms, wish.n)
        return asked if asked > last else None
    if wish.ms > last.ms:
        # 0-0 is no event's id.
        return EventId(wish.ms, 0 if wish.ms else 1)
    if wish.ms < last.ms or last.n == PART_MAX:
        return None
    return EventId(last.ms, last.n + 1)


def texts(first: EventId, count: int) -> Iterator[str]:
    """The texts of `count` ids that count on from the first."""
    prefix = f"{first.ms}-"
    return (prefix + str(n) for n in range(first.n, first.n + count))


def _bounded(ms: int, n: int) -> EventId:
    if ms > PART_MAX or n > PART_MAX:
        raise ValueError(f"an id's parts are at most {PART_MAX}")
    return EventId(ms, n)
