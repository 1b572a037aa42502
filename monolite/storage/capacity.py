"""How many writes a second this machine takes: measured, so that a trigger can name a share of it.

The real writer commits one-row inserts for 64 waiting callers into a scratch file on the volume of
the data directory: the same fsync, the same thread, without HTTP. An upper bound for the server.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw

from monolite.storage.errors import from_os_error
from monolite.storage.sqlite.connection import Synchronous, open_writer
from monolite.storage.sqlite.writer import Writer

CALLER_COUNT = 64
ROW_BYTES = 256


@dataclass(frozen=True, slots=True)
class WriteCapacity:
    """What was measured, and at which durability."""

    synchronous: Synchronous
    writes_per_s: float
    commit_p99_s: float


async def measure_write_capacity(
    directory: Path,
    *,
    synchronous: Synchronous,
    duration_s: float = 2.0,
    monotonic: Callable[[], float] = time.monotonic,
) -> WriteCapacity:
    """Writes for `duration_s` in `directory` and removes what it wrote. Raises StorageError."""
    try:
        with tempfile.TemporaryDirectory(prefix=".capacity-", dir=directory) as scratch:
            return await _measure(Path(scratch) / "scratch.db", synchronous, duration_s, monotonic)
    except OSError as error:
        raise from_os_error(error, f"write a scratch file in {directory}") from error


async def _measure(
    path: Path, synchronous: Synchronous, duration_s: float, monotonic: Callable[[], float]
) -> WriteCapacity:
    def opened() -> apsw.Connection:
        connection = open_writer(path, synchronous=synchronous, autocheckpoint=True)
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body BLOB) STRICT")
        return connection

    body = bytes(ROW_BYTES)

    def insert(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO rows (body) VALUES (?)", (body,))

    writer = Writer(opened, loop=asyncio.get_running_loop(), monotonic=monotonic)
    writer.start()
    started = monotonic()

    async def caller() -> None:
        while monotonic() - started < duration_s:
            await writer.submit(insert)

    try:
        await asyncio.gather(*(caller() for _ in range(CALLER_COUNT)))
        took_s = monotonic() - started
    finally:
        await writer.close()
    stats = writer.stats()
    return WriteCapacity(synchronous, stats.writes_total / took_s, stats.commits.quantile_s(0.99))
