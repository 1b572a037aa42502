"""A stream as it is defined and shown, and how much of it is kept."""

from __future__ import annotations

from typing import NamedTuple

from monolite.names import NAME_PATTERN
from monolite.streams.event_id import EventId

DEAD_SUFFIX = ":dlq"
"""A stream's dead letters are a stream of this name; the colon keeps others from having it."""

NEWS_SUFFIX = ":webhooks"
"""What became of a stream's webhooks: one that was disabled."""

SYSTEM_PATTERN = f"{NAME_PATTERN}(:dlq|:webhooks)?"
"""Names of streams that can be read; those with a suffix are written by the server alone."""


class Retention(NamedTuple):
    """How much is kept: the newest `max_length` events, and none older than `max_age_ms`."""

    max_length: int | None = None
    max_age_ms: int | None = None


class Trim(NamedTuple):
    """Drop the oldest: all but `maxlen`, and what lies below the id `minid`.

    `approximate` may leave some more, where that spares work.
    """

    maxlen: int | None = None
    minid: EventId | None = None
    approximate: bool = False


class Stream(NamedTuple):
    """A stream; `first_id` is None where it is empty, `last_id` the greatest it ever had."""

    name: str
    length: int
    first_id: EventId | None
    last_id: EventId
    group_count: int
    retention: Retention
    created_at: int


def is_system(name: str) -> bool:
    """Whether the server alone writes to a stream of this name."""
    return ":" in name


def dead_letters_of(name: str) -> str | None:
    """Where a stream's dead letters can be read; None for a stream that has no such stream."""
    return None if is_system(name) else name + DEAD_SUFFIX
