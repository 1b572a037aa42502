"""The rows of jobs in PostgreSQL, inside a transaction. Who moves a job has locked its row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from monolite.jobs.job import ERRORS_KEPT, FINAL, Added, FinalState, Job, NewJob, State

Counts = Counter[tuple[int, int, str]]
"""Changes by tenant, queue and state."""

SHOWN = (
    "SELECT j.id, q.name AS queue, j.state, j.payload, -j.rank AS priority, j.run_at, j.attempt,"
    " j.max_attempts, j.timeout_ms, j.url, j.unique_key, j.concurrency_key, j.concurrency_limit,"
    " j.created_at, j.finished_at, j.result, coalesce(j.errors, '[]') AS errors, j.worker,"
    " j.lease_expires_at, j.key FROM jobs j JOIN job_queues q ON q.id = j.queue_id"
)
_LOCKED = (
    "SELECT *, payload IS NULL AS unused FROM jobs WHERE tenant_id = $1 AND id = $2 FOR UPDATE"
)
_INSERT = (
    "INSERT INTO jobs (tenant_id, queue_id, id, state, lane, rank, run_at, attempt, max_attempts,"
    " timeout_ms, url, unique_key, concurrency_key, concurrency_limit, created_at, payload)"
)


async def opened(connection: Any, tenant_id: int, name: str, now_ms: int) -> int:
    """A queue's id, made where there is none."""
    found = await id_of(connection, tenant_id, name)
    if found is None:
        await connection.execute(
            "INSERT INTO job_queues (tenant_id, name, created_at, updated_at)"
            " VALUES ($1, $2, $3, $3) ON CONFLICT DO NOTHING",
            tenant_id,
            name,
            now_ms,
        )
        found = await id_of(connection, tenant_id, name)
    assert found is not None  # it is there now
    return found


async def id_of(connection: Any, tenant_id: int, name: str) -> int | None:
    """A queue's id."""
    found: int | None = await connection.fetchval(
        "SELECT id FROM job_queues WHERE tenant_id = $1 AND name = $2", tenant_id, name
    )
    return found


async def locked(connection: Any, tenant_id: int, job_id: str) -> Any | None:
    """A job's row, locked until the transaction ends."""
    return await connection.fetchrow(_LOCKED, tenant_id, job_id)


async def write_counts(connection: Any, counts: Mapping[tuple[int, int, str], int]) -> None:
    """Note what a transaction moved."""
    rows = [(*where, change) for where, change in counts.items() if change]
    if rows:
        tenants, queues, states, changes = zip(*rows, strict=True)
        await connection.execute(
            "INSERT INTO job_counts SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[],"
            " $4::bigint[])",
            *map(list, (tenants, queues, states, changes)),
        )


# ── Adding ─────────────────────────────────────────────────────────────────────────────────────


async def add(
    connection: Any, tenant_id: int, queue_id: int, jobs: Sequence[NewJob], now_ms: int
) -> Sequence[Added]:
    """Add them in their order; a live job with the same unique key stands in for one."""
    if any(job.unique_key is not None for job in jobs):
        added = [await _add_one(connection, tenant_id, queue_id, job, now_ms) for job in jobs]
    else:
        added = [Added(job.id, _first_state(job, now_ms), True) for job in jobs]
        columns = list(zip(*(_values(job, now_ms) for job in jobs), strict=True))
        await connection.execute(
            f"{_INSERT} SELECT $1, $2, id, state, lane, rank, run_at, 0, max_attempts, timeout_ms,"
            " url, unique_key, concurrency_key, concurrency_limit, $3, payload FROM unnest("
            "$4::text[], $5::text[], $6::int[], $7::int[], $8::bigint[], $9::int[], $10::bigint[],"
            " $11::text[], $12::text[], $13::text[], $14::int[], $15::text[]) WITH ORDINALITY AS u"
            " (id, state, lane, rank, run_at, max_attempts, timeout_ms, url, unique_key,"
            " concurrency_key, concurrency_limit, payload, i) ORDER BY i",
            *(tenant_id, queue_id, now_ms),
            *map(list, columns),
        )
    counts: Counts = Counter((tenant_id, queue_id, one.state) for one in added if one.is_new)
    await write_counts(connection, counts)
    return added


def _first_state(job: NewJob, now_ms: int) -> State:
    return "scheduled" if job.run_at > now_ms else "available"


def _values(job: NewJob, now_ms: int) -> tuple[Any, ...]:
    return (
        *(job.id, _first_state(job, now_ms), int(job.url is not None), -job.priority, job.run_at),
        *(job.max_attempts, job.timeout_ms, job.url, job.unique_key, job.concurrency_key),
        *(job.concurrency_limit, job.payload),
    )


