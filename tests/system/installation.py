"""A real server over a data directory that outlives it, to be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import apsw

ROOT = Path(__file__).parent.parent.parent
CHECKOUT: tuple[str, ...] = (sys.executable, str(ROOT / "server.py"))
EXECUTABLE: tuple[str, ...] = (str(ROOT / "dist" / "monolite"),)
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


class Installation:
    """One data directory and the command that serves it; at most one server at a time."""

    def __init__(self, data: Path, command: Sequence[str] = CHECKOUT, **settings: str) -> None:
        self.data = data
        self.command = tuple(command)
        self.settings = {"MONOLITE_RATE_LIMIT": "off", **settings}
        self.log = data.with_name(data.name + ".log")
        self.port = free_port()
        self.process: subprocess.Popen[bytes]

    def environment(self, **settings: str) -> dict[str, str]:
        """This process's environment without foreign settings, with the installation's."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MONOLITE_", "AWS_", "NOTIFY_", "WATCHDOG_"))
        }
        return kept | self.settings | settings

    def launch(self, *, before: Sequence[str] = (), **settings: str) -> None:
        """Start serving without waiting; `before` are words in front of the command."""
        self.port = free_port()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(*before, *self.command, "serve"),
                    *("--data", str(self.data), "--listen", f"127.0.0.1:{self.port}"),
                ],
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=self.environment(**settings),
            )

    def start(self, *, path: str = "/readyz", before: Sequence[str] = (), **settings: str) -> None:
        """Start serving and wait until `path` answers 200."""
        self.launch(before=before, **settings)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5):
                    return
            except (urllib.error.HTTPError, OSError):
                time.sleep(0.01)
        self.end()
        raise AssertionError(f"the server did not come up:\n{self.log.read_text()}")

    def kill(self) -> None:
        """SIGKILL, as a crash or the kernel would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM and wait; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_TIMEOUT_S)

    def end(self) -> None:
        """Make sure that nothing runs any more."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.kill()

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """One command of the same program on the same data directory, to its end."""
        return subprocess.run(
            [*self.command, *arguments, "--data", str(self.data)],
            capture_output=True,
            text=True,
            timeout=120,
            env=self.environment(**settings),
            check=False,
        )

    def operator_key(self) -> str:
        return (self.data / "operator.key").read_text().strip()

    def make_tenant(self, name: str) -> str:
        """A tenant's first key, from the command line."""
        done = self.run("tenant", "create", name)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def integrity(self) -> str:
        """What `PRAGMA integrity_check` says; "ok" where all is well."""
        connection = apsw.Connection(
            str(self.data / "monolite.db"), flags=apsw.SQLITE_OPEN_READWRITE
        )
        try:
            return str(connection.execute("PRAGMA integrity_check").get)
        finally:
            connection.close()

    def destroy(self) -> None:
        """Lose the machine's disk."""
        self.end()
        shutil.rmtree(self.data)


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
