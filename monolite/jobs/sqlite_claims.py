"""Deliveries in SQLite: what workers claim, complete, fail and extend.

A claim reads no job that isn't ready, and moves those without extras by three statements, however
many they are. What has a concurrency key or a time-out of its own goes one by one.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, NamedTuple

import apsw

from monolite.jobs import sqlite_queues as queues
from monolite.jobs.engine import Claim, Delay
from monolite.jobs.job import LIMITED, TIMED, TIMEOUT_MS, UNIQUE, Claimed, Delivery, Held, State
from monolite.jobs.refusals import lease_lost, no_job
from monolite.jobs.sqlite_moves import (
    Body,
    body_by_id,
    body_by_key,
    drop_held,
    finish,
    free_place,
    free_unique_key,
    let_go,
    place,
    with_error,
)
from monolite.jobs.sqlite_queues import QueueRow

PROMOTED_AT_ONCE = 1000
"""Due jobs that one claim makes ready on the loop; more go to the thread."""

BLOCKED_AT_ONCE = 500
"""Jobs that one claim puts aside because their concurrency key is taken."""

RESCUED_AT_ONCE = 20
"""Expired claims that one transaction takes back."""

Wake = Callable[[int, int, int], None]
"""Told of a tenant, a queue's id, and how many of its jobs became claimable."""

_READY = (
    "SELECT r.rank, r.run_at, r.key, r.attempt, r.flags, j.id, j.payload, j.timeout_ms,"
    " j.concurrency_key, j.concurrency_limit FROM job_ready r CROSS JOIN jobs j"
    " WHERE r.tenant_id = ? AND r.queue_id = ? AND r.lane = ? AND j.key = r.key"
    " ORDER BY r.rank, r.run_at, r.key LIMIT ?"
)
_START = (
    "INSERT INTO job_running (key, tenant_id, queue_id, claim_id, attempt, flags, deadline)"
    " SELECT key, tenant_id, queue_id, ?, attempt + 1, flags, ? FROM job_ready"
    " WHERE tenant_id = ? AND queue_id = ? AND lane = ? AND (rank, run_at, key) <= (?, ?, ?)"
)
_TAKE = (
    "DELETE FROM job_ready"
    " WHERE tenant_id = ? AND queue_id = ? AND lane = ? AND (rank, run_at, key) <= (?, ?, ?)"
)
_TAKE_ONE = (
    "DELETE FROM job_ready WHERE tenant_id = ? AND queue_id = ? AND lane = ? AND rank = ?"
    " AND run_at = ? AND key = ?"
)
_INSERT_CLAIM = (
    "INSERT INTO job_claims (tenant_id, queue_id, worker, secret, claimed_at, expires_at, held,"
    " keys) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_HELD = (
    "SELECT j.key, j.id, j.state, j.queue_id, j.unique_key, j.concurrency_key, j.run_at, j.attempt,"
    " r.claim_id, r.attempt, r.flags, c.secret FROM carray(?) a CROSS JOIN jobs j"
    " LEFT JOIN job_running r ON r.key = j.key LEFT JOIN job_claims c ON c.id = r.claim_id"
    " WHERE j.tenant_id = ? AND j.id = a.value"
)

_COMPLETE = "UPDATE jobs SET state = 'completed', attempt = ?, finished_at = ?, result = ?"


class Outlook(NamedTuple):
    """What a look at a queue shows: whether a claim would do something, and when one may."""

    is_ready: bool
    next_at: int | None


