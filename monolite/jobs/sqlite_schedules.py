"""The rows of schedules in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from monolite.jobs.schedule import Schedule

_COLUMNS = (
    "name, cron, timezone, queue, job, paused, next_at, last_at, last_job_id, created_at,"
    " updated_at"
)


def put(connection: apsw.Connection, tenant_id: int, schedule: Schedule) -> bool:
    """Store one; whether it is new. What it last did stays."""
    connection.execute(
        "UPDATE job_schedules SET cron = ?, timezone = ?, queue = ?, job = ?, paused = ?,"
        " next_at = ?, updated_at = ? WHERE tenant_id = ? AND name = ?",
        (
            *(schedule.cron, schedule.timezone, schedule.queue, schedule.job),
            *(int(schedule.paused), schedule.next_at, schedule.updated_at),
            *(tenant_id, schedule.name),
        ),
    )
    if connection.changes():
        return False
    insert(connection, tenant_id, schedule)
    return True


def insert(connection: apsw.Connection, tenant_id: int, schedule: Schedule) -> None:
    """Store a new one."""
    connection.execute(
        f"INSERT INTO job_schedules (tenant_id, {_COLUMNS})"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(tenant_id, schedule.name, schedule.cron, schedule.timezone, schedule.queue),
            *(schedule.job, int(schedule.paused), schedule.next_at, schedule.last_at),
            *(schedule.last_job_id, schedule.created_at, schedule.updated_at),
        ),
    )


def find(connection: apsw.Connection, tenant_id: int, name: str) -> Schedule | None:
    """One schedule."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM job_schedules WHERE tenant_id = ? AND name = ?", (tenant_id, name)
    ).fetchone()
    return None if row is None else _schedule(row)


def find_many(
    connection: apsw.Connection, tenant_id: int, after: str, limit: int
) -> Sequence[Schedule]:
    """A tenant's schedules by name."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM job_schedules WHERE tenant_id = ? AND name > ? ORDER BY name"
        " LIMIT ?",
        (tenant_id, after, limit),
    )
    return [_schedule(row) for row in rows]


def delete(connection: apsw.Connection, tenant_id: int, name: str) -> bool:
    """Remove one; whether it was there."""
    connection.execute(
        "DELETE FROM job_schedules WHERE tenant_id = ? AND name = ?", (tenant_id, name)
    )
    return connection.changes() > 0


def due(connection: apsw.Connection, now_ms: int, limit: int) -> Sequence[tuple[int, Schedule]]:
    """Schedules of any tenant whose tick has come, of tenants that are whole."""
    rows = connection.execute(
        f"SELECT s.tenant_id, {_COLUMNS.replace(', ', ', s.').replace('name', 's.name', 1)}"
        " FROM job_schedules s JOIN tenants t ON t.number = s.tenant_id AND t.state = 'active'"
        " WHERE s.next_at <= ? ORDER BY s.next_at LIMIT ?",
        (now_ms, limit),
    )
    return [(row[0], _schedule(row[1:])) for row in rows]


def next_tick(connection: apsw.Connection) -> int | None:
    """When the next one ticks."""
    at: Any = connection.execute(
        "SELECT next_at FROM job_schedules WHERE next_at IS NOT NULL ORDER BY next_at LIMIT 1"
    ).get
    return None if at is None else int(at)


def move_on(
    connection: apsw.Connection,
    tenant_id: int,
    schedule: Schedule,
    next_at: int | None,
    job_id: str,
    now_ms: int,
) -> bool:
    """Set the next tick, unless the schedule was changed or moved on since it was read."""
    connection.execute(
        "UPDATE job_schedules SET next_at = ?, last_at = ?, last_job_id = ? WHERE tenant_id = ?"
        " AND name = ? AND next_at IS ? AND updated_at = ?",
        (
            *(next_at, now_ms, job_id, tenant_id),
            *(schedule.name, schedule.next_at, schedule.updated_at),
        ),
    )
    return connection.changes() > 0


def _schedule(row: Sequence[Any]) -> Schedule:
    name, cron, timezone, queue, job, paused, *rest = row
    return Schedule(name, cron, timezone, queue, job, bool(paused), *rest)
