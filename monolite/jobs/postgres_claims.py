"""Deliveries in PostgreSQL: `FOR UPDATE SKIP LOCKED`, so that no claim waits for another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil
from typing import Any

from monolite.jobs import postgres_rows as rows
from monolite.jobs.engine import Claim
from monolite.jobs.job import Claimed, Delivery, Held, State
from monolite.jobs.postgres_rows import Counts
from monolite.jobs.refusals import lease_lost, no_job

PROMOTED_AT_ONCE = 5000
BLOCKED_AT_ONCE = 500
RESCUED_AT_ONCE = 200

_READY = (
    "SELECT key, id, payload, attempt, timeout_ms, concurrency_key, concurrency_limit FROM jobs"
    " WHERE tenant_id = $1 AND queue_id = $2 AND lane = $3 AND state = 'available' AND NOT blocked"
    " ORDER BY rank, run_at, key LIMIT $4 FOR UPDATE SKIP LOCKED"
)
_START = (
    "UPDATE jobs SET state = 'running', attempt = attempt + 1, worker = $3, secret = $4,"
    " lease_expires_at = u.expires_at, deadline = u.deadline FROM unnest($2::text[],"
    " $5::bigint[], $6::bigint[]) AS u (id, expires_at, deadline)"
    " WHERE jobs.tenant_id = $1 AND jobs.id = u.id"
)
_OUTLOOK = (
    "SELECT q.id, q.paused, q.rate_count, q.rate_period_ms, q.rate_tokens, q.rate_at,"
    " EXISTS (SELECT 1 FROM jobs WHERE tenant_id = $1 AND queue_id = q.id AND lane = $3"
    " AND state = 'available' AND NOT blocked) AS is_ready,"
    " (SELECT run_at FROM jobs WHERE tenant_id = $1 AND queue_id = q.id"
    " AND state IN ('scheduled', 'retryable') ORDER BY run_at LIMIT 1) AS due_at,"
    " (SELECT min(lease_expires_at) FROM jobs WHERE state = 'running') AS expires_at"
    " FROM job_queues q WHERE q.tenant_id = $1 AND q.name = $2"
)


async def claim(connection: Any, asked: Claim, touched: set[int]) -> Claimed:
    """Give out jobs; `touched` gets the queues in which others became claimable."""
    queue = await connection.fetchrow(_OUTLOOK, asked.tenant_id, asked.queue, asked.lane)
    nothing = Claimed((), asked.secret, None)
    if queue is None or queue["paused"]:
        return nothing
    moments = [at for at in (queue["due_at"], queue["expires_at"]) if at is not None]
    next_at = min(moments, default=None)
    if not queue["is_ready"] and (next_at is None or next_at > asked.now_ms):
        return Claimed((), asked.secret, next_at)
    counts: Counts = Counter()
    if queue["expires_at"] is not None and queue["expires_at"] <= asked.now_ms:
        await rescue(connection, asked.now_ms, counts, touched)
    if queue["due_at"] is not None and queue["due_at"] <= asked.now_ms:
        await _promote(connection, asked, queue["id"], counts)
    limit, tokens = asked.limit, 0.0
    if queue["rate_count"] is not None:
        tokens = await _tokens(connection, queue["id"], asked.now_ms)
        limit = min(limit, int(tokens))
    jobs = await _take(connection, asked, queue["id"], limit) if limit else []
    where = (asked.tenant_id, queue["id"])
    counts[(*where, "available")] -= len(jobs)
    counts[(*where, "running")] += len(jobs)
    await rows.write_counts(connection, counts)
    if queue["rate_count"] is not None:
        tokens -= len(jobs)
        await connection.execute(
            "UPDATE job_queues SET rate_tokens = $2, rate_at = $3 WHERE id = $1",
            *(queue["id"], tokens, asked.now_ms),
        )
        if tokens < 1:
            wait_ms = ceil((1 - tokens) * queue["rate_period_ms"] / queue["rate_count"])
            next_at = asked.now_ms + max(1, wait_ms)
    return Claimed(jobs, asked.secret, next_at, is_more=len(jobs) == asked.limit)


async def _tokens(connection: Any, queue_id: int, now_ms: int) -> float:
    row = await connection.fetchrow(
        "SELECT rate_count, rate_period_ms, rate_tokens, rate_at FROM job_queues WHERE id = $1"
        " FOR UPDATE",
        queue_id,
    )
    gained = max(0, now_ms - row["rate_at"]) * row["rate_count"] / row["rate_period_ms"]
    return float(min(float(row["rate_count"]), row["rate_tokens"] + gained))


async def _promote(connection: Any, asked: Claim, queue_id: int, counts: Counts) -> None:
    found = await connection.fetch(
        "UPDATE jobs SET state = 'available' WHERE tenant_id = $1 AND id = ANY(ARRAY(SELECT id"
        " FROM jobs WHERE tenant_id = $1 AND queue_id = $2 AND state IN ('scheduled', 'retryable')"
        " AND run_at <= $3 ORDER BY run_at, key LIMIT $4 FOR UPDATE SKIP LOCKED))"
        " RETURNING attempt > 0",
        *(asked.tenant_id, queue_id, asked.now_ms, PROMOTED_AT_ONCE),
    )
    retried = sum(row[0] for row in found)
    where = (asked.tenant_id, queue_id)
    counts[(*where, "available")] += len(found)
    counts[(*where, "retryable")] -= retried
    counts[(*where, "scheduled")] -= len(found) - retried


async def _take(connection: Any, asked: Claim, queue_id: int, limit: int) -> Sequence[Delivery]:
    jobs: list[Delivery] = []
    deadlines: list[int | None] = []
    blocked_count = 0
    lease_ends = asked.now_ms + asked.lease_ms
    while len(jobs) < limit and blocked_count < BLOCKED_AT_ONCE:
        found = await connection.fetch(
            _READY, asked.tenant_id, queue_id, asked.lane, limit - len(jobs)
        )
        blocked: list[str] = []
        taken: list[Delivery] = []
        ends: list[int | None] = []
        for row in found:
            if not await _enter(connection, asked.tenant_id, queue_id, row):
                blocked.append(row["id"])
                continue
            timeout_ms = row["timeout_ms"]
            deadline = None if timeout_ms is None else asked.now_ms + timeout_ms
            expires_at = lease_ends if deadline is None else min(lease_ends, deadline)
            taken.append(Delivery(row["id"], row["payload"], row["attempt"] + 1, expires_at))
            ends.append(deadline)
        if blocked:
            await connection.execute(
                "UPDATE jobs SET blocked = true WHERE tenant_id = $1 AND id = ANY($2::text[])",
                asked.tenant_id,
                blocked,
            )
            blocked_count += len(blocked)
        if taken:
            await connection.execute(
                _START,
                *(asked.tenant_id, [job.id for job in taken], asked.worker, asked.secret),
                *([job.lease_expires_at for job in taken], ends),
            )
        jobs += taken
        deadlines += ends
        if not blocked:
            break
    return jobs


async def _enter(connection: Any, tenant_id: int, queue_id: int, row: Any) -> bool:
    """Take a place of the job's concurrency key, where it has one and one is free.

    A row that is at its limit is locked all the same, so whoever frees a place waits until the job
    is marked as blocked, and then finds it.
    """
    if row["concurrency_key"] is None:
        return True
    entered = await connection.fetchval(
        "INSERT INTO job_concurrency AS c VALUES ($1, $2, $3, 1) ON CONFLICT (tenant_id, queue_id,"
        " concurrency_key) DO UPDATE SET running = c.running + 1 WHERE c.running < $4 RETURNING 1",
        *(tenant_id, queue_id, row["concurrency_key"], row["concurrency_limit"]),
    )
    return entered is not None


# ── Ending deliveries ──────────────────────────────────────────────────────────────────────────


async def complete(
    connection: Any, tenant_id: int, held: Sequence[Held], now_ms: int, touched: set[int]
) -> Sequence[tuple[str, State | None]]:
    """Complete what stands; returns the rest with its state."""
    wanted = {one.id: one for one in held}
    states: dict[str, State | None] = dict.fromkeys(wanted)
    found = await connection.fetch(
        "SELECT tenant_id, queue_id, id, state, secret, run_at, concurrency_key FROM jobs"
        " WHERE tenant_id = $1 AND id = ANY($2::text[]) ORDER BY id FOR UPDATE",
        tenant_id,
        list(wanted),
    )
    done = []
    counts: Counts = Counter()
    for row in found:
        if row["state"] != "running" or row["secret"] != wanted[row["id"]].secret:
            states[row["id"]] = rows.state_of(row, now_ms)
            continue
        del states[row["id"]]
        done.append(row)
        rows.moved(counts, row, "completed")
    if done:
        await connection.execute(
            "UPDATE jobs SET state = 'completed', finished_at = $3, result = u.result,"
            " worker = NULL, secret = NULL, lease_expires_at = NULL, deadline = NULL"
            " FROM unnest($2::text[], $4::text[]) AS u (id, result)"
            " WHERE jobs.tenant_id = $1 AND jobs.id = u.id",
            *(tenant_id, [row["id"] for row in done], now_ms),
            [wanted[row["id"]].result for row in done],
        )
        await rows.write_counts(connection, counts)
        for row in done:
            if row["concurrency_key"] is not None:
                await rows.free_place(connection, row)
                touched.add(row["queue_id"])
    return list(states.items())


async def lease_of(connection: Any, tenant_id: int, held: Held, now_ms: int) -> Any:
    """The row of a delivery that stands; raises NotFound, or Conflict where it is over."""
    row = await rows.locked(connection, tenant_id, held.id)
    if row is None:
        raise no_job()
    if row["state"] != "running" or row["secret"] != held.secret:
        raise lease_lost(rows.state_of(row, now_ms))
    return row


async def extend(connection: Any, tenant_id: int, held: Held, lease_ms: int, now_ms: int) -> int:
    """Renew a lease, up to the job's time-out; returns when it ends."""
    row = await lease_of(connection, tenant_id, held, now_ms)
    expires_at = now_ms + lease_ms
    if row["deadline"] is not None:
        expires_at = min(expires_at, row["deadline"])
    await connection.execute(
        "UPDATE jobs SET lease_expires_at = $3 WHERE tenant_id = $1 AND id = $2",
        *(tenant_id, held.id, expires_at),
    )
    return expires_at


