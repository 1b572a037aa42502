"""The rules of schedules, and what makes them tick.

Any server may bring a tick: whoever moves a schedule on from the tick it read adds its job in the
same transaction, and whoever comes second finds it moved. A schedule that missed ticks, since no
server ran or the clock jumped, runs once and goes on from now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from monolite.clock import Clock, Identifiers
from monolite.errors import DomainError, NotFound
from monolite.jobs import cron
from monolite.jobs.engine import Also, JobEngine
from monolite.jobs.job import Added, NewJob
from monolite.jobs.schedule import Schedule

DUE_AT_ONCE = 100
LOOK_AGAIN_S = 1.0
"""How long a look at the clock is trusted: it may be set meanwhile."""

log = logging.getLogger("monolite.jobs")

_MISSING = "There is no such schedule."


class Schedules:
    """The schedules of every tenant."""

    def __init__(self, engine: JobEngine, clock: Clock, identifiers: Identifiers) -> None:
        self._engine = engine
        self._clock = clock
        self._identifiers = identifiers
        self._moved = asyncio.Event()

    def moved(self) -> None:
        """A schedule may tick earlier than it was known to."""
        self._moved.set()

    async def put(
        self,
        tenant_id: int,
        name: str,
        *,
        expression: str,
        timezone: str,
        queue: str,
        job: NewJob,
        paused: bool,
        also: Also = None,
    ) -> tuple[Schedule, bool]:
        """Store a schedule, from whose next tick on jobs are added; whether it is new.

        Raises Invalid (`invalid_cron`, or for the zone).
        """
        now_ms = self._clock.now_ms()
        cron.check(expression, timezone, now_ms)
        before = await self._engine.schedule(tenant_id, name)
        schedule = Schedule(
            name,
            expression,
            timezone,
            queue,
            msgspec.json.encode(job._asdict()).decode(),
            paused,
            None if paused else cron.next_tick(expression, timezone, now_ms),
            None if before is None else before.last_at,
            None if before is None else before.last_job_id,
            now_ms if before is None else before.created_at,
            now_ms,
        )
        return schedule, await self._engine.put_schedule(tenant_id, schedule, also)

    async def find(self, tenant_id: int, name: str) -> Schedule:
        """One schedule."""
        schedule = await self._engine.schedule(tenant_id, name)
        if schedule is None:
            raise NotFound(_MISSING)
        return schedule

    async def find_many(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Schedule]:
        """A tenant's schedules by name."""
        return await self._engine.schedules(tenant_id, after or "", limit)

    async def delete(self, tenant_id: int, name: str) -> None:
        """Remove one; the jobs it added stay."""
        if not await self._engine.delete_schedule(tenant_id, name):
            raise NotFound(_MISSING)

    async def pause(self, tenant_id: int, name: str, paused: bool) -> Schedule:
        """Stop or resume ticks; those that pass meanwhile are not made up for."""
        schedule = await self.find(tenant_id, name)
        now_ms = self._clock.now_ms()
        next_at = None if paused else cron.next_tick(schedule.cron, schedule.timezone, now_ms)
        changed = replace(schedule, paused=paused, next_at=next_at, updated_at=now_ms)
        await self._engine.put_schedule(tenant_id, changed)
        return changed

    async def run_now(self, tenant_id: int, name: str, also: Also = None) -> Sequence[Added]:
        """Add its job now, beside its ticks."""
        schedule = await self.find(tenant_id, name)
        now_ms = self._clock.now_ms()
        job = self._job(schedule, now_ms)
        return await self._engine.add(tenant_id, schedule.queue, [job], now_ms, also)

    def next_runs(self, schedule: Schedule, count: int = 5) -> Sequence[int]:
        """Its next ticks, in ms."""
        if schedule.next_at is None:
            return ()
        later = cron.next_ticks(schedule.cron, schedule.timezone, schedule.next_at, count - 1)
        return (schedule.next_at, *later)

    # ── Ticking ────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Bring every tick, until cancelled."""
        while True:
            self._moved.clear()
            try:
                await self.tick()
                next_at = await self._engine.next_tick()
            except Exception:
                log.exception("schedules can't tick now; it is tried again")
                next_at = None
            wait_s = LOOK_AGAIN_S
            if next_at is not None:
                wait_s = min(wait_s, max(0.001, (next_at - self._clock.now_ms()) / 1000))
            try:
                async with asyncio.timeout(wait_s):
                    await self._moved.wait()
            except TimeoutError:
                pass

    async def tick(self) -> None:
        """Bring the ticks whose time has come."""
        while True:
            now_ms = self._clock.now_ms()
            due = await self._engine.due(now_ms, DUE_AT_ONCE)
            for tenant_id, schedule in due:
                await self._tick(tenant_id, schedule, now_ms)
            if len(due) < DUE_AT_ONCE:
                return

    async def _tick(self, tenant_id: int, schedule: Schedule, now_ms: int) -> None:
        try:
            next_at = cron.next_tick(schedule.cron, schedule.timezone, now_ms)
        except DomainError as error:
            # A zone that this machine doesn't know: it waits for one that does.
            log.error("a schedule can't tick here: %s", error.detail)
            return
        job = self._job(schedule, schedule.next_at or now_ms)
        await self._engine.tick(tenant_id, schedule, next_at, job, now_ms)

    def _job(self, schedule: Schedule, run_at: int) -> NewJob:
        fields = msgspec.json.decode(schedule.job)
        return NewJob(**{**fields, "id": self._identifiers.new(), "run_at": run_at})
