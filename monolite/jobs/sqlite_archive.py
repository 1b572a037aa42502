"""A tenant's jobs as records, out of SQLite and into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw

from monolite.jobs import sqlite_queues as queues
from monolite.jobs import sqlite_schedules as schedules
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
from monolite.jobs.job import NewJob
from monolite.jobs.sqlite_moves import body_by_key, place

_JOB = (
    "SELECT q.name, j.state, j.attempt, j.created_at, j.finished_at, j.result, j.errors, j.id,"
    " j.payload, j.priority, j.run_at, j.max_attempts, j.timeout_ms, j.url, j.unique_key,"
    " j.concurrency_key, j.concurrency_limit FROM jobs j JOIN job_queues q ON q.id = j.queue_id"
    " WHERE j.tenant_id = ? ORDER BY j.id"
)
_INSERT = (
    "INSERT INTO jobs (tenant_id, queue_id, id, state, attempt, finished_at, priority, run_at,"
    " flags, max_attempts, timeout_ms, url, unique_key, concurrency_key, concurrency_limit,"
    " created_at, payload, result, errors)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class SqliteJobArchive:
    """Queues, their jobs in the order of ids, and schedules."""

    kinds = KINDS

    def records(self, connection: apsw.Connection, tenant_id: int) -> Iterator[dict[str, Any]]:
        """Everything, in one snapshot of the reader's connection."""
        for row in connection.execute(
            "SELECT name, paused, rate_count, rate_period_ms, retention_s, created_at, updated_at"
            " FROM job_queues WHERE tenant_id = ? ORDER BY name",
            (tenant_id,),
        ):
            name, paused, *rest = row
            yield queue_record(KeptQueue(str(name), bool(paused), *rest))
        for row in connection.execute(_JOB, (tenant_id,)):
            yield job_record(_kept(row))
        for schedule in schedules.find_many(connection, tenant_id, "", -1):
            yield schedule_record(schedule)

    def store(self, connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError, TypeError or apsw.Error where it isn't ours."""
        if record["kind"] == "job_queue":
            _store_queue(connection, tenant_id, read_queue(record))
        elif record["kind"] == "job":
            _store_job(connection, tenant_id, read_job(record))
        else:
            schedules.insert(connection, tenant_id, read_schedule(record))


def _kept(row: Any) -> KeptJob:
    queue, state, attempt, created_at, finished_at, result, errors, *job = row
    return KeptJob(queue, NewJob(*job), state, attempt, created_at, finished_at, result, errors)


def _store_queue(connection: apsw.Connection, tenant_id: int, queue: KeptQueue) -> None:
    queue_id = queues.opened(connection, tenant_id, queue.name, queue.created_at)
    connection.execute(
        "UPDATE job_queues SET paused = ?, rate_count = ?, rate_period_ms = ?, retention_s = ?,"
        " updated_at = ? WHERE id = ?",
        (
            *(int(queue.paused), queue.rate_count, queue.rate_period_ms, queue.retention_s),
            *(queue.updated_at, queue_id),
        ),
    )


def _store_job(connection: apsw.Connection, tenant_id: int, kept: KeptJob) -> None:
    job = kept.job
    queue_id = queues.id_of(connection, tenant_id, kept.queue)
    if queue_id is None:
        raise KeyError(kept.queue)
    connection.execute(
        _INSERT,
        (
            *(tenant_id, queue_id, job.id, kept.state, kept.attempt, kept.finished_at),
            *(job.priority, job.run_at, job.flags, job.max_attempts, job.timeout_ms, job.url),
            *(job.unique_key, job.concurrency_key, job.concurrency_limit, kept.created_at),
            *(job.payload, kept.result, kept.errors),
        ),
    )
    key = connection.last_insert_rowid()
    state = kept.state
    if state is None:
        if job.unique_key is not None:
            connection.execute(
                "INSERT INTO job_unique_keys VALUES (?, ?, ?, ?)",
                (tenant_id, queue_id, job.unique_key, key),
            )
        # Waiting for later, where it did; the next claim makes it ready if it is due.
        body = body_by_key(connection, key)
        state = place(connection, body, job.run_at, kept.attempt, kept.created_at)
    queues.count(connection, queue_id, **{state: 1})
