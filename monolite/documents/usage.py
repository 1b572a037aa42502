"""How often indexes and fields are used, added up in memory until the engine writes it down.

Counting is exact and costs a dictionary's increment: each statement knows the index it was made
for. A killed server loses the counts since the last write, so a count is never too high.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

SHAPES_MAX = 50
"""Unserved shapes of a collection, kept and reported: the most frequent."""

Subject = Literal["index", "write", "filter", "unserved"]


class Key(NamedTuple):
    """What is counted: of an index its number as text, of a field its name, of a shape JSON.

    `write` of `*` is a new document, which gives every field its value.
    """

    tenant_id: int
    collection: int
    subject: Subject
    name: str


class Count:
    """How often, how long in all, and when first and last (milliseconds)."""

    __slots__ = ("count", "first_at", "last_at", "total_ms")

    def __init__(self, now_ms: int) -> None:
        self.count = 0
        self.total_ms = 0.0
        self.first_at = now_ms
        self.last_at = now_ms


KEYS_MAX = 20_000
"""Kept between two writes; what comes beyond is not counted."""


class Usage:
    """Counts since they were last taken. `enabled=False` counts nothing, for measuring."""

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._counts: dict[Key, Count] = {}

    def add(self, key: Key, now_ms: int, elapsed_ms: float = 0.0) -> None:
        """One more use."""
        if not self._enabled:
            return
        count = self._counts.get(key)
        if count is None:
            if len(self._counts) >= KEYS_MAX:
                return
            count = self._counts[key] = Count(now_ms)
        count.count += 1
        count.total_ms += elapsed_ms
        count.last_at = now_ms

    def take(self) -> dict[Key, Count]:
        """The counts, which begin anew."""
        counts, self._counts = self._counts, {}
        return counts

    def give_back(self, counts: dict[Key, Count]) -> None:
        """Counts that could not be written after all."""
        for key, count in counts.items():
            newer = self._counts.setdefault(key, count)
            if newer is not count:
                newer.count += count.count
                newer.total_ms += count.total_ms
                newer.first_at = count.first_at
