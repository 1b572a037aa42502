"""Cold start of the executable, exec to the first 200 on /healthz, beside PocketBase.

Every run starts a fresh copy of the file, with a home and a temporary directory nobody used, so
that nothing unpacked by an earlier run is found: the first time on a machine. Three conditions:

    new        no data yet, the copy's pages in memory: what a first install does
    existing   a database is there, the copy's pages in memory: what an upgrade does
    evicted    the same with the copy's pages dropped first: what a reboot does

PocketBase runs in turn under the same conditions. Page faults are of the process's whole life, its
children included. `make binary` makes the executable.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import machine, options, servers
from bench.rounds import Figure, in_turn, ratios, report
from bench.servers import ROOT

NEW, EXISTING, EVICTED = "new", "existing", "evicted"
_TIMEOUT_S = 30.0
_POLL_S = 0.0005


@dataclass(frozen=True)
class Start:
    """One start: time to the first 200, and page faults."""

    ms: float
    faults_minor: int
    faults_major: int


@dataclass(frozen=True)
class Program:
    """How a contender is started; `words` makes its arguments from data directory and port."""

    executable: Path
    health: str
    words: Callable[[Path, int], list[str]]


def main() -> int:
    parser = options.parser(__doc__ or "", "cold_start", rounds=20, seconds=None)
    parser.add_argument(
        "--executable",
        type=Path,
        default=ROOT / "dist" / "monolite",
        metavar="FILE",
        help="(dist/monolite)",
    )
    parser.add_argument("--source", action="store_true", help="also start from source")
    chosen = parser.parse_args()
    if not chosen.executable.exists():
        parser.error(f"{chosen.executable} is missing; run `make binary`")
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    programs = {
        "monolite": Program(chosen.executable.resolve(), "/healthz", _monolite_words),
        "pocketbase": Program(
            Path(servers.pocketbase_executable()), "/api/health", _pocketbase_words
        ),
    }
    contenders = {}
    for name, program in programs.items():
        data = folder / f"{name}-data"
        first = start(program, folder, data, evicted=False)
        print(f"{program.executable}: {program.executable.stat().st_size / 1e6:.1f} MB")
        assert first.ms
        for condition in (NEW, EXISTING, EVICTED):
            contenders[f"{name}, {condition}"] = partial(
                start,
                program,
                folder,
                None if condition == NEW else data,
                evicted=condition == EVICTED,
            )
    if chosen.source:
        data = folder / "monolite-data"
        contenders["monolite from source, existing"] = partial(from_source, data)
    measured = in_turn(contenders, chosen.rounds, pause_s=0.1)
    _print(measured)
    ms = {name: [each.ms for each in starts] for name, starts in measured.items()}
    figures = []
    for condition in (NEW, EXISTING):
        ours = ms[f"monolite, {condition}"]
        figures += [
            Figure(f"{condition}: p50", ours, at_most=250, unit=" ms"),
            Figure(f"{condition}: p95", [p95(ours)], at_most=380, unit=" ms"),
        ]
    figures.append(Figure("evicted: p50", ms[f"monolite, {EVICTED}"], at_most=380, unit=" ms"))
    for condition in (NEW, EXISTING, EVICTED):
        # The first time on a machine there is no data; the other conditions are shown beside it.
        figures.append(
            Figure(
                f"{condition}: to PocketBase",
                ratios(ms[f"monolite, {condition}"], ms[f"pocketbase, {condition}"]),
                at_most=2.5 if condition == NEW else None,
            )
        )
    return report(figures)


def start(program: Program, folder: Path, data: Path | None, *, evicted: bool) -> Start:
    """Copies the program, starts the copy on `data` (None: on a new directory), and ends it."""
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    for name in ("home", "tmp"):
        (scratch / name).mkdir(parents=True)
    copy = scratch / program.executable.name
    shutil.copy(program.executable, copy)
    # Written back in every condition: else the disk would still be at it during the start.
    machine.write_back(copy)
    if evicted:
        machine.evict(copy)
    environment = {
        "HOME": str(scratch / "home"),
        "TMPDIR": str(scratch / "tmp"),
        "PATH": os.environ["PATH"],
    }
    port = servers.free_port()
    words = [str(copy), *program.words(data or scratch / "data", port)]
    return _timed(words, port, program.health, environment)


def from_source(data: Path) -> Start:
    """Starts server.py with this Python, its byte code warm."""
    port = servers.free_port()
    words = [*servers.SOURCE, *_monolite_words(data, port)]
    return _timed(words, port, "/healthz", dict(os.environ))


def p95(values: Sequence[float]) -> float:
    return sorted(values)[max(0, round(0.95 * len(values)) - 1)]


def _timed(words: list[str], port: int, health: str, environment: dict[str, str]) -> Start:
    silent = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    request = f"GET {health} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    began = time.perf_counter()
    pid = os.posix_spawn(words[0], words, environment, file_actions=silent)
    while not _answers(port, request):
        if time.perf_counter() - began > _TIMEOUT_S:
            os.kill(pid, signal.SIGKILL)
            os.wait4(pid, 0)
            raise RuntimeError(f"no answer from {words} within {_TIMEOUT_S} s; run it by hand")
        time.sleep(_POLL_S)
    elapsed_s = time.perf_counter() - began
    os.kill(pid, signal.SIGTERM)
    _, _, usage = os.wait4(pid, 0)
    return Start(elapsed_s * 1000, usage.ru_minflt, usage.ru_majflt)


def _answers(port: int, request: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(request)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _monolite_words(data: Path, port: int) -> list[str]:
    return ["serve", "--data", str(data), "--listen", f"127.0.0.1:{port}"]


def _pocketbase_words(data: Path, port: int) -> list[str]:
    return ["serve", "--http", f"127.0.0.1:{port}", *servers.pocketbase_directories(data)]


def _print(measured: dict[str, list[Start]]) -> None:
    print(f"{'':<34}{'p50 ms':>8}{'p95 ms':>8}{'min–max':>14}{'minor':>9}{'major faults':>14}")
    for name, starts in measured.items():
        ms = [each.ms for each in starts]
        print(
            f"{name:<34}{statistics.median(ms):>8.0f}{p95(ms):>8.0f}"
            f"{f'{min(ms):.0f}–{max(ms):.0f}':>14}"
            f"{statistics.median(each.faults_minor for each in starts):>9.0f}"
            f"{statistics.median(each.faults_major for each in starts):>14.0f}"
        )


if __name__ == "__main__":
    sys.exit(main())
