"""What the upkeep of both stores shares."""

from __future__ import annotations

from dataclasses import dataclass

CONSUMER_KEPT_MS = 7 * 86_400_000
"""How long one is remembered that asks no more and holds nothing."""


@dataclass(frozen=True, slots=True)
class Kept:
    """How long the oldest event has been kept, and the most groups that one stream has."""

    hours: float = 0.0
    group_count: int = 0