def outlook(connection: apsw.Connection, claim: Claim) -> Outlook:
    """Whether a claim is worth a transaction, from a reader's connection."""
    row: Any = connection.execute(
        "SELECT q.paused, EXISTS (SELECT 1 FROM job_ready WHERE tenant_id = ?1 AND queue_id = q.id"
        " AND lane = ?3), (SELECT run_at FROM job_future WHERE tenant_id = ?1 AND queue_id = q.id"
        " ORDER BY run_at LIMIT 1), CASE WHEN q.running > 0 THEN (SELECT expires_at FROM job_claims"
        " ORDER BY expires_at LIMIT 1) END FROM job_queues q"
        " WHERE q.tenant_id = ?1 AND q.name = ?2",
        (claim.tenant_id, claim.queue, claim.lane),
    ).fetchone()
    if row is None or row[0]:
        return Outlook(False, None)
    _, is_ready, *moments = row
    next_at = min((moment for moment in moments if moment is not None), default=None)
    return Outlook(bool(is_ready) or (next_at is not None and next_at <= claim.now_ms), next_at)


# ── Claiming ───────────────────────────────────────────────────────────────────────────────────


def claim(connection: apsw.Connection, asked: Claim, wake: Wake) -> Claimed | None:
    """Give out jobs; None where more are due than one claim makes ready: `promote` them first."""
    rescue(connection, asked.now_ms, wake)
    queue = queues.row_of(connection, asked.tenant_id, asked.queue)
    if queue is None:
        return Claimed((), asked.secret, None)
    if promote(connection, asked.tenant_id, queue.id, asked.now_ms) >= PROMOTED_AT_ONCE:
        return None
    if queue.paused:
        return Claimed((), asked.secret, None)
    limit = asked.limit
    if queue.rate_count is not None:
        tokens = queue.tokens(asked.now_ms)
        limit = min(limit, int(tokens))
        if limit < 1:
            _spend(connection, queue, tokens, asked.now_ms)
            assert queue.rate_period_ms is not None  # there is a rate
            wait_ms = ceil((1 - tokens) * queue.rate_period_ms / queue.rate_count)
            return Claimed((), asked.secret, asked.now_ms + max(1, wait_ms))
    where = (asked.tenant_id, queue.id, asked.lane)
    rows: Any = connection.execute(_READY, (*where, limit)).fetchall()
    if any(row[4] & (LIMITED | TIMED) for row in rows):
        claimed = _claim_singly(connection, asked, queue.id, limit, wake)
    elif rows:
        claimed = _claim_together(connection, asked, queue.id, rows)
    else:
        claimed = Claimed((), asked.secret, _next_at(connection, asked, queue.id))
    if claimed.jobs:
        queues.count(connection, queue.id, available=-len(claimed.jobs), running=len(claimed.jobs))
        if queue.rate_count is not None:
            _spend(connection, queue, tokens - len(claimed.jobs), asked.now_ms)
    return claimed


def _claim_together(
    connection: apsw.Connection, asked: Claim, queue_id: int, rows: Sequence[Any]
) -> Claimed:
    deadline = asked.now_ms + TIMEOUT_MS
    expires_at = min(asked.now_ms + asked.lease_ms, deadline)
    keys = array("q", [row[2] for row in rows])
    claim_id = _insert_claim(connection, asked, queue_id, expires_at, keys)
    last = rows[-1]
    until = (asked.tenant_id, queue_id, asked.lane, last[0], last[1], last[2])
    connection.execute(_START, (claim_id, deadline, *until))
    connection.execute(_TAKE, until)
    jobs = [Delivery(row[5], row[6], row[3] + 1, expires_at) for row in rows]
    return Claimed(jobs, asked.secret, None, is_more=len(rows) == asked.limit)


