"""PostgreSQL 16 at its best on this machine: a Unix socket, and memory for all of the data."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.postgres_server import PostgresServer

_START_TIMEOUT_S = 60.0
_SETTINGS = {
    "listen_addresses": "",
    # Everything lies in memory, so no page costs more than the next, and no plan is worth a JIT.
    "shared_buffers": "2GB",
    "effective_cache_size": "8GB",
    "random_page_cost": "1.1",
    "jit": "off",
    "work_mem": "64MB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "8GB",
    # Of loading only: what is measured reads.
    "fsync": "off",
    "autovacuum": "off",
}


class PostgresPeer(PostgresServer):
    """A cluster on a socket in its own directory, for superuser `postgres`."""

    def __init__(self, directory: Path, settings: Mapping[str, str]) -> None:
        super().__init__(directory)
        self.socket = directory
        self._settings = _SETTINGS | settings

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = self._settings | {"unix_socket_directories": str(self.socket)}
        words = [word for each in settings.items() for word in ("-c", "=".join(each))]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(self._data), *words],
                stdout=log,
                stderr=log,
                **self._as,
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.execute("SELECT 1")
            except Exception:  # of the socket, or of a server that is still starting
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()}")

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.socket}"


@contextmanager
def running(**settings: str) -> Iterator[PostgresPeer]:
    """A server that answers, removed at the end."""
    # Not below the figure's own directory: it runs as nobody, and a socket's path is short.
    directory = Path(tempfile.mkdtemp(prefix="monolite-pg-"))
    try:
        peer = PostgresPeer(directory, settings)
        peer.start()
        try:
            yield peer
        finally:
            with suppress(ProcessLookupError):
                peer.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
