"""The rows of schedules in PostgreSQL."""

from __future__ import annotations

from typing import Any

from monolite.jobs.schedule import Schedule

COLUMNS = (
    "name, cron, timezone, queue, job, paused, next_at, last_at, last_job_id, created_at,"
    " updated_at"
)


async def put(connection: Any, tenant_id: int, schedule: Schedule) -> bool:
    """Store one; whether it is new. What it last did stays."""
    is_new: bool = await connection.fetchval(
        f"INSERT INTO job_schedules AS s (tenant_id, {COLUMNS})"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
        " ON CONFLICT (tenant_id, name) DO UPDATE SET cron = excluded.cron,"
        " timezone = excluded.timezone, queue = excluded.queue, job = excluded.job,"
        " paused = excluded.paused, next_at = excluded.next_at, updated_at = excluded.updated_at"
        " RETURNING xmax = 0",
        *values(tenant_id, schedule),
    )
    return is_new


def values(tenant_id: int, schedule: Schedule) -> tuple[Any, ...]:
    """A row."""
    return (
        *(tenant_id, schedule.name, schedule.cron, schedule.timezone, schedule.queue),
        *(schedule.job, schedule.paused, schedule.next_at, schedule.last_at),
        *(schedule.last_job_id, schedule.created_at, schedule.updated_at),
    )


async def move_on(
    connection: Any,
    tenant_id: int,
    schedule: Schedule,
    next_at: int | None,
    job_id: str,
    now_ms: int,
) -> bool:
    """Set the next tick, unless the schedule was changed or moved on since it was read."""
    moved = await connection.fetchval(
        "UPDATE job_schedules SET next_at = $3, last_at = $4, last_job_id = $5 WHERE tenant_id = $1"
        " AND name = $2 AND next_at IS NOT DISTINCT FROM $6 AND updated_at = $7 RETURNING 1",
        *(tenant_id, schedule.name, next_at, now_ms, job_id),
        *(schedule.next_at, schedule.updated_at),
    )
    return moved is not None