def _claim_singly(
    connection: apsw.Connection, asked: Claim, queue_id: int, limit: int, wake: Wake
) -> Claimed:
    where = (asked.tenant_id, queue_id, asked.lane)
    taken: dict[int, list[tuple[Any, ...]]] = {}
    jobs: list[Delivery] = []
    blocked_count = 0
    while len(jobs) < limit and blocked_count < BLOCKED_AT_ONCE:
        rows: Any = connection.execute(_READY, (*where, limit - len(jobs))).fetchall()
        if not rows:
            break
        for rank, run_at, key, attempt, flags, job_id, payload, timeout_ms, *concurrency in rows:
            connection.execute(_TAKE_ONE, (*where, rank, run_at, key))
            if flags & LIMITED and not _enter(connection, asked.tenant_id, queue_id, *concurrency):
                connection.execute(
                    "INSERT INTO job_blocked VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (*where[:2], concurrency[0], rank, run_at, key, attempt, flags),
                )
                blocked_count += 1
                continue
            deadline = None if timeout_ms is None else asked.now_ms + timeout_ms
            expires_at = asked.now_ms + asked.lease_ms
            expires_at = expires_at if deadline is None else min(expires_at, deadline)
            taken.setdefault(expires_at, []).append((key, attempt + 1, flags, deadline))
            jobs.append(Delivery(job_id, payload, attempt + 1, expires_at))
    for expires_at, held in taken.items():
        keys = array("q", [one[0] for one in held])
        claim_id = _insert_claim(connection, asked, queue_id, expires_at, keys)
        connection.executemany(
            "INSERT INTO job_running (key, attempt, flags, deadline, tenant_id, queue_id, claim_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(*one, asked.tenant_id, queue_id, claim_id) for one in held],
        )
    if jobs:
        return Claimed(jobs, asked.secret, None, is_more=len(jobs) == asked.limit)
    # Only what is blocked came first; what lies behind it is for the next look.
    next_at = (
        asked.now_ms if blocked_count >= BLOCKED_AT_ONCE else _next_at(connection, asked, queue_id)
    )
    return Claimed((), asked.secret, next_at)


def _enter(
    connection: apsw.Connection, tenant_id: int, queue_id: int, concurrency_key: str, limit: int
) -> bool:
    """Take a place of a concurrency key, where one is free."""
    connection.execute(
        "INSERT INTO job_concurrency VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE"
        " SET running = running + 1 WHERE running < ?",
        (tenant_id, queue_id, concurrency_key, limit),
    )
    return connection.changes() > 0


def _insert_claim(
    connection: apsw.Connection, asked: Claim, queue_id: int, expires_at: int, keys: array[int]
) -> int:
    connection.execute(
        _INSERT_CLAIM,
        (
            *(asked.tenant_id, queue_id, asked.worker, asked.secret),
            *(asked.now_ms, expires_at, len(keys), keys.tobytes()),
        ),
    )
    return connection.last_insert_rowid()


def _spend(connection: apsw.Connection, queue: QueueRow, tokens: float, now_ms: int) -> None:
    connection.execute(
        "UPDATE job_queues SET rate_tokens = ?, rate_at = ? WHERE id = ?",
        (tokens, now_ms, queue.id),
    )


def _next_at(connection: apsw.Connection, asked: Claim, queue_id: int) -> int | None:
    """When a queue with nothing ready may have something."""
    row: Any = connection.execute(
        "SELECT (SELECT run_at FROM job_future WHERE tenant_id = ?1 AND queue_id = ?2"
        " ORDER BY run_at LIMIT 1),"
        " (SELECT expires_at FROM job_claims ORDER BY expires_at LIMIT 1)",
        (asked.tenant_id, queue_id),
    ).fetchone()
    return min((moment for moment in row if moment is not None), default=None)


def promote(
    connection: apsw.Connection,
    tenant_id: int,
    queue_id: int,
    now_ms: int,
    limit: int = PROMOTED_AT_ONCE,
) -> int:
    """Make due jobs ready, the earliest first; returns how many."""
    rows: Any = connection.execute(
        "SELECT run_at, key, rank, attempt, flags FROM job_future WHERE tenant_id = ?"
        " AND queue_id = ? AND run_at <= ? ORDER BY run_at, key LIMIT ?",
        (tenant_id, queue_id, now_ms, limit),
    ).fetchall()
    if not rows:
        return 0
    connection.executemany(
        # 8 is CALLED, whose jobs are ready in lane 1.
        "INSERT INTO job_ready VALUES (?1, ?2, (?7 & 8) > 0, ?5, ?3, ?4, ?6, ?7)",
        [(tenant_id, queue_id, *row) for row in rows],
    )
    connection.execute(
        "DELETE FROM job_future WHERE tenant_id = ? AND queue_id = ? AND (run_at, key) <= (?, ?)",
        (tenant_id, queue_id, rows[-1][0], rows[-1][1]),
    )
    retried = sum(row[3] > 0 for row in rows)
    queues.count(
        connection,
        queue_id,
        available=len(rows),
        retryable=-retried,
        scheduled=retried - len(rows),
    )
    return len(rows)


