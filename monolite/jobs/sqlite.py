"""Jobs in SQLite."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import apsw

from monolite.jobs import sqlite_claims as claims
from monolite.jobs import sqlite_jobs as rows
from monolite.jobs import sqlite_queues as queues
from monolite.jobs import sqlite_schedules as schedules
from monolite.jobs.engine import Also, Changed, Claim, Delay, Position
from monolite.jobs.job import (
    STATES,
    Added,
    Claimed,
    Held,
    Job,
    NewJob,
    Queue,
    QueueSettings,
    State,
)
from monolite.jobs.refusals import no_job
from monolite.jobs.schedule import Schedule
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer

TENANT_TABLES = (
    "job_ready",
    "job_future",
    "job_blocked",
    "job_running",
    "job_claims",
    "job_unique_keys",
    "job_concurrency",
    "job_schedules",
    "jobs",
    "job_queues",
)

SHORT_COUNT = 200
"""Jobs that are added or completed on the loop itself; more go to the thread."""

T = TypeVar("T")


class SqliteJobEngine:
    """The embedded JobEngine. `delay` is how long a failed job waits."""

    def __init__(self, writer: Writer, readers: Readers, *, delay: Delay) -> None:
        self._writer = writer
        self._readers = readers
        self._delay = delay
        self._changed: Changed | None = None
        self._schedules_changed: Callable[[], None] = lambda: None
        self._touched: dict[tuple[int, str], int] = {}
        self._ticks_moved = False
        writer.on_commit.append(self._tell)

    # ── Producers ──────────────────────────────────────────────────────────────────────────────

    def add(
        self, tenant_id: int, queue: str, jobs: Sequence[NewJob], now_ms: int, also: Also = None
    ) -> Awaitable[Sequence[Added]]:
        def work(connection: apsw.Connection) -> Sequence[Added]:
            added = self._add(connection, tenant_id, queue, jobs, now_ms)
            if also is not None:
                also(connection, added)
            return added

        is_long = len(jobs) > SHORT_COUNT
        return self._writer.submit(work, is_long=is_long, is_prompt=not is_long)

    def _add(
        self,
        connection: apsw.Connection,
        tenant_id: int,
        queue: str,
        jobs: Sequence[NewJob],
        now_ms: int,
    ) -> Sequence[Added]:
        queue_id = queues.opened(connection, tenant_id, queue, now_ms)
        added = rows.add(connection, tenant_id, queue_id, jobs, now_ms)
        self._touch(tenant_id, queue, len(added))
        return added

    async def cancel(self, tenant_id: int, job_id: str, now_ms: int) -> Job:
        def work(connection: apsw.Connection) -> Job:
            rows.cancel(connection, tenant_id, job_id, now_ms, partial(self._wake, connection))
            return _found(connection, tenant_id, job_id, now_ms)

        return await self._writer.submit(work, is_prompt=True)

    async def retry(self, tenant_id: int, job_id: str, now_ms: int) -> Job:
        def work(connection: apsw.Connection) -> Job:
            rows.retry(connection, tenant_id, job_id, now_ms, partial(self._wake, connection))
            return _found(connection, tenant_id, job_id, now_ms)

        return await self._writer.submit(work, is_prompt=True)

    # ── Workers ────────────────────────────────────────────────────────────────────────────────

    async def claim(self, claim: Claim) -> Claimed:
        seen = claims.outlook(self._readers.inline, claim)
        if not seen.is_ready:
            return Claimed((), claim.secret, seen.next_at)

        def work(connection: apsw.Connection) -> Claimed | None:
            return claims.claim(connection, claim, partial(self._wake, connection))

        claimed = await self._writer.submit(work, is_prompt=True)
        while claimed is None:
            await self._promote(claim)
            claimed = await self._writer.submit(work, is_prompt=True)
        return claimed

    async def _promote(self, claim: Claim) -> None:
        def work(connection: apsw.Connection) -> int:
            queue = queues.row_of(connection, claim.tenant_id, claim.queue)
            if queue is None:
                return 0
            return claims.promote(connection, claim.tenant_id, queue.id, claim.now_ms, _MANY)

        while await self._writer.submit(work, is_long=True) == _MANY:
            pass

    async def complete(
        self, tenant_id: int, held: Sequence[Held], now_ms: int
    ) -> Sequence[tuple[str, State | None]]:
        def work(connection: apsw.Connection) -> Sequence[tuple[str, State | None]]:
            wake = partial(self._wake, connection)
            return claims.complete(connection, tenant_id, held, now_ms, wake)

        is_long = len(held) > SHORT_COUNT
        return await self._writer.submit(work, is_long=is_long, is_prompt=not is_long)

    async def fail(
        self, tenant_id: int, held: Held, error: str, retry_in_ms: int | None, now_ms: int
    ) -> Job:
        def work(connection: apsw.Connection) -> Job:
            wake = partial(self._wake, connection)
            claims.fail(connection, tenant_id, held, error, retry_in_ms, now_ms, self._delay, wake)
            return _found(connection, tenant_id, held.id, now_ms)

        return await self._writer.submit(work, is_prompt=True)

    async def extend(self, tenant_id: int, held: Held, lease_ms: int, now_ms: int) -> int:
        work = partial(
            claims.extend, tenant_id=tenant_id, held=held, lease_ms=lease_ms, now_ms=now_ms
        )
        return await self._writer.submit(work, is_prompt=True)

    # ── Looking ────────────────────────────────────────────────────────────────────────────────

    async def job(self, tenant_id: int, job_id: str, now_ms: int) -> Job | None:
        return rows.find(self._readers.inline, tenant_id, job_id, now_ms)

    async def jobs(
        self,
        tenant_id: int,
        queue: str,
        state: State | None,
        after: Position | None,
        limit: int,
        now_ms: int,
    ) -> Sequence[tuple[Job, Position]] | None:
        def read(connection: apsw.Connection) -> Sequence[tuple[Job, Position]] | None:
            queue_id = queues.id_of(connection, tenant_id, queue)
            if queue_id is None:
                return None
            states = STATES if state is None else (state,)
            if after is not None:
                states = states[states.index(after.state) :]
            found: list[tuple[Job, Position]] = []
            for one in states:
                start = after.order if after is not None and one == after.state else rows.START
                found += rows.find_many(
                    connection, tenant_id, queue_id, one, start, limit - len(found), now_ms
                )
                if len(found) >= limit:
                    break
            return found

        return await self._readers.run(read)

    # ── Queues ─────────────────────────────────────────────────────────────────────────────────

    async def queue(self, tenant_id: int, name: str) -> Queue | None:
        return queues.find(self._readers.inline, tenant_id, name)

    async def queues(self, tenant_id: int, after: str, limit: int) -> Sequence[Queue]:
        return queues.find_many(self._readers.inline, tenant_id, after, limit)

    async def calling(self, now_ms: int, limit: int) -> Sequence[tuple[int, str]]:
        return queues.calling(self._readers.inline, limit)

    async def define_queue(
        self, tenant_id: int, name: str, settings: QueueSettings, now_ms: int
    ) -> tuple[Queue, bool]:
        def work(connection: apsw.Connection) -> tuple[Queue, bool]:
            self._touch(tenant_id, name, 0)
            return queues.define(connection, tenant_id, name, settings, now_ms)

        return await self._writer.submit(work, is_prompt=True)

    async def pause(self, tenant_id: int, name: str, paused: bool, now_ms: int) -> Queue | None:
        def work(connection: apsw.Connection) -> Queue | None:
            self._touch(tenant_id, name, 0)
            return queues.set_paused(connection, tenant_id, name, paused, now_ms)

        return await self._writer.submit(work, is_prompt=True)

    # ── Schedules ──────────────────────────────────────────────────────────────────────────────

    async def put_schedule(self, tenant_id: int, schedule: Schedule, also: Also = None) -> bool:
        def work(connection: apsw.Connection) -> bool:
            is_new = schedules.put(connection, tenant_id, schedule)
            if also is not None:
                also(connection, is_new)
            self._ticks_moved = True
            return is_new

        return await self._writer.submit(work, is_prompt=True)

    async def schedule(self, tenant_id: int, name: str) -> Schedule | None:
        return schedules.find(self._readers.inline, tenant_id, name)

    async def schedules(self, tenant_id: int, after: str, limit: int) -> Sequence[Schedule]:
        return schedules.find_many(self._readers.inline, tenant_id, after, limit)

    async def delete_schedule(self, tenant_id: int, name: str) -> bool:
        return await self._writer.submit(partial(schedules.delete, tenant_id=tenant_id, name=name))

    async def due(self, now_ms: int, limit: int) -> Sequence[tuple[int, Schedule]]:
        return schedules.due(self._readers.inline, now_ms, limit)

    async def next_tick(self) -> int | None:
        return schedules.next_tick(self._readers.inline)

    async def tick(
        self, tenant_id: int, schedule: Schedule, next_at: int | None, job: NewJob, now_ms: int
    ) -> bool:
        def work(connection: apsw.Connection) -> bool:
            moved = schedules.move_on(connection, tenant_id, schedule, next_at, job.id, now_ms)
            if moved:
                self._add(connection, tenant_id, schedule.queue, [job], now_ms)
            return moved

        return await self._writer.submit(work, is_prompt=True)

    # ── Beside ─────────────────────────────────────────────────────────────────────────────────

    def follow(self, changed: Changed, schedules_changed: Callable[[], None]) -> None:
        # No other process writes: what is committed is known here.
        self._changed, self._schedules_changed = changed, schedules_changed

    async def rescue(self, now_ms: int) -> bool:
        if not claims.is_any_expired(self._readers.inline, now_ms):
            return False

        def work(connection: apsw.Connection) -> bool:
            return claims.rescue(connection, now_ms, partial(self._wake, connection))

        return await self._writer.submit(work, is_long=True)

    async def expire(self, now_ms: int, retention_s: int) -> bool:
        work = partial(rows.expire, now_ms=now_ms, retention_s=retention_s)
        return await self._writer.submit(work, is_long=True)

    def _wake(self, connection: apsw.Connection, tenant_id: int, queue_id: int, count: int) -> None:
        if count:
            self._touch(tenant_id, queues.name_of(connection, queue_id), count)

    def _touch(self, tenant_id: int, queue: str, count: int) -> None:
        key = (tenant_id, queue)
        # 0 is everyone: what changed is the queue itself.
        if count == 0 or self._touched.get(key) == 0:
            self._touched[key] = 0
        else:
            self._touched[key] = self._touched.get(key, 0) + count

    def _tell(self, _: int) -> None:
        touched, self._touched = self._touched, {}
        if self._changed is not None:
            for (tenant_id, queue), count in touched.items():
                self._changed(tenant_id, queue, count)
        if self._ticks_moved:
            self._ticks_moved = False
            self._schedules_changed()


_MANY = 10_000


def _found(connection: apsw.Connection, tenant_id: int, job_id: str, now_ms: int) -> Job:
    job = rows.find(connection, tenant_id, job_id, now_ms)
    if job is None:
        raise no_job()
    return job