async def end(
    connection: Any,
    row: Any,
    error: str,
    run_at: int,
    now_ms: int,
    counts: Counts,
    touched: set[int],
) -> None:
    """End a delivery that failed: the job waits for the next, or is discarded after its last."""
    errors = rows.with_error(row["errors"], row["attempt"], now_ms, error)
    if row["attempt"] >= row["max_attempts"]:
        await rows.finish(connection, row, "discarded", now_ms, counts, errors)
    else:
        await rows.wait(connection, row, run_at, now_ms, counts, errors)
    await rows.free_place(connection, row)
    touched.add(row["queue_id"])


async def rescue(connection: Any, now_ms: int, counts: Counts, touched: set[int]) -> bool:
    """Take back some expired leases, of any queue; whether there may be more."""
    found = await connection.fetch(
        "SELECT * FROM jobs WHERE state = 'running' AND lease_expires_at <= $1"
        " ORDER BY lease_expires_at LIMIT $2 FOR UPDATE SKIP LOCKED",
        now_ms,
        RESCUED_AT_ONCE,
    )
    for row in found:
        over = row["deadline"] is not None and row["deadline"] <= now_ms
        error = "timed out" if over else f"the lease of {row['worker']} ended"
        run_at = min(row["run_at"], now_ms)
        await end(connection, row, error, run_at, now_ms, counts, touched)
    return len(found) == RESCUED_AT_ONCE
