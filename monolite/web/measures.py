"""What every operation did: counts by status and a latency histogram, cheap enough for each call.

Prometheus' text is made from these only when /metrics is read, so that neither its import nor its
locks are on a request's path.
"""

from __future__ import annotations

from bisect import bisect_left

# Upper bounds in seconds; the last bucket is everything beyond.
BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Measure:
    """One operation's counts."""

    __slots__ = ("buckets", "statuses", "sum_s")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, status: int, elapsed_s: float) -> None:
        """Count one answer."""
        statuses = self.statuses
        statuses[status] = statuses.get(status, 0) + 1
        self.buckets[bisect_left(BOUNDS_S, elapsed_s)] += 1
        self.sum_s += elapsed_s
