"""How much of the machine is left: one number from 1 (all of it) to 0 (none).

    cgroup cpu.stat ── throttled ─┐
    /proc/pressure/cpu ─ waiting ─┤  each from its calm share (1) to its full share (0);
    /proc/stat ───────── stolen ──┤  the scarcest is the headroom
    /proc/pressure/memory ────────┘

What heat is to a phone, these are to a virtual machine: a quota that is used up, neighbours on the
host, memory that has to be read again. Decoding is the part of the server that can wait, so its
threads follow the headroom, and where little is left it rests between passes. What the machine
doesn't tell (no pressure in the kernel, no quota) counts as calm.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

DUTY_LEAST = 0.7
"""The share of time that decoding takes where nothing is left."""

LITTLE = 0.25
"""Under this headroom decoding rests between passes."""

STAY = 0.2
"""A thread that rests is taken back only with so much of its core left, so that none flutters."""

READ_EVERY_S = 1.0


class Shares(NamedTuple):
    """Shares between 0 and 1: of the quota's periods that were throttled, of time that some task
    waited for a core (over ten seconds), of time that the host gave to others, of time that some
    task waited for memory.
    """

    throttled: float = 0.0
    waiting: float = 0.0
    stolen: float = 0.0
    memory: float = 0.0


CALM = Shares(throttled=0.02, waiting=0.25, stolen=0.02, memory=0.01)
FULL = Shares(throttled=0.50, waiting=0.95, stolen=0.30, memory=0.20)


def headroom(shares: Shares) -> float:
    """Between 0 and 1: what the scarcest of four leaves."""
    left = (
        (full - share) / (full - calm) for share, calm, full in zip(shares, CALM, FULL, strict=True)
    )
    return min(1.0, max(0.0, min(left)))


def threads(room: float, cores: int, before: int) -> int:
    """How many threads to compute with: each core's share of the headroom is one, one at least."""
    wanted = max(1, math.ceil(room * cores))
    if wanted > before:
        wanted = max(before, math.ceil(room * cores - STAY))
    return min(wanted, cores)


def rest_s(room: float, pass_s: float) -> float:
    """How long to rest after a pass of so long: nothing, down to a duty of DUTY_LEAST."""
    if room >= LITTLE:
        return 0.0
    duty = DUTY_LEAST + (1 - DUTY_LEAST) * room / LITTLE
    return pass_s * (1 - duty) / duty


@dataclass(frozen=True, slots=True)
class _Counts:
    """Counters that only grow: of periods and of clock ticks."""

    periods: int
    throttled: int
    ticks: int
    stolen: int


class Pace:
    """Decoding at the pace of the headroom; called by the thread that decodes."""

    def __init__(
        self,
        headroom: Callable[[], float],
        cores: int,
        use_threads: Callable[[int], None],
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        self._headroom = headroom
        self._cores = cores
        self._use_threads = use_threads
        self._rest = rest
        self._threads = cores

    def passed(self, pass_s: float) -> None:
        """A pass took so long: rest, and use fewer threads or more from now on."""
        room = self._headroom()
        self._use(threads(room, self._cores, self._threads))
        resting_s = rest_s(room, pass_s)
        if resting_s > 0:
            self._rest(resting_s)

    def idle(self) -> None:
        """Nothing is decoded: what else computes has all cores."""
        self._use(self._cores)

    def _use(self, count: int) -> None:
        if count != self._threads:
            self._threads = count
            self._use_threads(count)


class HeadroomReader:
    """Reads the headroom from the kernel's files, once a second at most; from any thread.

    `root` stands for the root directory. `now_s` is monotonic.
    """

    def __init__(self, now_s: Callable[[], float], root: Path = Path("/")) -> None:
        self._now_s = now_s
        self._proc = root / "proc"
        self._groups = _groups(root)
        self._lock = threading.Lock()
        self._read_s = -math.inf
        self._counts = self._count()
        self._headroom = 1.0
        self.shares = Shares()

    def __call__(self) -> float:
        """The headroom of the last second or more."""
        with self._lock:
            now_s = self._now_s()
            if now_s - self._read_s >= READ_EVERY_S:
                self._read_s = now_s
                self.shares = self._look()
                self._headroom = headroom(self.shares)
            return self._headroom

    def _look(self) -> Shares:
        before, now = self._counts, self._count()
        self._counts = now
        return Shares(
            throttled=_share(now.throttled - before.throttled, now.periods - before.periods),
            waiting=_pressure(self._proc / "pressure/cpu"),
            stolen=_share(now.stolen - before.stolen, now.ticks - before.ticks),
            memory=_pressure(self._proc / "pressure/memory"),
        )

    def _count(self) -> _Counts:
        periods = throttled = 0
        for path in self._groups:
            stat = dict(line.split() for line in _lines(path) if len(line.split()) == 2)
            periods += _number(stat.get("nr_periods"))
            throttled += _number(stat.get("nr_throttled"))
        cpu = next((line.split()[1:9] for line in _lines(self._proc / "stat")), [])
        ticks = [_number(each) for each in cpu]
        return _Counts(periods, throttled, sum(ticks), ticks[7] if len(ticks) == 8 else 0)


def _groups(root: Path) -> list[Path]:
    """The cpu.stat of this process's cgroup and of those above, each of which may have a quota; of
    cgroup v2, or of v1's cpu controller. In a container its own is the root.
    """
    found: list[Path] = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, own = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        place = mounted / own.strip("/")
        while place != mounted.parent:
            if (place / "cpu.stat").is_file() and place / "cpu.stat" not in found:
                found.append(place / "cpu.stat")
            if place == mounted:
                break
            place = place.parent
    return found


def _pressure(path: Path) -> float:
    """`some avg10=1.05 …` as 0.0105."""
    for line in _lines(path):
        kind, *figures = line.split()
        for figure in figures:
            name, _, value = figure.partition("=")
            if kind == "some" and name == "avg10":
                try:
                    return min(1.0, max(0.0, float(value) / 100))
                except ValueError:
                    return 0.0
    return 0.0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _share(part: int, whole: int) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