# ── Ending deliveries ──────────────────────────────────────────────────────────────────────────


def complete(
    connection: apsw.Connection, tenant_id: int, held: Sequence[Held], now_ms: int, wake: Wake
) -> Sequence[tuple[str, State | None]]:
    """Complete what stands; returns the rest with its state."""
    wanted = {one.id: one for one in held}
    rows: Any = connection.execute(_HELD, (apsw.carray(tuple(wanted)), tenant_id)).fetchall()
    done: list[tuple[Any, ...]] = []
    claims: Counter[int] = Counter()
    by_queue: Counter[int] = Counter()
    places: list[tuple[int, str]] = []
    states: dict[str, State | None] = dict.fromkeys(wanted)
    for row in rows:
        key, job_id, _, queue_id, unique_key, concurrency_key, *_ = row
        claim_id, attempt, flags, secret = row[8:]
        one = wanted[job_id]
        if claim_id is None or secret != one.secret:
            states[job_id] = _state(row, now_ms)
            continue
        del states[job_id]
        done.append((attempt, now_ms, one.result, key))
        claims[claim_id] += 1
        by_queue[queue_id] += 1
        if flags & UNIQUE:
            free_unique_key(connection, tenant_id, queue_id, unique_key)
        if flags & LIMITED:
            places.append((queue_id, concurrency_key))
    if done:
        keys = apsw.carray(array("q", [row[3] for row in done]))
        if len({row[:3] for row in done}) == 1:
            # As most are: first attempts without a result, all by one statement.
            connection.execute(_COMPLETE + " WHERE key IN carray(?)", (*done[0][:3], keys))
        else:
            connection.executemany(_COMPLETE + " WHERE key = ?", done)
        connection.execute("DELETE FROM job_running WHERE key IN carray(?)", (keys,))
        for claim_id, number in claims.items():
            drop_held(connection, claim_id, number)
        for queue_id, number in by_queue.items():
            queues.count(connection, queue_id, running=-number, completed=number)
        for queue_id, concurrency_key in places:
            wake(tenant_id, queue_id, free_place(connection, tenant_id, queue_id, concurrency_key))
    return list(states.items())


def _state(row: Sequence[Any], now_ms: int) -> State:
    _, _, state, _, _, _, run_at, body_attempt, claim_id, *_ = row
    if state is not None:
        final: State = state
        return final
    if claim_id is not None:
        return "running"
    if run_at <= now_ms:
        return "available"
    return "retryable" if body_attempt else "scheduled"


class Lease(NamedTuple):
    """A delivery that stands."""

    body: Body
    claim_id: int
    attempt: int
    deadline: int | None
    worker: str
    claimed_at: int


def lease_of(connection: apsw.Connection, tenant_id: int, held: Held, now_ms: int) -> Lease:
    """The delivery that a token is of; raises NotFound, or Conflict where it is over."""
    body = body_by_id(connection, tenant_id, held.id)
    if body is None:
        raise no_job()
    row: Any = connection.execute(
        "SELECT c.id, r.attempt, r.deadline, c.worker, c.claimed_at, c.secret FROM job_running r"
        " JOIN job_claims c ON c.id = r.claim_id WHERE r.key = ?",
        (body.key,),
    ).fetchone()
    if row is None or row[5] != held.secret:
        state: State = body.state or ("running" if row is not None else "available")
        if state == "available" and body.run_at > now_ms:
            state = "retryable" if body.attempt else "scheduled"
        raise lease_lost(state)
    return Lease(body, *row[:5])


