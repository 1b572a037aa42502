"""Adding jobs in SQLite, changing their course, and looking at them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import apsw

from monolite.jobs import sqlite_queues as queues
from monolite.jobs.engine import Position
from monolite.jobs.job import FINAL, UNIQUE, Added, Job, NewJob, State
from monolite.jobs.refusals import job_finished, job_running, no_job, unique_key_taken
from monolite.jobs.sqlite_claims import Wake
from monolite.jobs.sqlite_moves import (
    Body,
    body_by_id,
    body_by_key,
    finish,
    let_go,
    place,
    unblock,
    unplace,
)

EXPIRED_AT_ONCE = 1000

_INSERT = (
    "INSERT INTO jobs (key, tenant_id, queue_id, id, attempt, priority, run_at, flags,"
    " max_attempts, timeout_ms, url, unique_key, concurrency_key, concurrency_limit, created_at,"
    " payload) VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_JOB = (
    "SELECT j.id, q.name, j.state, j.payload, j.priority, j.run_at, coalesce(r.attempt, j.attempt),"
    " j.max_attempts, j.timeout_ms, j.url, j.unique_key, j.concurrency_key, j.concurrency_limit,"
    " j.created_at, j.finished_at, j.result, coalesce(j.errors, '[]'), c.worker, c.expires_at,"
    " j.key"
)
_BESIDE = (
    " CROSS JOIN job_queues q ON q.id = j.queue_id LEFT JOIN job_running r ON r.key = j.key"
    " LEFT JOIN job_claims c ON c.id = r.claim_id"
)
_LISTS: dict[State, str] = {
    # Each by its own order, (a, b), which is where a list goes on.
    "running": f"{_JOB}, 0, j.key FROM job_running w CROSS JOIN jobs j ON j.key = w.key{_BESIDE}"
    " WHERE w.tenant_id = ?1 AND w.queue_id = ?2 AND (0, w.key) > (?3, ?4) ORDER BY w.key LIMIT ?5",
    "available": f"{_JOB}, 0, j.key FROM jobs j{_BESIDE} WHERE j.key IN"
    " (SELECT key FROM (SELECT key FROM job_ready WHERE tenant_id = ?1 AND queue_id = ?2"
    " UNION ALL SELECT key FROM job_blocked"
    " WHERE tenant_id = ?1 AND queue_id = ?2) WHERE (0, key) > (?3, ?4) ORDER BY key LIMIT ?5)"
    " ORDER BY j.key",
    "scheduled": f"{_JOB}, f.run_at, f.key FROM job_future f CROSS JOIN jobs j ON j.key = f.key"
    f"{_BESIDE} WHERE f.tenant_id = ?1 AND f.queue_id = ?2 AND (f.run_at, f.key) > (?3, ?4)"
    " AND f.attempt = 0 ORDER BY f.run_at, f.key LIMIT ?5",
    "retryable": f"{_JOB}, f.run_at, f.key FROM job_future f CROSS JOIN jobs j ON j.key = f.key"
    f"{_BESIDE} WHERE f.tenant_id = ?1 AND f.queue_id = ?2 AND (f.run_at, f.key) > (?3, ?4)"
    " AND f.attempt > 0 ORDER BY f.run_at, f.key LIMIT ?5",
    **{
        state: f"{_JOB}, j.finished_at, j.key FROM jobs j{_BESIDE} WHERE j.tenant_id = ?1"
        f" AND j.queue_id = ?2 AND j.state = '{state}' AND j.finished_at IS NOT NULL"
        " AND (j.finished_at, j.key) > (?3, ?4) ORDER BY j.finished_at, j.key LIMIT ?5"
        for state in FINAL
    },
}
START = (-(1 << 62), -(1 << 62))
"""Before the first of every list."""


# ── Adding ─────────────────────────────────────────────────────────────────────────────────────


def add(
    connection: apsw.Connection,
    tenant_id: int,
    queue_id: int,
    jobs: Sequence[NewJob],
    now_ms: int,
) -> Sequence[Added]:
    """Add them in their order; a live job with the same unique key stands in for one."""
    last: Any = connection.execute("SELECT max(key) FROM jobs").get
    key = last or 0
    bodies: list[tuple[Any, ...]] = []
    ready: list[tuple[Any, ...]] = []
    future: list[tuple[Any, ...]] = []
    added: list[Added] = []
    has_calls = False
    for job in jobs:
        flags = job.flags
        key += 1
        if flags & UNIQUE:
            found = _live(connection, tenant_id, queue_id, str(job.unique_key), now_ms, bodies, key)
            if found is not None:
                added.append(found)
                key -= 1
                continue
        bodies.append(
            (
                *(key, tenant_id, queue_id, job.id, job.priority, job.run_at, flags),
                *(job.max_attempts, job.timeout_ms, job.url, job.unique_key, job.concurrency_key),
                *(job.concurrency_limit, now_ms, job.payload),
            )
        )
        if job.run_at > now_ms:
            future.append((tenant_id, queue_id, job.run_at, key, -job.priority, 0, flags))
            added.append(Added(job.id, "scheduled", True))
        else:
            lane = 0 if job.url is None else 1
            ready.append((tenant_id, queue_id, lane, -job.priority, job.run_at, key, 0, flags))
            added.append(Added(job.id, "available", True))
        has_calls = has_calls or job.url is not None
    connection.executemany(_INSERT, bodies)
    connection.executemany("INSERT INTO job_ready VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ready)
    connection.executemany("INSERT INTO job_future VALUES (?, ?, ?, ?, ?, ?, ?)", future)
    if bodies:
        queues.count(connection, queue_id, available=len(ready), scheduled=len(future))
    if has_calls:
        connection.execute(
            "UPDATE job_queues SET has_calls = 1 WHERE id = ? AND has_calls = 0", (queue_id,)
        )
    return added


def _live(
    connection: apsw.Connection,
    tenant_id: int,
    queue_id: int,
    unique_key: str,
    now_ms: int,
    bodies: Sequence[tuple[Any, ...]],
    key: int,
) -> Added | None:
    """The live job with a unique key; None where there was none, and now `key` has it."""
    connection.execute(
        "INSERT INTO job_unique_keys VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (tenant_id, queue_id, unique_key, key),
    )
    if connection.changes():
        return None
    found: Any = connection.execute(
        "SELECT key FROM job_unique_keys WHERE tenant_id = ? AND queue_id = ? AND unique_key = ?",
        (tenant_id, queue_id, unique_key),
    ).get
    for body in bodies:
        if body[0] == found:  # it came just before, in the same request
            return Added(body[3], "scheduled" if body[5] > now_ms else "available", False)
    body = body_by_key(connection, found)
    return Added(body.id, _state(connection, body, now_ms), False)


def _state(connection: apsw.Connection, body: Body, now_ms: int) -> State:
    if body.state is not None:
        return body.state
    row: Any = connection.execute("SELECT 1 FROM job_running WHERE key = ?", (body.key,)).fetchone()
    if row is not None:
        return "running"
    if body.run_at <= now_ms:
        return "available"
    return "retryable" if body.attempt else "scheduled"


# ── Changing course ────────────────────────────────────────────────────────────────────────────


def cancel(
    connection: apsw.Connection, tenant_id: int, job_id: str, now_ms: int, wake: Wake
) -> None:
    """End a live job; its worker is told at its next word."""
    body = body_by_id(connection, tenant_id, job_id)
    if body is None:
        raise no_job()
    if body.state == "cancelled":
        return
    if body.state is not None:
        raise job_finished(body.state)
    attempt = body.attempt
    row: Any = connection.execute(
        "SELECT claim_id, attempt FROM job_running WHERE key = ?", (body.key,)
    ).fetchone()
    if row is None:
        was: State = unplace(connection, body)
        if body.concurrency_key is not None:
            # It may have been let go in place of one that is blocked.
            wake(
                tenant_id,
                body.queue_id,
                unblock(connection, tenant_id, body.queue_id, body.concurrency_key),
            )
    else:
        was = "running"
        attempt = row[1]
        wake(tenant_id, body.queue_id, let_go(connection, body, row[0]))
    finish(connection, body, "cancelled", attempt, now_ms, body.errors)
    queues.count(connection, body.queue_id, **{was: -1, "cancelled": 1})


def retry(
    connection: apsw.Connection, tenant_id: int, job_id: str, now_ms: int, wake: Wake
) -> None:
    """Make a job available now."""
    body = body_by_id(connection, tenant_id, job_id)
    if body is None:
        raise no_job()
    was: State
    if body.state is not None:
        was = body.state
        if body.flags & UNIQUE:
            _take_unique_key(connection, body)
    else:
        was = _state(connection, body, now_ms)
        if was == "running":
            raise job_running()
        if body.run_at <= now_ms and was == "available":
            promoted = connection.execute(
                "SELECT 1 FROM job_future WHERE tenant_id = ? AND queue_id = ? AND run_at = ?"
                " AND key = ?",
                (tenant_id, body.queue_id, body.run_at, body.key),
            ).fetchone()
            if promoted is None:
                return  # it waits its turn already
        was = unplace(connection, body)
    connection.execute(
        "UPDATE jobs SET state = NULL, finished_at = NULL, result = NULL, run_at = ?,"
        " max_attempts = max(max_attempts, attempt + 1) WHERE key = ?",
        (now_ms, body.key),
    )
    place(connection, body, now_ms, body.attempt, now_ms)
    queues.count(connection, body.queue_id, **{was: -1, "available": 1})
    wake(tenant_id, body.queue_id, 1)


def _take_unique_key(connection: apsw.Connection, body: Body) -> None:
    where = (body.tenant_id, body.queue_id, body.unique_key)
    row: Any = connection.execute(
        "SELECT key FROM job_unique_keys WHERE tenant_id = ? AND queue_id = ? AND unique_key = ?",
        where,
    ).fetchone()
    if row is not None:
        raise unique_key_taken(body_by_key(connection, row[0]).id)
    connection.execute("INSERT INTO job_unique_keys VALUES (?, ?, ?, ?)", (*where, body.key))


# ── Looking ────────────────────────────────────────────────────────────────────────────────────


def find(connection: apsw.Connection, tenant_id: int, job_id: str, now_ms: int) -> Job | None:
    """One job."""
    row = connection.execute(
        f"{_JOB} FROM jobs j{_BESIDE} WHERE j.tenant_id = ? AND j.id = ?", (tenant_id, job_id)
    ).fetchone()
    return None if row is None else _job(row, now_ms)


def find_many(
    connection: apsw.Connection,
    tenant_id: int,
    queue_id: int,
    state: State,
    after: tuple[int, int],
    limit: int,
    now_ms: int,
) -> Sequence[tuple[Job, Position]]:
    """Jobs of a queue in a state, beyond a place in its list."""
    rows = connection.execute(_LISTS[state], (tenant_id, queue_id, *after, limit))
    return [(_job(row, now_ms, state), Position(state, (row[-2], row[-1]))) for row in rows]


def _job(row: Sequence[Any], now_ms: int, state: State | None = None) -> Job:
    job_id, queue, final, payload, priority, run_at, attempt, *rest = row[:19]
    if state is None:
        state = final
    if state is None:
        if rest[-1] is not None:
            state = "running"
        elif run_at <= now_ms:
            state = "available"
        else:
            state = "retryable" if attempt else "scheduled"
    return Job(job_id, queue, state, payload, priority, run_at, attempt, *rest)


# ── The end of what is kept ────────────────────────────────────────────────────────────────────


def expire(connection: apsw.Connection, now_ms: int, retention_s: int) -> bool:
    """Drop finished jobs after their queue's retention, a slice of them; whether it was whole."""
    left = EXPIRED_AT_ONCE
    rows: Any = connection.execute(
        "SELECT id, tenant_id, coalesce(retention_s, ?) FROM job_queues"
        " WHERE completed + discarded + cancelled > 0",
        (retention_s,),
    ).fetchall()
    for queue_id, tenant_id, kept_s in rows:
        gone: Counter[str] = Counter()
        for state in FINAL:
            dropped: Any = connection.execute(
                "DELETE FROM jobs WHERE key IN (SELECT key FROM jobs WHERE tenant_id = ?"
                " AND queue_id = ? AND state = ? AND finished_at IS NOT NULL AND finished_at < ?"
                " ORDER BY finished_at LIMIT ?) RETURNING 1",
                (tenant_id, queue_id, state, now_ms - kept_s * 1000, left),
            ).fetchall()
            if dropped:
                gone[state] = -len(dropped)
                left -= len(dropped)
        if gone:
            queues.count(connection, queue_id, **gone)
        if left <= 0:
            return True
    return False
