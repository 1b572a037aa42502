"""dist/monolite, built anew when a source is newer than it."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.eventually import eventually

ROOT = Path(__file__).resolve().parents[2]
START_S = 30.0


@pytest.fixture(scope="session")
def executable() -> Path:
    """The one-file program of this checkout."""
    built = ROOT / "dist" / "monolite"
    sources = [ROOT / "server.py", ROOT / "schema.sql", ROOT / "requirements" / "runtime.txt"]
    for folder in ("monolite", "packaging"):
        sources += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".spec")]
    newest = max(path.stat().st_mtime for path in sources)
    if not built.exists() or built.stat().st_mtime < newest:
        subprocess.run([sys.executable, "packaging/build.py"], cwd=ROOT, check=True)
    return built


class Running:
    """A served process: the bootloader, and the server that is its child."""

    def __init__(self, executable: Path, folder: Path, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.unpacked = folder / "tmp"
        self.unpacked.mkdir(exist_ok=True)
        self.data = folder / "data"
        self.process = subprocess.Popen(
            [executable, "serve", "--data", self.data, "--listen", f"127.0.0.1:{self.port}"],
            # Neither a PATH nor a home: a machine without Python.
            env={"TMPDIR": str(self.unpacked), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def child(self) -> int:
        """The server's process."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(listed.split()[0])

    @property
    def directories(self) -> list[Path]:
        """What is unpacked at the moment."""
        return sorted(self.unpacked.glob("_MEI*"))

    def answers(self) -> bool:
        """Whether /healthz is 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def alive(process: int) -> bool:
    """Whether a process runs; one that waits to be reaped doesn't."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


@pytest.fixture
def serve(executable: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts the executable as often as it is called; ends what is left."""
    started: list[Running] = []

    def start(**environment: str) -> Running:
        running = Running(executable, tmp_path, **environment)
        started.append(running)
        eventually(running.answers, "/healthz answers 200")
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()
        eventually(lambda r=running: not r.answers(), "the server ends")  # type: ignore[misc]


def run(executable: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """One command to its end, on a machine without Python."""
    return subprocess.run(
        [executable, *arguments],
        env={"TMPDIR": environment.pop("TMPDIR", os.environ.get("TMPDIR", "/tmp")), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
