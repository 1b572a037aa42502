"""Moving one job between states in SQLite, inside the writer's transaction.

A live job is in one of job_ready, job_future, job_blocked and job_running. These functions keep it
so, and leave the counts to their callers, who know how many they moved.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import apsw
import msgspec

from monolite.jobs.job import CALLED, ERRORS_KEPT, LIMITED, UNIQUE, FinalState, State


class Body(NamedTuple):
    """What moves need of a job's own row."""

    key: int
    tenant_id: int
    queue_id: int
    id: str
    state: FinalState | None
    attempt: int
    priority: int
    run_at: int
    flags: int
    max_attempts: int
    unique_key: str | None
    concurrency_key: str | None
    errors: str | None


_BODY = (
    "SELECT key, tenant_id, queue_id, id, state, attempt, priority, run_at, flags, max_attempts,"
    " unique_key, concurrency_key, errors FROM jobs"
)


def body_by_id(connection: apsw.Connection, tenant_id: int, job_id: str) -> Body | None:
    """A tenant's job."""
    row: Any = connection.execute(
        f"{_BODY} WHERE tenant_id = ? AND id = ?", (tenant_id, job_id)
    ).fetchone()
    return None if row is None else Body(*row)


def body_by_key(connection: apsw.Connection, key: int) -> Body:
    """A job that is known to be there."""
    row: Any = connection.execute(f"{_BODY} WHERE key = ?", (key,)).fetchone()
    return Body(*row)


def place(connection: apsw.Connection, body: Body, run_at: int, attempt: int, now_ms: int) -> State:
    """Put a job that is in no table where it waits; returns the state it is in there."""
    if run_at > now_ms:
        connection.execute(
            "INSERT INTO job_future VALUES (?, ?, ?, ?, ?, ?, ?)",
            (body.tenant_id, body.queue_id, run_at, body.key, -body.priority, attempt, body.flags),
        )
        return "retryable" if attempt else "scheduled"
    lane = 1 if body.flags & CALLED else 0
    connection.execute(
        "INSERT INTO job_ready VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(body.tenant_id, body.queue_id, lane, -body.priority),
            *(run_at, body.key, attempt, body.flags),
        ),
    )
    return "available"


def unplace(connection: apsw.Connection, body: Body) -> State:
    """Take a waiting job from its table; returns the state it was in there."""
    where = (body.tenant_id, body.queue_id)
    row: Any = connection.execute(
        "DELETE FROM job_future WHERE tenant_id = ? AND queue_id = ? AND run_at = ? AND key = ?"
        " RETURNING attempt",
        (*where, body.run_at, body.key),
    ).fetchall()
    if row:
        return "retryable" if row[0][0] else "scheduled"
    lane = 1 if body.flags & CALLED else 0
    connection.execute(
        "DELETE FROM job_ready WHERE tenant_id = ? AND queue_id = ? AND lane = ? AND rank = ?"
        " AND run_at = ? AND key = ?",
        (*where, lane, -body.priority, body.run_at, body.key),
    )
    if body.flags & LIMITED:
        connection.execute(
            "DELETE FROM job_blocked WHERE tenant_id = ? AND queue_id = ? AND concurrency_key = ?"
            " AND rank = ? AND run_at = ? AND key = ?",
            (*where, body.concurrency_key, -body.priority, body.run_at, body.key),
        )
    return "available"


def let_go(connection: apsw.Connection, body: Body, claim_id: int) -> int:
    """End a delivery: the job is in no table then, and its place free for another of its
    concurrency key. Returns how many others that made claimable.
    """
    connection.execute("DELETE FROM job_running WHERE key = ?", (body.key,))
    drop_held(connection, claim_id, 1)
    if body.flags & LIMITED:
        assert body.concurrency_key is not None  # the flag says so
        return free_place(connection, body.tenant_id, body.queue_id, body.concurrency_key)
    return 0


def drop_held(connection: apsw.Connection, claim_id: int, number: int) -> None:
    """Some jobs of a claim are held no more; it goes with the last."""
    connection.execute("DELETE FROM job_claims WHERE id = ? AND held <= ?", (claim_id, number))
    if connection.changes() == 0:
        connection.execute("UPDATE job_claims SET held = held - ? WHERE id = ?", (number, claim_id))


def free_place(
    connection: apsw.Connection, tenant_id: int, queue_id: int, concurrency_key: str
) -> int:
    """One job less of a concurrency key runs; the first that waits for that is ready again."""
    where = (tenant_id, queue_id, concurrency_key)
    connection.execute(
        "DELETE FROM job_concurrency WHERE tenant_id = ? AND queue_id = ? AND concurrency_key = ?"
        " AND running <= 1",
        where,
    )
    if connection.changes() == 0:
        connection.execute(
            "UPDATE job_concurrency SET running = running - 1"
            " WHERE tenant_id = ? AND queue_id = ? AND concurrency_key = ?",
            where,
        )
    return unblock(connection, tenant_id, queue_id, concurrency_key)


def unblock(
    connection: apsw.Connection, tenant_id: int, queue_id: int, concurrency_key: str
) -> int:
    """Make the first blocked job of a concurrency key ready; returns how many that were."""
    where = (tenant_id, queue_id, concurrency_key)
    row: Any = connection.execute(
        "SELECT rank, run_at, key, attempt, flags FROM job_blocked WHERE tenant_id = ?"
        " AND queue_id = ? AND concurrency_key = ? ORDER BY rank, run_at, key LIMIT 1",
        where,
    ).fetchone()
    if row is None:
        return 0
    rank, run_at, key, attempt, flags = row
    connection.execute(
        "DELETE FROM job_blocked WHERE tenant_id = ? AND queue_id = ? AND concurrency_key = ?"
        " AND rank = ? AND run_at = ? AND key = ?",
        (*where, rank, run_at, key),
    )
    lane = 1 if flags & CALLED else 0
    connection.execute(
        "INSERT INTO job_ready VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (tenant_id, queue_id, lane, rank, run_at, key, attempt, flags),
    )
    return 1


def finish(
    connection: apsw.Connection,
    body: Body,
    state: FinalState,
    attempt: int,
    now_ms: int,
    errors: str | None,
) -> None:
    """Give a job that is in no table its final state."""
    connection.execute(
        "UPDATE jobs SET state = ?, attempt = ?, finished_at = ?, errors = ? WHERE key = ?",
        (state, attempt, now_ms, errors, body.key),
    )
    if body.flags & UNIQUE:
        free_unique_key(connection, body.tenant_id, body.queue_id, str(body.unique_key))


def free_unique_key(
    connection: apsw.Connection, tenant_id: int, queue_id: int, unique_key: str
) -> None:
    """The job with this key is live no more."""
    connection.execute(
        "DELETE FROM job_unique_keys WHERE tenant_id = ? AND queue_id = ? AND unique_key = ?",
        (tenant_id, queue_id, unique_key),
    )


def with_error(errors: str | None, attempt: int, now_ms: int, error: str) -> str:
    """The JSON of a job's last failures, with one more."""
    kept: list[Any] = msgspec.json.decode(errors) if errors else []
    kept.append([attempt, now_ms, error])
    return msgspec.json.encode(kept[-ERRORS_KEPT:]).decode()
