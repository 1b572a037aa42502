"""Calls one after the other, every latency kept: for engines in this process, in microseconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Timed:
    """What some calls took, ascending."""

    latencies_us: Sequence[float]

    @property
    def p50_us(self) -> float:
        return self.quantile_us(0.50)

    @property
    def p99_us(self) -> float:
        return self.quantile_us(0.99)

    @property
    def mean_us(self) -> float:
        return statistics.fmean(self.latencies_us)

    @property
    def max_us(self) -> float:
        return self.latencies_us[-1]

    def quantile_us(self, share: float) -> float:
        count = len(self.latencies_us)
        return self.latencies_us[min(int(count * share), count - 1)]


async def timed(call: Callable[[Any], Awaitable[Any]], subjects: Iterable[Any]) -> Timed:
    """`call` on each subject, one at a time."""
    latencies_ns = []
    for subject in subjects:
        began = time.perf_counter_ns()
        await call(subject)
        latencies_ns.append(time.perf_counter_ns() - began)
    return Timed([each / 1000 for each in sorted(latencies_ns)])


def print_timed(measured: Mapping[str, Sequence[Timed]]) -> None:
    """A table of what each contender took: medians of the rounds, and the range of its p50."""
    print(f"{'':<50}{'calls':>8}{'p50 µs':>10} {'min–max':>17}{'p99 µs':>10}{'max µs':>10}")
    for name, rounds in measured.items():
        p50s = [each.p50_us for each in rounds]
        print(
            f"{name:<50}{sum(len(each.latencies_us) for each in rounds):>8}"
            f"{statistics.median(p50s):>10.1f} {f'{min(p50s):.1f}–{max(p50s):.1f}':>17}"
            f"{statistics.median(each.p99_us for each in rounds):>10.1f}"
            f"{max(each.max_us for each in rounds):>10.0f}"
        )
