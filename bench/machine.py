"""The machine under the figures: how quiet it was, what a process uses, one benchmark at a time."""

from __future__ import annotations

import fcntl
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_HELD = {"MONOLITE_BENCH_LOCK_HELD": "1"}
_LOCK_PATH = Path(tempfile.gettempdir()) / "monolite-bench.lock"


@contextmanager
def run_lock() -> Iterator[None]:
    """Waits until no other benchmark runs: two at once measure each other."""
    if os.environ.items() >= LOCK_HELD.items():
        yield
        return
    with _LOCK_PATH.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another benchmark holds {_LOCK_PATH}; waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def describe() -> str:
    """One line: cores, CPU, Python, date, and the load average before the run."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    return (
        f"{os.cpu_count()} cores of {model}, Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d %H:%MZ', time.gmtime())}, load average {load}"
    )


class Quietness:
    """CPU time that went elsewhere since it was made."""

    def __init__(self) -> None:
        self._before = _cpu_times()

    def __str__(self) -> str:
        spent = [now - then for now, then in zip(_cpu_times(), self._before, strict=True)]
        steal = spent[7] / max(1, sum(spent[:8]))
        return f"steal {steal:.1%}"


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process and all its descendants."""
    total = 0
    for each in (pid, *_descendants(pid)):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def write_back(path: Path) -> None:
    """Waits until a file lies on the disk; its pages stay in the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def evict(path: Path) -> None:
    """Drops a written-back file's pages from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def _cpu_times() -> list[int]:
    with open("/proc/stat") as file:
        return [int(word) for word in file.readline().split()[1:]]
