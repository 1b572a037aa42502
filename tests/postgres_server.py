"""A real PostgreSQL 16 of the test's own, from the pgserver wheel, on a free port of loopback.

PostgreSQL refuses to run as root, so there the child becomes nobody, and its files lie outside
pytest's private directories. It speaks TCP alone: a path to a socket may be too long.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg

from tests.server_process import free_port

START_TIMEOUT_S = 60.0
_NOBODY = 65534
_numbers = count(1)


class PostgresServer:
    """One cluster; `kill` and `start` take it away and bring it back on the same port."""

    def __init__(self, directory: Path) -> None:
        spec = find_spec("pgserver")
        assert spec is not None
        assert spec.origin is not None
        self._programs = Path(spec.origin).parent / "pginstall" / "bin"
        self._as: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0:
            self._as |= {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            os.chown(directory, _NOBODY, _NOBODY)
        self._data = directory / "data"
        self._log = directory / "log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [
                *(self._programs / "initdb", "-D", self._data, "-U", "postgres"),
                *("--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            **self._as,
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._programs / "postgres", "-D", self._data, "-p", str(self.port)),
                    *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
                    *("-c", "fsync=off", "-c", "max_connections=200"),
                    *("-c", "shared_buffers=32MB", "-c", "shared_memory_type=mmap"),
                ],
                stdout=log,
                stderr=log,
                **self._as,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.execute("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"PostgreSQL did not start:\n{self._log.read_text()}")

    def stop(self, number: int = signal.SIGINT) -> None:
        """Signal it and wait; SIGINT is its fast shutdown, SIGQUIT the one that is like a crash."""
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """A fresh database's URL."""
        name = f"test_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str, url: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement over a connection of its own; returns its rows."""

        async def run() -> list[tuple[Any, ...]]:
            connection = await asyncpg.connect(url or self.url("postgres"), timeout=10)
            try:
                return [tuple(row) for row in await connection.fetch(statement)]
            finally:
                await connection.close()

        return asyncio.run(run())


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server that answers, removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="monolite-pg-"))
    try:
        server = PostgresServer(directory)
        server.start()
        try:
            yield server
        finally:
            with suppress(ProcessLookupError):
                server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
