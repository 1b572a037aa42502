"""Small fixed-size measures that a thread can feed without a lock and another can read.

Each is written by one thread. A reader may miss the newest entry, never see a torn one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

LATENCY_BOUNDS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
    0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LatencySnapshot:
    """`counts[i]` fell at or under `bounds_s[i]`; the last count is everything above."""

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float

    @property
    def count(self) -> int:
        """How many were measured."""
        return sum(self.counts)

    def quantile_s(self, quantile: float) -> float:
        """The upper bound of the bucket that holds the quantile; 0.0 when nothing was measured."""
        total = self.count
        seen = 0
        for bound_s, count in zip((*self.bounds_s, float("inf")), self.counts, strict=True):
            seen += count
            if total and seen >= quantile * total:
                return min(bound_s, 2 * self.bounds_s[-1])
        return 0.0


class Latencies:
    """A histogram of seconds in fixed buckets."""

    def __init__(self) -> None:
        self._counts = [0] * (len(LATENCY_BOUNDS_S) + 1)
        self._sum_s = 0.0

    def add(self, took_s: float) -> None:
        """Counts one that took `took_s`."""
        self._counts[bisect_left(LATENCY_BOUNDS_S, took_s)] += 1
        self._sum_s += took_s

    def snapshot(self) -> LatencySnapshot:
        """The counts so far."""
        return LatencySnapshot(LATENCY_BOUNDS_S, tuple(self._counts), self._sum_s)


class PerSecond:
    """Amounts by second of a monotonic clock, for the last `window_s` seconds."""

    def __init__(self, monotonic: Callable[[], float], window_s: int = 600) -> None:
        self._monotonic = monotonic
        self._size = window_s + 2
        self._seconds = [-1] * self._size
        self._amounts = [0.0] * self._size
        self._started_at = monotonic()

    def add(self, amount: float, now: float | None = None) -> None:
        """Adds to the current second; `now` spares a caller that knows it another look."""
        second = int(self._monotonic() if now is None else now)
        slot = second % self._size
        if self._seconds[slot] != second:
            self._amounts[slot] = 0.0
            self._seconds[slot] = second
        self._amounts[slot] += amount

    def mean(self, window_s: int) -> float:
        """Per second over the last `window_s`, or since the start where that is shorter."""
        now = self._monotonic()
        covered_s = max(1.0, min(float(window_s), now - self._started_at))
        return self._sum(int(now) - window_s, int(now) + 1) / covered_s

    def sustained(self, window_s: int = 600, part_s: int = 60) -> float:
        """The rate that every part of the last `window_s` reached; 0.0 before that has passed.

        A burst can't raise it, and neither can an average that a quiet spell is hidden in.
        """
        now = self._monotonic()
        if now - self._started_at < window_s:
            return 0.0
        end = int(now)
        return min(
            self._sum(start, start + part_s) / part_s
            for start in range(end - window_s, end, part_s)
        )

    def _sum(self, start: int, end: int) -> float:
        """The amounts of seconds in [start, end)."""
        pairs = zip(self._seconds, self._amounts, strict=True)
        return sum(amount for second, amount in pairs if start <= second < end)
