"""A data directory with one table, a writer, and replication: what the server assembles."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw

from monolite.clock import SystemClock
from monolite.replication import manifest
from monolite.replication.core import Replication
from monolite.replication.errors import ReplicationUnavailable
from monolite.replication.restore import restore
from monolite.replication.settings import ReplicaSettings
from monolite.replication.status import RestoreReport
from monolite.storage.sqlite.connection import open_writer

LOG = logging.getLogger("monolite.test.replication")


class Installation:
    def __init__(self, path: Path, settings: ReplicaSettings) -> None:
        self.path = path
        self.settings = settings
        self.database = path / "monolite.db"

    def open(self) -> apsw.Connection:
        self.path.mkdir(exist_ok=True)
        writer = open_writer(self.database, synchronous="normal", autocheckpoint=False)
        writer.execute(
            "CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT) STRICT"
        )
        if not writer.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (manifest.TABLE,)).get:
            writer.execute(manifest.DDL)
        return writer

    def replication(self, settings: ReplicaSettings | None = None) -> Replication:
        return Replication(
            settings or self.settings,
            self.database,
            self.path / "replica",
            clock=SystemClock(),
            log=LOG,
        )

    @asynccontextmanager
    async def running(
        self, settings: ReplicaSettings | None = None
    ) -> AsyncIterator[tuple[apsw.Connection, Replication]]:
        writer = self.open()
        replication = self.replication(settings)
        await replication.start()
        try:
            yield writer, replication
        finally:
            await replication.stop()
            writer.close()

    def burn(self) -> None:
        shutil.rmtree(self.path)

    def restore(self, **options: object) -> RestoreReport | None:
        return restore(self.settings, self.database, progress=LOG.info, **options)  # type: ignore[arg-type]

    def notes(self) -> list[str]:
        connection = apsw.Connection(str(self.database), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return [row[0] for row in connection.execute("SELECT text FROM notes ORDER BY id")]
        finally:
            connection.close()


def add(writer: apsw.Connection, *texts: str) -> None:
    for text in texts:
        writer.execute("INSERT INTO notes (text) VALUES (?)", (text,))


async def until(condition: Callable[[], bool], seconds_max: float = 20.0) -> None:
    """Waits for a condition; fails when it doesn't come."""
    async with asyncio.timeout(seconds_max):
        while not condition():
            await asyncio.sleep(0.02)


async def eventually_replicated(replication: Replication, seconds_max: float = 30.0) -> None:
    """A barrier, tried again while Litestream comes back."""
    async with asyncio.timeout(seconds_max):
        while True:
            try:
                await replication.barrier()
            except ReplicationUnavailable:
                await asyncio.sleep(0.05)
            else:
                return
