"""Streams and what they put off, over one store or the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from monolite.assembly_engines import Measures, Repeat
from monolite.clock import Clock, SteadyClock
from monolite.operator import triggers
from monolite.operator.health import Check
from monolite.storage.measures import PerSecond
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer
from monolite.streams.sqlite import SqliteStreamEngine
from monolite.streams.sqlite_groups import SqliteGroupEngine
from monolite.streams.sqlite_store import Store
from monolite.streams.sqlite_upkeep import SqliteStreamUpkeep
from monolite.streams.sqlite_within import SqliteWithin

_SECOND_S = 1.0
_FLUSH_S = 10.0
_MEASURE_S = 60.0
_EXPIRY_S = 3600.0
_LOOK_AGAIN_S = 60.0
_ANY = "SELECT 1 FROM streams WHERE deleted_at IS NULL LIMIT 1"


class SqliteStreaming:
    """Streams in the embedded database."""

    is_embedded = True

    def __init__(
        self, writer: Writer, readers: Readers, clock: Clock, event_bytes_max: int
    ) -> None:
        self.store = Store(writer, readers, now_ms=clock.now_ms, now_us=SteadyClock(clock).now_us)
        self.log = SqliteStreamEngine(self.store)
        self.groups = SqliteGroupEngine(self.store)
        self.within = SqliteWithin(self.store, event_bytes_max)
        self.upkeep = SqliteStreamUpkeep(self.store)
        self._readers = readers
        self._rate = PerSecond(clock.monotonic)
        self._counted = 0
        self._serves = False

    async def owns(self, tenant_id: int, stream: str, group: str) -> bool:
        return True

    async def has_streams(self) -> bool:
        found: object = self._readers.inline.execute(_ANY).fetchone()
        return found is not None

    async def erase_tenant(self, tenant_id: int) -> None:
        """Its rows go with the tenant's others."""

    def checks(self) -> Mapping[str, Callable[[], Check]]:
        return {}

    def start_serving(self, repeat: Repeat) -> None:
        self._serves = True
        repeat(self._each_second, _SECOND_S)
        repeat(self.upkeep.flush, _FLUSH_S)
        repeat(self.upkeep.measure, _MEASURE_S)
        repeat(self.upkeep.expire_consumers, _EXPIRY_S)
        repeat(self._clean, 0.0)

    async def stop(self) -> None:
        if self._serves:
            await self.upkeep.flush()

    async def _each_second(self) -> None:
        appended = self.store.appended_count
        self._rate.add(appended - self._counted)
        self._counted = appended
        await self.upkeep.retain()
        await self.upkeep.sweep()

    async def _clean(self) -> None:
        loop = asyncio.get_running_loop()
        self.store.work_waits.clear()
        started = loop.time()
        while await self.upkeep.clean():
            # Half of the time is others'.
            await asyncio.sleep(loop.time() - started)
            started = loop.time()
        try:
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await self.store.work_waits.wait()
        except TimeoutError:
            return

    def figures(self) -> list[triggers.Figure]:
        return triggers.stream_figures(
            events_per_second=lambda: self._rate.mean(60),
            retention_hours=lambda: self.upkeep.kept.hours,
            group_count=lambda: self.upkeep.kept.group_count,
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
        }

    def counters(self) -> Measures:
        return {
            "events_appended": ("Events appended.", self.store.appended_count),
            "events_dead": ("Events that a group gave up.", self.store.dead_count),
        }
