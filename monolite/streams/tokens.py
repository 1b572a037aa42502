"""The token of a delivery: `1763871234567890.42`, a fence and a place.

The fence is the instant of the delivery in microseconds, made to grow with every delivery of its
group, so that it tells two deliveries of one event apart. The place is the event's number in the
store, or its id: either finds the event on any engine, which keeps tokens good across a migration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from monolite.streams.event_id import PART_MAX, EventId

Place = int | EventId

Tokens = Mapping[int, Sequence[Place]]
"""Places by fence: what a call acknowledges, or gives back."""

_DIGITS_MAX = 18
_ID_PLACE = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})").fullmatch


def by_fence(texts: Iterable[str]) -> tuple[dict[int, list[Place]], list[str]]:
    """The tokens that could be good, by their fences, and the texts that never were tokens."""
    found: dict[int, list[Place]] = {}
    bad: list[str] = []
    # A batch's tokens share their fence: it is read once.
    head_before: str | None = None
    places: list[Place] | None = None
    for text in texts:
        head, _, tail = text.partition(".")
        if head != head_before:
            head_before = head
            places = found.setdefault(int(head), []) if _is_number(head) else None
        place = _place(tail) if places is not None else None
        if place is None or places is None:
            bad.append(text)
        else:
            places.append(place)
    return found, bad


def text(fence: int, place: Place) -> str:
    """The token again."""
    return f"{fence}.{place}"


def _is_number(digits: str) -> bool:
    return digits.isascii() and digits.isdecimal() and len(digits) <= _DIGITS_MAX


def _place(tail: str) -> Place | None:
    if _is_number(tail):
        return int(tail)
    found = _ID_PLACE(tail)
    if found is None:
        return None
    place = EventId(int(found[1]), int(found[2]))
    return place if max(place) <= PART_MAX else None
