from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from monolite.storage.errors import QueueFull, ReadDeadline, StorageUnavailable
from monolite.storage.sqlite.connection import open_reader
from monolite.storage.sqlite.readers import Readers

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def path(opened: Callable[[], apsw.Connection], database: Path) -> Path:
    connection = opened()
    connection.execute("INSERT INTO pairs VALUES (1, 'one')")
    connection.close()
    return database


def one(connection: apsw.Connection) -> object:
    return connection.execute("SELECT value FROM pairs WHERE key = 1").fetchone()


def test_a_read_past_its_deadline_is_interrupted_and_the_connection_serves_on(path: Path) -> None:
    async def main() -> None:
        readers = Readers(
            lambda: open_reader(path), loop=asyncio.get_running_loop(), thread_count=1
        )
        assert readers.stats().thread_count == 0
        with pytest.raises(ReadDeadline):
            await readers.run(lambda c: c.execute(ENDLESS).fetchone(), deadline_s=0.05)
        assert await readers.run(one) == ("one",)
        assert readers.inline.execute("SELECT count(*) FROM pairs").fetchone() == (1,)
        assert readers.stats().deadlines_total == 1
        assert readers.stats().thread_count == 1
        assert readers.stats().p99_s > 0
        await readers.close()
        with pytest.raises(StorageUnavailable):
            await readers.run(one)

    asyncio.run(main())


def test_a_full_read_queue_refuses_at_once(path: Path) -> None:
    async def main() -> None:
        readers = Readers(
            lambda: open_reader(path),
            loop=asyncio.get_running_loop(),
            thread_count=1,
            queue_count_max=2,
        )
        release = threading.Event()
        waiting = [asyncio.ensure_future(readers.run(lambda c: release.wait(10))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await readers.run(one)
        release.set()
        assert await asyncio.gather(*waiting) == [True, True]
        assert await readers.run(one) == ("one",)
        await readers.close()

    asyncio.run(main())


def test_readers_cannot_write(path: Path) -> None:
    async def main() -> None:
        readers = Readers(lambda: open_reader(path), loop=asyncio.get_running_loop())
        with pytest.raises(apsw.ReadOnlyError):
            readers.inline.execute("DELETE FROM pairs")
        await readers.close()

    asyncio.run(main())


def test_an_error_in_a_read_reaches_its_caller_only(path: Path) -> None:
    async def main() -> None:
        readers = Readers(lambda: open_reader(path), loop=asyncio.get_running_loop())
        with pytest.raises(apsw.SQLError):
            await readers.run(lambda c: c.execute("SELECT nothing").fetchone())
        assert await readers.run(one) == ("one",)
        await readers.close()

    asyncio.run(main())