async def _add_one(
    connection: Any, tenant_id: int, queue_id: int, job: NewJob, now_ms: int
) -> Added:
    values = _values(job, now_ms)
    while True:
        made = await connection.fetchval(
            f"{_INSERT} VALUES ($1, $2, $4, $5, $6, $7, $8, 0, $9, $10, $11, $12, $13, $14,"
            " $3, $15) ON CONFLICT (tenant_id, queue_id, unique_key)"
            " WHERE unique_key IS NOT NULL AND finished_at IS NULL DO NOTHING RETURNING key",
            *(tenant_id, queue_id, now_ms),
            *values,
        )
        if made is not None:
            return Added(job.id, _first_state(job, now_ms), True)
        row = await connection.fetchrow(
            "SELECT id, state, run_at, attempt FROM jobs WHERE tenant_id = $1 AND queue_id = $2"
            " AND unique_key = $3 AND finished_at IS NULL",
            tenant_id,
            queue_id,
            job.unique_key,
        )
        if row is not None:
            return Added(row["id"], state_of(row, now_ms), False)
        # It finished in this instant.


# ── Moving ─────────────────────────────────────────────────────────────────────────────────────


async def finish(
    connection: Any, row: Any, state: FinalState, now_ms: int, counts: Counts, errors: str | None
) -> None:
    """Give a job its final state."""
    await connection.execute(
        "UPDATE jobs SET state = $3, finished_at = $4, errors = $5, blocked = false, worker = NULL,"
        " secret = NULL, lease_expires_at = NULL, deadline = NULL WHERE tenant_id = $1 AND id = $2",
        *(row["tenant_id"], row["id"], state, now_ms, errors),
    )
    moved(counts, row, state)


async def wait(
    connection: Any, row: Any, run_at: int, now_ms: int, counts: Counts, errors: str | None
) -> None:
    """Let a job that ran wait for its next attempt."""
    state: State = "retryable" if run_at > now_ms else "available"
    await connection.execute(
        "UPDATE jobs SET state = $3, run_at = $4, errors = $5, worker = NULL, secret = NULL,"
        " lease_expires_at = NULL, deadline = NULL WHERE tenant_id = $1 AND id = $2",
        *(row["tenant_id"], row["id"], state, run_at, errors),
    )
    moved(counts, row, state)


def moved(counts: Counts, row: Any, state: str) -> None:
    """Note that a job went from its row's state to another."""
    where = (row["tenant_id"], row["queue_id"])
    counts[(*where, row["state"])] -= 1
    counts[(*where, state)] += 1


async def free_place(connection: Any, row: Any) -> None:
    """A job of a concurrency key runs no more: the first that waits for that is ready again."""
    if row["concurrency_key"] is None:
        return
    where = (row["tenant_id"], row["queue_id"], row["concurrency_key"])
    left = await connection.fetchval(
        "UPDATE job_concurrency SET running = running - 1 WHERE tenant_id = $1 AND queue_id = $2"
        " AND concurrency_key = $3 RETURNING running",
        *where,
    )
    if left is not None and left <= 0:
        await connection.execute(
            "DELETE FROM job_concurrency WHERE tenant_id = $1 AND queue_id = $2"
            " AND concurrency_key = $3",
            *where,
        )
    await unblock(connection, row)


async def unblock(connection: Any, row: Any) -> None:
    """Make the first blocked job of a job's concurrency key ready."""
    where = (row["tenant_id"], row["queue_id"], row["concurrency_key"])
    await connection.execute(
        "UPDATE jobs SET blocked = false WHERE tenant_id = $1 AND key = (SELECT key FROM jobs"
        " WHERE tenant_id = $1 AND queue_id = $2 AND concurrency_key = $3 AND blocked"
        " ORDER BY rank, run_at, key LIMIT 1 FOR UPDATE SKIP LOCKED) AND queue_id = $2 AND blocked"
        " AND concurrency_key = $3",
        *where,
    )


def with_error(errors: str | None, attempt: int, now_ms: int, error: str) -> str:
    """The JSON of a job's last failures, with one more."""
    kept: list[Any] = msgspec.json.decode(errors) if errors else []
    kept.append([attempt, now_ms, error])
    return msgspec.json.encode(kept[-ERRORS_KEPT:]).decode()


# ── Looking ────────────────────────────────────────────────────────────────────────────────────


def state_of(row: Any, now_ms: int) -> State:
    """The state as it is told: what is due is available."""
    state: State = row["state"]
    if state in ("scheduled", "retryable") and row["run_at"] <= now_ms:
        return "available"
    return state


async def find(connection: Any, tenant_id: int, job_id: str, now_ms: int) -> Job | None:
    """One job."""
    row = await connection.fetchrow(
        f"{SHOWN} WHERE j.tenant_id = $1 AND j.id = $2", tenant_id, job_id
    )
    return None if row is None else shown(row, state_of(row, now_ms))


def shown(row: Any, state: State) -> Job:
    """A row of SHOWN as a job."""
    job_id, queue, _, *rest = tuple(row)[:-1]
    if state in FINAL:
        rest[-2:] = [None, None]
    return Job(job_id, queue, state, *rest)
