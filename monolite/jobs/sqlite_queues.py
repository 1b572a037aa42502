"""The rows of queues in SQLite, and their counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import apsw

from monolite.jobs.job import STATES, Queue, QueueSettings, Rate, State

_COLUMNS = (
    "name, paused, rate_count, rate_period_ms, retention_s, scheduled, available, running,"
    " retryable, completed, discarded, cancelled, created_at, updated_at"
)
_INSERT = (
    "INSERT INTO job_queues (tenant_id, name, paused, rate_tokens, rate_at, has_calls, scheduled,"
    " available, running, retryable, completed, discarded, cancelled, created_at, updated_at)"
    " VALUES (?1, ?2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ?3, ?3)"
)
_COUNT = (
    "UPDATE job_queues SET scheduled = scheduled + ?, available = available + ?,"
    " running = running + ?, retryable = retryable + ?, completed = completed + ?,"
    " discarded = discarded + ?, cancelled = cancelled + ? WHERE id = ?"
)


class QueueRow(NamedTuple):
    """What a claim must know of its queue."""

    id: int
    paused: int
    rate_count: int | None
    rate_period_ms: int | None
    rate_tokens: float
    rate_at: int

    def tokens(self, now_ms: int) -> float:
        """How many jobs the rate lets go now. A clock set back gives none, and loses none."""
        assert self.rate_count is not None  # callers look first
        assert self.rate_period_ms is not None
        gained = max(0, now_ms - self.rate_at) * self.rate_count / self.rate_period_ms
        return min(float(self.rate_count), self.rate_tokens + gained)


def row_of(connection: apsw.Connection, tenant_id: int, name: str) -> QueueRow | None:
    """A queue by name."""
    row: Any = connection.execute(
        "SELECT id, paused, rate_count, rate_period_ms, rate_tokens, rate_at FROM job_queues"
        " WHERE tenant_id = ? AND name = ?",
        (tenant_id, name),
    ).fetchone()
    return None if row is None else QueueRow(*row)


def id_of(connection: apsw.Connection, tenant_id: int, name: str) -> int | None:
    """A queue's id."""
    row: Any = connection.execute(
        "SELECT id FROM job_queues WHERE tenant_id = ? AND name = ?", (tenant_id, name)
    ).fetchone()
    return None if row is None else row[0]


def name_of(connection: apsw.Connection, queue_id: int) -> str:
    """A queue's name."""
    row: Any = connection.execute("SELECT name FROM job_queues WHERE id = ?", (queue_id,)).get
    return str(row)


def opened(connection: apsw.Connection, tenant_id: int, name: str, now_ms: int) -> int:
    """A queue's id, made where there is none."""
    found = id_of(connection, tenant_id, name)
    if found is not None:
        return found
    connection.execute(_INSERT, (tenant_id, name, now_ms))
    return connection.last_insert_rowid()


def count(connection: apsw.Connection, queue_id: int, **changes: int) -> None:
    """Add to a queue's counts."""
    connection.execute(_COUNT, (*(changes.get(state, 0) for state in STATES), queue_id))


def find(connection: apsw.Connection, tenant_id: int, name: str) -> Queue | None:
    """One queue with its counts."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM job_queues WHERE tenant_id = ? AND name = ?", (tenant_id, name)
    ).fetchone()
    return None if row is None else _queue(row)


def calling(connection: apsw.Connection, limit: int) -> Sequence[tuple[int, str]]:
    """Tenants and queues, any of whose jobs ever named a URL."""
    rows = connection.execute(
        "SELECT tenant_id, name FROM job_queues WHERE has_calls = 1 LIMIT ?", (limit,)
    )
    return [(tenant_id, name) for tenant_id, name in rows]


def find_many(
    connection: apsw.Connection, tenant_id: int, after: str, limit: int
) -> Sequence[Queue]:
    """A tenant's queues by name."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM job_queues WHERE tenant_id = ? AND name > ? ORDER BY name LIMIT ?",
        (tenant_id, after, limit),
    )
    return [_queue(row) for row in rows]


def define(
    connection: apsw.Connection, tenant_id: int, name: str, settings: QueueSettings, now_ms: int
) -> tuple[Queue, bool]:
    """Set what PUT sets; whether the queue is new. A rate that changes begins with all of it."""
    is_new = id_of(connection, tenant_id, name) is None
    queue_id = opened(connection, tenant_id, name, now_ms)
    rate = settings.rate
    connection.execute(
        "UPDATE job_queues SET rate_count = ?1, rate_period_ms = ?2, rate_tokens = coalesce(?1, 0),"
        " rate_at = ?3, retention_s = ?4, updated_at = ?3 WHERE id = ?5",
        (
            None if rate is None else rate.count,
            None if rate is None else rate.period_ms,
            now_ms,
            settings.retention_s,
            queue_id,
        ),
    )
    found = find(connection, tenant_id, name)
    assert found is not None  # it was opened above
    return found, is_new


def set_paused(
    connection: apsw.Connection, tenant_id: int, name: str, paused: bool, now_ms: int
) -> Queue | None:
    """Pause or resume."""
    connection.execute(
        "UPDATE job_queues SET paused = ?, updated_at = ? WHERE tenant_id = ? AND name = ?",
        (int(paused), now_ms, tenant_id, name),
    )
    return find(connection, tenant_id, name)


def _queue(row: Sequence[Any]) -> Queue:
    name, paused, rate_count, rate_period_ms, retention_s, *rest = row
    counts: dict[State, int] = dict(zip(STATES, rest[:7], strict=True))
    rate = None if rate_count is None else Rate(rate_count, rate_period_ms)
    return Queue(name, bool(paused), rate, retention_s, counts, rest[7], rest[8])
