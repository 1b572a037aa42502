"""A tenant's jobs as records, out of PostgreSQL and into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

from monolite.jobs import postgres_rows as rows
from monolite.jobs import postgres_schedules as schedules
from monolite.jobs.archive import (
    KINDS,
    KeptJob,
    KeptQueue,
    job_record,
    queue_record,
    read_job,
    read_queue,
    read_schedule,
    schedule_record,
)
from monolite.jobs.job import FINAL, NewJob
from monolite.jobs.schedule import Schedule


class PostgresJobArchive:
    """Queues, their jobs in the order of ids, and schedules."""

    kinds = KINDS

    async def records(
        self, connection: Any, tenant_id: int
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Everything, in the snapshot of the connection's transaction."""
        for row in await connection.fetch(
            "SELECT name, paused, rate_count, rate_period_ms, retention_s, created_at, updated_at"
            " FROM job_queues WHERE tenant_id = $1 ORDER BY name",
            tenant_id,
        ):
            yield queue_record(KeptQueue(*row))
        async for row in connection.cursor(
            "SELECT q.name AS queue, j.* FROM jobs j JOIN job_queues q ON q.id = j.queue_id"
            " WHERE j.tenant_id = $1 ORDER BY j.id",
            tenant_id,
            prefetch=500,
        ):
            yield job_record(_kept(row))
        for row in await connection.fetch(
            f"SELECT {schedules.COLUMNS} FROM job_schedules WHERE tenant_id = $1 ORDER BY name",
            tenant_id,
        ):
            yield schedule_record(Schedule(*row))

    async def store(self, connection: Any, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError or TypeError where it is not one of ours."""
        if record["kind"] == "job_queue":
            await _store_queue(connection, tenant_id, read_queue(record))
        elif record["kind"] == "job":
            await _store_job(connection, tenant_id, read_job(record))
        else:
            await schedules.put(connection, tenant_id, read_schedule(record))


def _kept(row: Any) -> KeptJob:
    job = NewJob(
        *(row["id"], row["payload"], -row["rank"], row["run_at"], row["max_attempts"]),
        *(row["timeout_ms"], row["url"], row["unique_key"], row["concurrency_key"]),
        row["concurrency_limit"],
    )
    state = row["state"] if row["state"] in FINAL else None
    # The attempt under way counts for nothing in the copy.
    attempt = row["attempt"] - (row["state"] == "running")
    return KeptJob(
        *(row["queue"], job, state, attempt, row["created_at"], row["finished_at"]),
        *(row["result"], row["errors"]),
    )


async def _store_queue(connection: Any, tenant_id: int, queue: KeptQueue) -> None:
    queue_id = await rows.opened(connection, tenant_id, queue.name, queue.created_at)
    await connection.execute(
        "UPDATE job_queues SET paused = $2, rate_count = $3, rate_period_ms = $4, retention_s = $5,"
        " updated_at = $6 WHERE id = $1",
        *(queue_id, queue.paused, queue.rate_count, queue.rate_period_ms, queue.retention_s),
        queue.updated_at,
    )


async def _store_job(connection: Any, tenant_id: int, kept: KeptJob) -> None:
    job = kept.job
    queue_id = await rows.id_of(connection, tenant_id, kept.queue)
    if queue_id is None:
        raise KeyError(kept.queue)
    waits = "retryable" if kept.attempt else "scheduled"
    state = kept.state or (waits if job.run_at > kept.created_at else "available")
    await connection.execute(
        "INSERT INTO jobs (tenant_id, queue_id, id, state, lane, rank, run_at, attempt,"
        " max_attempts, timeout_ms, url, unique_key, concurrency_key, concurrency_limit,"
        " created_at, finished_at, payload, result, errors) VALUES ($1, $2, $3, $4, $5, $6, $7, $8,"
        " $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)",
        *(tenant_id, queue_id, job.id, state, int(job.url is not None), -job.priority, job.run_at),
        *(kept.attempt, job.max_attempts, job.timeout_ms, job.url, job.unique_key),
        *(job.concurrency_key, job.concurrency_limit, kept.created_at, kept.finished_at),
        *(job.payload, kept.result, kept.errors),
    )
    await rows.write_counts(connection, Counter({(tenant_id, queue_id, state): 1}))