def fail(
    connection: apsw.Connection,
    tenant_id: int,
    held: Held,
    error: str,
    retry_in_ms: int | None,
    now_ms: int,
    delay: Delay,
    wake: Wake,
) -> None:
    """End an attempt with an error."""
    lease = lease_of(connection, tenant_id, held, now_ms)
    wait_ms = delay(lease.attempt) if retry_in_ms is None else retry_in_ms
    _end(
        connection, lease.body, lease.claim_id, lease.attempt, error, now_ms + wait_ms, now_ms, wake
    )


def extend(
    connection: apsw.Connection, tenant_id: int, held: Held, lease_ms: int, now_ms: int
) -> int:
    """Renew a lease, up to the job's time-out; returns when it ends."""
    lease = lease_of(connection, tenant_id, held, now_ms)
    expires_at = now_ms + lease_ms
    if lease.deadline is not None:
        expires_at = min(expires_at, lease.deadline)
    connection.execute(
        _INSERT_CLAIM,
        (
            *(tenant_id, lease.body.queue_id, lease.worker, held.secret, lease.claimed_at),
            *(expires_at, 1, array("q", [lease.body.key]).tobytes()),
        ),
    )
    claim_id = connection.last_insert_rowid()
    connection.execute(
        "UPDATE job_running SET claim_id = ? WHERE key = ?", (claim_id, lease.body.key)
    )
    drop_held(connection, lease.claim_id, 1)
    return expires_at


def rescue(connection: apsw.Connection, now_ms: int, wake: Wake) -> bool:
    """Take back some expired leases, of any queue; whether there may be more."""
    rows: Any = connection.execute(
        "SELECT id, worker, keys FROM job_claims WHERE expires_at <= ? ORDER BY expires_at LIMIT ?",
        (now_ms, RESCUED_AT_ONCE),
    ).fetchall()
    for claim_id, worker, packed in rows:
        keys = array("q")
        keys.frombytes(packed)
        for key in keys:
            row: Any = connection.execute(
                "SELECT attempt, deadline FROM job_running WHERE key = ? AND claim_id = ?",
                (key, claim_id),
            ).fetchone()
            if row is None:
                continue
            attempt, deadline = row
            over = deadline is not None and deadline <= now_ms
            error = "timed out" if over else f"the lease of {worker} ended"
            body = body_by_key(connection, key)
            _end(connection, body, claim_id, attempt, error, min(body.run_at, now_ms), now_ms, wake)
        connection.execute("DELETE FROM job_claims WHERE id = ?", (claim_id,))
    return len(rows) == RESCUED_AT_ONCE


def _end(
    connection: apsw.Connection,
    body: Body,
    claim_id: int,
    attempt: int,
    error: str,
    run_at: int,
    now_ms: int,
    wake: Wake,
) -> None:
    """End a delivery that failed: the job waits for the next, or is discarded after its last."""
    freed = let_go(connection, body, claim_id)
    errors = with_error(body.errors, attempt, now_ms, error)
    if attempt >= body.max_attempts:
        finish(connection, body, "discarded", attempt, now_ms, errors)
        queues.count(connection, body.queue_id, running=-1, discarded=1)
    else:
        connection.execute(
            "UPDATE jobs SET attempt = ?, run_at = ?, errors = ? WHERE key = ?",
            (attempt, run_at, errors, body.key),
        )
        state = place(connection, body, run_at, attempt, now_ms)
        queues.count(connection, body.queue_id, **{"running": -1, state: 1})
        # A job that waits for later has its worker's wait shortened too.
        freed += 1
    wake(body.tenant_id, body.queue_id, freed)


def is_any_expired(connection: apsw.Connection, now_ms: int) -> bool:
    """Whether `rescue` would do something, from a reader's connection."""
    row = connection.execute(
        "SELECT 1 FROM job_claims WHERE expires_at <= ? LIMIT 1", (now_ms,)
    ).fetchone()
    return row is not None
