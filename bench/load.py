"""load.c from Python: compiled on first use, its answer a value."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).with_name("load.c")


@dataclass(frozen=True)
class Target:
    """What to request: `paths` is a file with one path a line, `{n}` in `body` a number.

    `bodies` is a file with one body a line, sent in turn.
    """

    port: int
    paths: Path
    method: str = "GET"
    body: str | None = None
    bodies: Path | None = None
    headers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Load:
    """What one run of the generator counted."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class LoadFailed(Exception):
    """Answers other than 2xx, or broken connections: its figure would be of something else."""


def run(
    target: Target,
    *,
    seconds: float,
    connections: int = 64,
    warm_up_s: float = 0.5,
    requests_per_s: float | None = None,
) -> Load:
    """Load one server, as fast as it answers or at a rate, latencies then counted from when each
    request was due. Raises LoadFailed where any answer was not a success."""
    command = [str(_executable()), "-p", str(target.paths), "-m", target.method]
    command += ["-c", str(connections), "-d", str(seconds), "-w", str(warm_up_s)]
    if requests_per_s is not None:
        command += ["-r", str(requests_per_s)]
    for header in target.headers:
        command += ["-H", header]
    if target.body is not None:
        command += ["-b", target.body]
    if target.bodies is not None:
        command += ["-B", str(target.bodies)]
    done = subprocess.run([*command, "127.0.0.1", str(target.port)], capture_output=True, text=True)
    if done.returncode:
        raise LoadFailed(done.stderr.strip())
    counted = json.loads(done.stdout)
    if counted["refusals"] or counted["breaks"] or not counted["answers"]:
        raise LoadFailed(
            f"{counted['answers']} answers, {counted['refusals']} of them not 2xx, "
            f"{counted['breaks']} broken connections\n{done.stderr.strip()}"
        )
    return Load(
        requests_per_s=counted["answers"] / counted["seconds"],
        p50_ms=counted["p50_us"] / 1000,
        p99_ms=counted["p99_us"] / 1000,
        p999_ms=counted["p999_us"] / 1000,
        max_ms=counted["max_us"] / 1000,
    )


@cache
def _executable() -> Path:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise LoadFailed("no C compiler; install gcc, or name one in CC")
    digest = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    # In a directory of its own user: a name in /tmp alone could be another's program.
    folder = Path(tempfile.gettempdir()) / f"monolite-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise LoadFailed(f"{folder} belongs to another user; remove it")
    target = folder / f"load-{digest}"
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O2", "-o", str(partial), str(_SOURCE)], check=True)
        partial.rename(target)
    return target
