"""Jobs in PostgreSQL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg

from monolite.jobs import postgres_claims as claims
from monolite.jobs import postgres_rows as rows
from monolite.jobs import postgres_schedules as schedules
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
    Rate,
    State,
)
from monolite.jobs.postgres_news import PostgresJobNews
from monolite.jobs.postgres_rows import Counts
from monolite.jobs.refusals import job_finished, job_running, no_job, unique_key_taken
from monolite.jobs.schedule import Schedule
from monolite.storage.postgres.notifications import Notifications
from monolite.storage.postgres.pool import Pool

TENANT_TABLES = ("job_counts", "job_concurrency", "job_schedules", "jobs", "job_queues")

EXPIRED_AT_ONCE = 5000
FOLDED_AT_ONCE = 100_000

_QUEUE = (
    "SELECT q.name, q.paused, q.rate_count, q.rate_period_ms, q.retention_s, q.created_at,"
    " q.updated_at, ARRAY(SELECT c.state FROM job_counts c WHERE c.tenant_id = q.tenant_id"
    " AND c.queue_id = q.id GROUP BY c.state ORDER BY c.state) AS states,"
    " ARRAY(SELECT sum(c.change)::bigint FROM job_counts c WHERE c.tenant_id = q.tenant_id"
    " AND c.queue_id = q.id GROUP BY c.state ORDER BY c.state) AS counts FROM job_queues q"
)


class PostgresJobEngine:
    """The JobEngine of several servers. `delay` is how long a failed job waits; `workers` are the
    connections of claims and of what ends them.
    """

    def __init__(
        self, pool: Pool, workers: Pool, notifications: Notifications, *, delay: Delay
    ) -> None:
        self._pool = pool
        self._workers = workers
        self._delay = delay
        self._news = PostgresJobNews(pool, notifications)

    async def stop(self) -> None:
        """Finish telling other servers."""
        await self._news.stop()

    # ── Producers ──────────────────────────────────────────────────────────────────────────────

    async def add(
        self, tenant_id: int, queue: str, jobs: Sequence[NewJob], now_ms: int, also: Also = None
    ) -> Sequence[Added]:
        async def work(connection: Any) -> Sequence[Added]:
            queue_id = await rows.opened(connection, tenant_id, queue, now_ms)
            added = await rows.add(connection, tenant_id, queue_id, jobs, now_ms)
            if also is not None:
                waits = also(connection, added)
                if waits is not None:
                    await waits
            return added

        added = await self._pool.transaction(work)
        self._news.touch(tenant_id, queue, len(added))
        return added

    async def cancel(self, tenant_id: int, job_id: str, now_ms: int) -> Job:
        async def work(connection: Any) -> Job:
            row = await rows.locked(connection, tenant_id, job_id)
            if row is None:
                raise no_job()
            if row["state"] != "cancelled":
                if row["finished_at"] is not None:
                    raise job_finished(row["state"])
                counts: Counts = Counter()
                await rows.finish(connection, row, "cancelled", now_ms, counts, row["errors"])
                if row["state"] == "running":
                    await rows.free_place(connection, row)
                elif row["concurrency_key"] is not None:
                    # It may have been let go in place of one that is blocked.
                    await rows.unblock(connection, row)
                await rows.write_counts(connection, counts)
            return await _found(connection, tenant_id, job_id, now_ms)

        job = await self._pool.transaction(work)
        self._news.touch(tenant_id, job.queue, 1)
        return job

    async def retry(self, tenant_id: int, job_id: str, now_ms: int) -> Job:
        async def work(connection: Any) -> Job:
            row = await rows.locked(connection, tenant_id, job_id)
            if row is None:
                raise no_job()
            if row["state"] == "running":
                raise job_running()
            if row["state"] != "available":
                await self._make_available(connection, row, now_ms)
            return await _found(connection, tenant_id, job_id, now_ms)

        job = await self._pool.transaction(work)
        self._news.touch(tenant_id, job.queue, 1)
        return job

    async def _make_available(self, connection: Any, row: Any, now_ms: int) -> None:
        where = (row["tenant_id"], row["queue_id"])
        if row["finished_at"] is not None and row["unique_key"] is not None:
            taken = await connection.fetchval(
                "SELECT id FROM jobs WHERE tenant_id = $1 AND queue_id = $2 AND unique_key = $3"
                " AND finished_at IS NULL",
                *where,
                row["unique_key"],
            )
            if taken is not None:
                raise unique_key_taken(taken)
        try:
            await connection.execute(
                "UPDATE jobs SET state = 'available', finished_at = NULL, result = NULL,"
                " run_at = $3, max_attempts = greatest(max_attempts, attempt + 1)"
                " WHERE tenant_id = $1 AND id = $2",
                *(row["tenant_id"], row["id"], now_ms),
            )
        except asyncpg.UniqueViolationError:
            raise unique_key_taken("that was just added") from None
        counts: Counts = Counter()
        rows.moved(counts, row, "available")
        await rows.write_counts(connection, counts)

    # ── Workers ────────────────────────────────────────────────────────────────────────────────

    async def claim(self, claim: Claim) -> Claimed:
        touched: set[int] = set()
        claimed = await self._workers.transaction(lambda c: claims.claim(c, claim, touched))
        await self._tell(touched)
        return claimed

    async def complete(
        self, tenant_id: int, held: Sequence[Held], now_ms: int
    ) -> Sequence[tuple[str, State | None]]:
        touched: set[int] = set()
        stale = await self._workers.transaction(
            lambda c: claims.complete(c, tenant_id, held, now_ms, touched)
        )
        await self._tell(touched)
        return stale

    async def fail(
        self, tenant_id: int, held: Held, error: str, retry_in_ms: int | None, now_ms: int
    ) -> Job:
        async def work(connection: Any) -> Job:
            row = await claims.lease_of(connection, tenant_id, held, now_ms)
            wait_ms = self._delay(row["attempt"]) if retry_in_ms is None else retry_in_ms
            counts: Counts = Counter()
            run_at = now_ms + wait_ms
            await claims.end(connection, row, error, run_at, now_ms, counts, set())
            await rows.write_counts(connection, counts)
            return await _found(connection, tenant_id, held.id, now_ms)

        job = await self._workers.transaction(work)
        # One for the job itself, one for what its concurrency key let go.
        self._news.touch(tenant_id, job.queue, 2)
        return job

    async def extend(self, tenant_id: int, held: Held, lease_ms: int, now_ms: int) -> int:
        return await self._workers.transaction(
            lambda c: claims.extend(c, tenant_id, held, lease_ms, now_ms)
        )

    # ── Looking ────────────────────────────────────────────────────────────────────────────────

    async def job(self, tenant_id: int, job_id: str, now_ms: int) -> Job | None:
        async with self._pool.connection() as connection:
            return await rows.find(connection, tenant_id, job_id, now_ms)

    async def jobs(
        self,
        tenant_id: int,
        queue: str,
        state: State | None,
        after: Position | None,
        limit: int,
        now_ms: int,
    ) -> Sequence[tuple[Job, Position]] | None:
        async with self._pool.connection() as connection:
            queue_id = await rows.id_of(connection, tenant_id, queue)
            if queue_id is None:
                return None
            states = STATES if state is None else (state,)
            if after is not None:
                states = states[states.index(after.state) :]
            found: list[tuple[Job, Position]] = []
            for one in states:
                start = after.order[1] if after is not None and one == after.state else -1
                for row in await connection.fetch(
                    f"{rows.SHOWN} WHERE j.tenant_id = $1 AND j.queue_id = $2 AND j.state = $3"
                    " AND j.key > $4 ORDER BY j.key LIMIT $5",
                    *(tenant_id, queue_id, one, start, limit - len(found)),
                ):
                    found.append((rows.shown(row, one), Position(one, (0, row["key"]))))
                if len(found) >= limit:
                    break
            return found

    # ── Queues ─────────────────────────────────────────────────────────────────────────────────

    async def queue(self, tenant_id: int, name: str) -> Queue | None:
        row = await self._pool.fetchrow(
            f"{_QUEUE} WHERE q.tenant_id = $1 AND q.name = $2", tenant_id, name
        )
        return None if row is None else _queue(row)

    async def queues(self, tenant_id: int, after: str, limit: int) -> Sequence[Queue]:
        found = await self._pool.fetch(
            f"{_QUEUE} WHERE q.tenant_id = $1 AND q.name > $2 ORDER BY q.name LIMIT $3",
            *(tenant_id, after, limit),
        )
        return [_queue(row) for row in found]

    async def calling(self, now_ms: int, limit: int) -> Sequence[tuple[int, str]]:
        found = await self._pool.fetch(
            "SELECT q.tenant_id, q.name FROM job_queues q WHERE EXISTS (SELECT 1 FROM jobs j"
            " WHERE j.tenant_id = q.tenant_id AND j.queue_id = q.id AND j.lane = 1"
            " AND j.state = 'available' AND NOT j.blocked) OR EXISTS (SELECT 1 FROM jobs j"
            " WHERE j.tenant_id = q.tenant_id AND j.queue_id = q.id AND j.lane = 1"
            " AND j.state IN ('scheduled', 'retryable') AND j.run_at <= $1) LIMIT $2",
            *(now_ms, limit),
        )
        return [(row[0], row[1]) for row in found]

    async def define_queue(
        self, tenant_id: int, name: str, settings: QueueSettings, now_ms: int
    ) -> tuple[Queue, bool]:
        rate = settings.rate

        async def work(connection: Any) -> bool:
            is_new = await rows.id_of(connection, tenant_id, name) is None
            queue_id = await rows.opened(connection, tenant_id, name, now_ms)
            await connection.execute(
                "UPDATE job_queues SET rate_count = $2::bigint, rate_period_ms = $3,"
                " rate_tokens = coalesce($2::bigint, 0), rate_at = $4, retention_s = $5,"
                " updated_at = $4 WHERE id = $1",
                *(queue_id, None if rate is None else rate.count),
                *(None if rate is None else rate.period_ms, now_ms, settings.retention_s),
            )
            return is_new

        is_new = await self._pool.transaction(work)
        self._news.touch(tenant_id, name, 0)
        queue = await self.queue(tenant_id, name)
        assert queue is not None  # it was made above, and none goes but with its tenant
        return queue, is_new

    async def pause(self, tenant_id: int, name: str, paused: bool, now_ms: int) -> Queue | None:
        await self._pool.fetch(
            "UPDATE job_queues SET paused = $3, updated_at = $4 WHERE tenant_id = $1 AND name = $2",
            *(tenant_id, name, paused, now_ms),
        )
        self._news.touch(tenant_id, name, 0)
        return await self.queue(tenant_id, name)

    # ── Schedules ──────────────────────────────────────────────────────────────────────────────

    async def put_schedule(self, tenant_id: int, schedule: Schedule, also: Also = None) -> bool:
        async def work(connection: Any) -> bool:
            is_new = await schedules.put(connection, tenant_id, schedule)
            if also is not None:
                waits = also(connection, is_new)
                if waits is not None:
                    await waits
            return is_new

        is_new = await self._pool.transaction(work)
        self._news.ticks_moved()
        return is_new

    async def schedule(self, tenant_id: int, name: str) -> Schedule | None:
        row = await self._pool.fetchrow(
            f"SELECT {schedules.COLUMNS} FROM job_schedules WHERE tenant_id = $1 AND name = $2",
            *(tenant_id, name),
        )
        return None if row is None else Schedule(*row)

    async def schedules(self, tenant_id: int, after: str, limit: int) -> Sequence[Schedule]:
        found = await self._pool.fetch(
            f"SELECT {schedules.COLUMNS} FROM job_schedules WHERE tenant_id = $1 AND name > $2"
            " ORDER BY name LIMIT $3",
            *(tenant_id, after, limit),
        )
        return [Schedule(*row) for row in found]

    async def delete_schedule(self, tenant_id: int, name: str) -> bool:
        gone = await self._pool.fetchval(
            "DELETE FROM job_schedules WHERE tenant_id = $1 AND name = $2 RETURNING 1",
            *(tenant_id, name),
        )
        return gone is not None

    async def due(self, now_ms: int, limit: int) -> Sequence[tuple[int, Schedule]]:
        found = await self._pool.fetch(
            f"SELECT tenant_id, {schedules.COLUMNS} FROM job_schedules WHERE next_at <= $1"
            " AND tenant_id IN (SELECT number FROM tenants WHERE state = 'active')"
            " ORDER BY next_at LIMIT $2",
            *(now_ms, limit),
        )
        return [(row[0], Schedule(*tuple(row)[1:])) for row in found]

    async def next_tick(self) -> int | None:
        at: int | None = await self._pool.fetchval(
            "SELECT next_at FROM job_schedules WHERE next_at IS NOT NULL ORDER BY next_at LIMIT 1"
        )
        return at

    async def tick(
        self, tenant_id: int, schedule: Schedule, next_at: int | None, job: NewJob, now_ms: int
    ) -> bool:
        async def work(connection: Any) -> bool:
            moved = await schedules.move_on(
                connection, tenant_id, schedule, next_at, job.id, now_ms
            )
            if moved:
                queue_id = await rows.opened(connection, tenant_id, schedule.queue, now_ms)
                await rows.add(connection, tenant_id, queue_id, [job], now_ms)
            return moved

        moved = await self._pool.transaction(work)
        if moved:
            self._news.touch(tenant_id, schedule.queue, 1)
        return moved

    # ── Beside ─────────────────────────────────────────────────────────────────────────────────

    def follow(self, changed: Changed, schedules_changed: Callable[[], None]) -> None:
        self._news.follow(changed, schedules_changed)

    async def rescue(self, now_ms: int) -> bool:
        touched: set[int] = set()

        async def work(connection: Any) -> bool:
            counts: Counts = Counter()
            more = await claims.rescue(connection, now_ms, counts, touched)
            await rows.write_counts(connection, counts)
            return more

        more = await self._pool.transaction(work)
        await self._tell(touched)
        return more

    async def expire(self, now_ms: int, retention_s: int) -> bool:
        async def work(connection: Any) -> bool:
            gone = await connection.fetch(
                "DELETE FROM jobs WHERE (tenant_id, id) IN (SELECT j.tenant_id, j.id"
                " FROM job_queues q CROSS JOIN LATERAL (SELECT tenant_id, id FROM jobs"
                " WHERE queue_id = q.id AND finished_at IS NOT NULL AND finished_at <"
                " $1::bigint - coalesce(q.retention_s, $2) * 1000 ORDER BY finished_at LIMIT $3"
                " FOR UPDATE SKIP LOCKED) j LIMIT $3) RETURNING tenant_id, queue_id, state",
                *(now_ms, retention_s, EXPIRED_AT_ONCE),
            )
            counts: Counts = Counter()
            for row in gone:
                counts[(row["tenant_id"], row["queue_id"], row["state"])] -= 1
            await rows.write_counts(connection, counts)
            await connection.execute(
                "WITH gone AS (DELETE FROM job_counts WHERE ctid = ANY(ARRAY(SELECT ctid"
                " FROM job_counts LIMIT $1 FOR UPDATE SKIP LOCKED))"
                " RETURNING tenant_id, queue_id, state, change)"
                " INSERT INTO job_counts SELECT tenant_id, queue_id, state, sum(change) FROM gone"
                " GROUP BY tenant_id, queue_id, state HAVING sum(change) <> 0",
                FOLDED_AT_ONCE,
            )
            return len(gone) >= EXPIRED_AT_ONCE

        return await self._pool.transaction(work)

    async def _tell(self, touched: set[int]) -> None:
        if touched:
            for row in await self._pool.fetch(
                "SELECT tenant_id, name FROM job_queues WHERE id = ANY($1::bigint[])", list(touched)
            ):
                self._news.touch(row["tenant_id"], row["name"], 0)


async def _found(connection: Any, tenant_id: int, job_id: str, now_ms: int) -> Job:
    job = await rows.find(connection, tenant_id, job_id, now_ms)
    if job is None:
        raise no_job()
    return job


def _queue(row: Any) -> Queue:
    found = dict(zip(row["states"], row["counts"], strict=True))
    counts: dict[State, int] = {state: found.get(state, 0) for state in STATES}
    rate = None if row["rate_count"] is None else Rate(row["rate_count"], row["rate_period_ms"])
    times = (row["created_at"], row["updated_at"])
    return Queue(row["name"], row["paused"], rate, row["retention_s"], counts, *times)
