"""Streams in Redis, beside either database."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

from monolite.assembly_engines import Measures, Repeat
from monolite.clock import Clock
from monolite.errors import FieldError, Invalid
from monolite.operator import triggers
from monolite.operator.health import Check
from monolite.storage.errors import StorageError, StorageUnavailable
from monolite.storage.measures import PerSecond
from monolite.streams.archive import KINDS
from monolite.streams.redis import RedisStreamEngine
from monolite.streams.redis_archive import Misfit, RedisStreamArchive
from monolite.streams.redis_connection import RedisConnection
from monolite.streams.redis_groups import RedisGroupEngine
from monolite.streams.redis_news import RedisNews
from monolite.streams.redis_store import RedisStore
from monolite.streams.redis_upkeep import RedisStreamUpkeep
from monolite.streams.waiting import Waiting
from monolite.tenancy.portability import BATCH_BYTES, ArchiveEngine, Record, size_of

_SECOND_S = 1.0
_MEASURE_S = 60.0
_EXPIRY_S = 3600.0

OWNED_MS = 15_000
"""How long a server that died keeps a webhook's group from the others."""

_ASK_AGAIN_S = 5.0
INSTALLATION = "monolite:installation"
_VERSION_MIN = (7, 0)


class RedisStreaming:
    """Streams in one Redis or Valkey."""

    is_embedded = False
    within = None

    def __init__(self, url: str, clock: Clock) -> None:
        self.connection = RedisConnection(url)
        waiting = Waiting()
        server = os.urandom(8).hex()
        self._news = RedisNews(url, waiting, server)
        self.store = RedisStore(self.connection, waiting, self._news, server=server)
        self.log = RedisStreamEngine(self.store)
        self.groups = RedisGroupEngine(self.store)
        self.upkeep = RedisStreamUpkeep(self.store)
        self._owned: dict[tuple[int, str, str], float] = {}
        self._rate = PerSecond(clock.monotonic)
        self._counted = 0
        self._memory = (0, 0)

    async def open(self, installation: str) -> None:
        """Raises StorageUnavailable where this Redis can't be used."""
        info = _info(await self.connection.send(("INFO", "server")))
        version = info.get("redis_version", "0.0")
        if tuple(int(part) for part in version.split(".")[:2]) < _VERSION_MIN:
            raise StorageUnavailable(f"streams need Redis 7 or Valkey, and this is {version}")
        await self.connection.send(("SET", INSTALLATION, installation, "NX"))
        holder = await self.connection.send(("GET", INSTALLATION))
        if holder != installation.encode():
            raise StorageUnavailable(
                "this Redis database holds the streams of another installation: name another "
                "database at the end of MONOLITE_STREAMS_URL, like redis://host:6379/1"
            )
        await self._measure()

    async def has_streams(self) -> bool:
        """Whether there is one."""
        return bool(await self.connection.send(("ZCARD", "monolite:streams")))

    async def erase_tenant(self, tenant_id: int) -> None:
        await self.log.delete_tenant(tenant_id)

    async def owns(self, tenant_id: int, stream: str, group: str) -> bool:
        place, now = (tenant_id, stream, group), time.monotonic()
        if self._owned.get(place, 0.0) > now:
            return True
        is_ours = await self.store.call("own", *place, self.store.server, OWNED_MS)
        if is_ours:
            self._owned[place] = now + _ASK_AGAIN_S
        return bool(is_ours)

    def start_serving(self, repeat: Repeat) -> None:
        repeat(self._each_second, _SECOND_S)
        repeat(self._measure, _MEASURE_S)
        repeat(self.upkeep.expire_consumers, _EXPIRY_S)

    async def stop(self) -> None:
        await self._news.close()
        for place in self._owned:
            # Another server, or this one begun anew, need not wait for the end of its time.
            with suppress(StorageError):
                await self.store.call("disown", *place, self.store.server)
        await self.connection.close()

    async def _each_second(self) -> None:
        appended = self.store.appended_count
        self._rate.add(appended - self._counted)
        self._counted = appended
        await self.upkeep.retain()
        await self.upkeep.sweep()

    async def _measure(self) -> None:
        info = _info(await self.connection.send(("INFO", "memory")))
        most = int(info.get("maxmemory", "0")) or int(info.get("total_system_memory", "0"))
        self._memory = (int(info.get("used_memory", "0")), most)
        await self.upkeep.measure()

    def checks(self) -> Mapping[str, Callable[[], Check]]:
        return {"streams": self._check}

    def _check(self) -> Check:
        if not self.connection.is_connected:
            return Check(False, "Redis does not answer; see its log")
        used, most = self._memory
        return Check(True, f"Redis uses {used} of {most} bytes")

    def figures(self) -> list[triggers.Figure]:
        return triggers.redis_figures(
            memory_bytes=lambda: float(self._memory[0]),
            memory_bytes_max=lambda: float(self._memory[1]),
        )

    def gauges(self) -> Measures:
        return {
            "stream_waiting_consumers": (
                "Consumers that wait for an event.",
                self.store.waiting.count,
            ),
            "stream_retention_seconds": (
                "Age of the oldest event that is kept.",
                self.upkeep.kept.hours * 3600,
            ),
            "redis_up": ("Redis answers.", float(self.connection.is_connected)),
            "redis_memory_bytes": ("Memory that Redis uses.", self._memory[0]),
        }

    def counters(self) -> Measures:
        return {
            "events_appended": ("Events appended.", self.store.appended_count),
            "events_dead": ("Events that a group gave up.", self.store.dead_count),
        }

    def archives_beside(self, database: ArchiveEngine) -> ArchiveEngine:
        """The records of a tenant: the database's, and its streams."""
        return _Archives(database, RedisStreamArchive(self.store))


