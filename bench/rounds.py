"""Contenders in turn, and figures from ratios taken within a round.

One round runs every contender once; the next runs them in the opposite order, so that neither a
slow minute nor a place in the row favours one. A figure is the median of its ratios, one a round;
their least and greatest are the machine's noise.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.load import Load
from bench.machine import Quietness

T = TypeVar("T")


def in_turn(
    contenders: Mapping[str, Callable[[], T]], rounds: int, *, pause_s: float = 0.5
) -> dict[str, list[T]]:
    """Runs each contender once a round: A B, B A, A B …; one that was heard pauses."""
    measured: dict[str, list[T]] = {name: [] for name in contenders}
    quietness = Quietness()
    for number in range(rounds):
        for name in list(contenders)[:: -1 if number % 2 else 1]:
            measured[name].append(contenders[name]())
            time.sleep(pause_s)
    print(f"{rounds} rounds, order reversed every other; {quietness}")
    return measured


@dataclass(frozen=True)
class Figure:
    """One figure to reach: values, one a round, of which the median is held to a bound."""

    name: str
    values: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "×"

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def is_reached(self) -> bool:
        over = self.at_least is None or self.value >= self.at_least
        return over and (self.at_most is None or self.value <= self.at_most)

    def __str__(self) -> str:
        verdict = "reached" if self.is_reached else "MISSED"
        if self.at_least is None and self.at_most is None:
            verdict, bound = "shown", ""
        elif self.at_least is not None:
            bound = f"at least {self.at_least:g}{self.unit}"
        else:
            bound = f"at most {self.at_most:g}{self.unit}"
        spread = f"({min(self.values):.2f}–{max(self.values):.2f})"
        value = f"{self.value:.2f}{self.unit}"
        return f"  {verdict:<8}{self.name:<50}{value:>10} {spread:<18}{bound}".rstrip()


def ratios(ours: Sequence[float], peers: Sequence[float]) -> list[float]:
    """Ours over the peer's, round by round."""
    return [mine / theirs for mine, theirs in zip(ours, peers, strict=True)]


def report(figures: Sequence[Figure]) -> int:
    """Prints the figures; the exit code is 1 where one was missed."""
    for figure in figures:
        print(figure)
    return 0 if all(figure.is_reached for figure in figures) else 1


def print_loads(measured: Mapping[str, Sequence[Load]], pss_mb: Mapping[str, float]) -> None:
    """A table of what each contender did: medians, and the range of its repeats."""
    print(f"{'':<34}{'requests/s':>11} {'min–max':>15}{'p50 ms':>8}{'p99 ms':>8}", end="")
    print(f"{'p99.9':>8}{'max ms':>8}{'PSS MB':>8}")
    for name, loads in measured.items():
        rates = [load.requests_per_s for load in loads]
        print(
            f"{name:<34}{statistics.median(rates):>11.0f} "
            f"{f'{min(rates):.0f}–{max(rates):.0f}':>15}"
            f"{statistics.median(load.p50_ms for load in loads):>8.2f}"
            f"{statistics.median(load.p99_ms for load in loads):>8.2f}"
            f"{statistics.median(load.p999_ms for load in loads):>8.2f}"
            f"{max(load.max_ms for load in loads):>8.1f}"
            f"{pss_mb.get(name, float('nan')):>8.1f}"
        )


def print_rates(measured: Mapping[str, Sequence[float]], unit: str) -> None:
    """A table of one number each: medians, and the range of its repeats."""
    print(f"{'':<34}{unit:>15} {'min–max':>19}")
    for name, values in measured.items():
        spread = f"{min(values):.0f}–{max(values):.0f}"
        print(f"{name:<34}{statistics.median(values):>15.0f} {spread:>19}")


def rates(loads: Sequence[Load]) -> list[float]:
    return [load.requests_per_s for load in loads]


def p99s_ms(loads: Sequence[Load]) -> list[float]:
    return [load.p99_ms for load in loads]
