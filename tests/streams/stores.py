"""Stores of streams in this process, with a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from monolite.storage.sqlite.connection import open_reader, open_writer
from monolite.storage.sqlite.migrate import create_database
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.schema import shipped_schema
from monolite.storage.sqlite.writer import Writer
from monolite.streams.engine import GroupEngine, StreamEngine
from monolite.streams.redis import RedisStreamEngine
from monolite.streams.redis_connection import RedisConnection
from monolite.streams.redis_groups import RedisGroupEngine
from monolite.streams.redis_store import RedisStore
from monolite.streams.redis_upkeep import RedisStreamUpkeep
from monolite.streams.sqlite import SqliteStreamEngine
from monolite.streams.sqlite_groups import SqliteGroupEngine
from monolite.streams.sqlite_store import Store
from monolite.streams.sqlite_upkeep import SqliteStreamUpkeep
from monolite.streams.waiting import Waiting

T = TypeVar("T")
START_MS = 1_763_871_234_567


class FakeClock:
    """Wall time that may jump, and steady time that does not."""

    def __init__(self) -> None:
        self.wall_ms = START_MS
        self.steady_us = START_MS * 1000

    def now_ms(self) -> int:
        return self.wall_ms

    def now_us(self) -> int:
        return self.steady_us

    def monotonic(self) -> float:
        return self.steady_us / 1e6

    def pass_ms(self, ms: float) -> None:
        self.wall_ms += int(ms)
        self.steady_us += int(ms * 1000)


class OpenStore(Protocol):
    """A store, opened in a loop of its own."""

    log: StreamEngine
    groups: GroupEngine

    def run(self, awaitable: Awaitable[T]) -> T: ...

    def sweep(self) -> None: ...

    def clean(self) -> None: ...

    def restart(self) -> None: ...

    def close(self) -> None: ...


class SqliteStore:
    """A file of its own."""

    def __init__(self, path: Path, clock: FakeClock) -> None:
        self._path = path
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        create_database(path, schema=shipped_schema(), now_ms=0)
        self.run(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self.writer = Writer(
            lambda: open_writer(self._path, synchronous="normal", autocheckpoint=True),
            loop=loop,
            commit_on_loop=True,
        )
        self.writer.start()
        self.readers = Readers(lambda: open_reader(self._path), loop=loop)
        self.store = Store(
            self.writer, self.readers, now_ms=self._clock.now_ms, now_us=self._clock.now_us
        )
        self.log = SqliteStreamEngine(self.store)
        self.groups = SqliteGroupEngine(self.store)
        self.upkeep = SqliteStreamUpkeep(self.store)

    def run(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return self._loop.run_until_complete(wait())

    def call(self, make: Callable[[], Awaitable[T]]) -> T:
        """For what looks for the running loop before it is awaited."""

        async def wait() -> T:
            return await make()

        return self._loop.run_until_complete(wait())

    def sweep(self) -> None:
        self.run(self.upkeep.sweep())

    def clean(self) -> None:
        while self.run(self.upkeep.clean()):
            pass

    def restart(self) -> None:
        self.run(self._close())
        self.run(self._open())

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """Rows as the writer sees them."""
        return self.run(self.writer.submit(lambda c: c.execute(statement, values).fetchall()))

    async def _close(self) -> None:
        await self.writer.close()
        await self.readers.close()

    def close(self) -> None:
        self.run(self._close())
        self._loop.close()


class ValkeyStore:
    """A database of a Valkey, emptied."""

    def __init__(self, url: str, clock: FakeClock) -> None:
        self._url = url
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        self.run(self._open(is_new=True))

    async def _open(self, *, is_new: bool = False) -> None:
        self.connection = RedisConnection(self._url)
        if is_new:
            await self.connection.send(("FLUSHDB",))
        clock = self._clock
        self.store = RedisStore(
            self.connection,
            Waiting(),
            None,
            times=lambda: (str(clock.now_ms()), str(clock.now_us())),
        )
        self.log = RedisStreamEngine(self.store)
        self.groups = RedisGroupEngine(self.store)
        self.upkeep = RedisStreamUpkeep(self.store)

    def run(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return self._loop.run_until_complete(wait())

    def sweep(self) -> None:
        self.run(self.upkeep.sweep())

    def clean(self) -> None:
        self.run(self.upkeep.measure())

    def restart(self) -> None:
        self.run(self.connection.close())
        self.run(self._open())

    def close(self) -> None:
        self.run(self.connection.close())
        self._loop.close()