async def open_redis(url: str, installation: str, clock: Clock) -> RedisStreaming:
    """Connect. Raises StorageError where this Redis can't be used."""
    try:
        streaming = RedisStreaming(url, clock)
    except ValueError as error:
        raise StorageUnavailable(f"MONOLITE_STREAMS_URL can't be read: {error}") from None
    try:
        await streaming.open(installation)
    except StorageError:
        await streaming.stop()
        raise
    return streaming


class _Archives:
    """Two stores' records of a tenant as one."""

    def __init__(self, database: ArchiveEngine, streams: RedisStreamArchive) -> None:
        self._database = database
        self._streams = streams
        self.kinds = database.kinds | frozenset(KINDS)

    @asynccontextmanager
    async def snapshot(
        self, tenant_number: int, batch_count: int
    ) -> AsyncIterator[AsyncIterator[Sequence[Record]]]:
        async with self._database.snapshot(tenant_number, batch_count) as batches:
            yield self._batches(batches, tenant_number, batch_count)

    async def _batches(
        self, batches: AsyncIterator[Sequence[Record]], tenant_number: int, batch_count: int
    ) -> AsyncIterator[Sequence[Record]]:
        async for batch in batches:
            yield batch
        gathered: list[Record] = []
        size = 0
        records: Any = self._streams.records(tenant_number)
        async with aclosing(records):
            async for record in records:
                gathered.append(record)
                size += size_of(record)
                if len(gathered) >= batch_count or size >= BATCH_BYTES:
                    yield gathered
                    gathered, size = [], 0
        if gathered:
            yield gathered

    async def store(self, tenant_number: int, records: Sequence[Record]) -> None:
        await self._database.store(
            tenant_number, [record for record in records if record["kind"] not in KINDS]
        )
        for record in records:
            if record["kind"] in KINDS:
                try:
                    await self._streams.store(tenant_number, record)
                except Misfit:
                    why = f"a {record['kind']} of the export does not fit"
                    raise Invalid(why, [FieldError("#", why)]) from None


def _info(reply: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in reply.decode().splitlines())
    return {name: value for name, _, value in lines if name}
