"""The options every figure has, and the run around it."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench import machine, servers
from bench.servers import SOURCE


def parser(
    doc: str, name: str, *, rounds: int | None, seconds: float | None
) -> argparse.ArgumentParser:
    """A parser with the common options and their defaults for one figure."""
    repeats = "" if rounds is None else f" --rounds {rounds + 2}"
    made = argparse.ArgumentParser(
        prog=f"python -m bench {name}",
        description=doc,
        epilog=f"Example: python -m bench {name}{repeats}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if rounds is not None:
        made.add_argument(
            "--rounds", type=int, default=rounds, help="repeats of each (%(default)s)"
        )
    if seconds is not None:
        made.add_argument(
            "--seconds", type=float, default=seconds, help="of load, each run (%(default)s)"
        )
        made.add_argument("--connections", type=int, default=64, help="kept alive (%(default)s)")
        made.add_argument(
            "--documents", type=int, default=100_000, help="stored before (%(default)s)"
        )
        made.add_argument(
            "--executable", metavar="FILE", help="measure this executable instead of the source"
        )
    return made


def command_of(options: argparse.Namespace) -> tuple[str, ...]:
    """What starts our server."""
    return SOURCE if options.executable is None else (str(Path(options.executable).resolve()),)


def measure(body: Callable[[Path], int]) -> int:
    """Runs a figure alone, in a directory that goes with it."""
    with machine.run_lock(), tempfile.TemporaryDirectory(prefix="monolite-bench-") as name:
        print(machine.describe())
        try:
            return body(Path(name))
        finally:
            servers.stop_all()
