"""What jobs need of a database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from monolite.jobs.job import Added, Claimed, Held, Job, NewJob, Queue, QueueSettings, State
from monolite.jobs.schedule import Schedule

Also = Callable[[Any, Any], Awaitable[None] | None] | None
"""What else to do in the same transaction, given the engine's handle and what the verb returns.
What it returns itself is awaited there, over an engine that awaits; over SQLite it returns None.
"""

Changed = Callable[[int, str, int], None]
"""Told of a tenant, a queue, and how many jobs may have become claimable in it; 0 where unknown."""

Delay = Callable[[int], int]
"""Milliseconds until the next attempt, given the number of those that failed."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Who asks for what. `lane` 1 is the server's own, for jobs that name a URL."""

    tenant_id: int
    queue: str
    worker: str
    limit: int
    lease_ms: int
    now_ms: int
    secret: int
    lane: int = 0


@dataclass(frozen=True, slots=True)
class Position:
    """Where a list of jobs goes on: behind this one, which was in this state."""

    state: State
    order: tuple[int, int]


class JobEngine(Protocol):
    """Queues at rest. A queue comes into being with its first job or definition.

    A verb that takes a token raises Conflict (`lease_lost`) where the delivery is over, with the
    job's state as a member, and NotFound where the tenant has no such job.
    """

    # ── Producers ──────────────────────────────────────────────────────────────────────────────

    def add(
        self, tenant_id: int, queue: str, jobs: Sequence[NewJob], now_ms: int, also: Also = None
    ) -> Awaitable[Sequence[Added]]:
        """Add all of them or none, in their order. Not a coroutine itself: each layer of them
        costs at every wake-up.
        """
        ...

    async def cancel(self, tenant_id: int, job_id: str, now_ms: int) -> Job:
        """End a live job, a running one too. Raises Conflict (`job_finished`) for a finished one,
        unless it was cancelled.
        """
        ...

    async def retry(self, tenant_id: int, job_id: str, now_ms: int) -> Job:
        """Make a job available now: a finished one for an attempt more, a waiting one at once.

        Raises Conflict (`job_running`, or `unique_key_taken`).
        """
        ...

    # ── Workers ────────────────────────────────────────────────────────────────────────────────

    async def claim(self, claim: Claim) -> Claimed:
        """Give out what is first in order, once expired leases are back and due jobs ready."""
        ...

    async def complete(
        self, tenant_id: int, held: Sequence[Held], now_ms: int
    ) -> Sequence[tuple[str, State | None]]:
        """Complete the deliveries that stand. Returns the others: id and state, None for no job."""
        ...

    async def fail(
        self, tenant_id: int, held: Held, error: str, retry_in_ms: int | None, now_ms: int
    ) -> Job:
        """End an attempt. `retry_in_ms` None is the engine's own delay."""
        ...

    async def extend(self, tenant_id: int, held: Held, lease_ms: int, now_ms: int) -> int:
        """Renew a lease; returns when it ends, in ms."""
        ...

    # ── Looking ────────────────────────────────────────────────────────────────────────────────

    async def job(self, tenant_id: int, job_id: str, now_ms: int) -> Job | None:
        """One job."""
        ...

    async def jobs(
        self,
        tenant_id: int,
        queue: str,
        state: State | None,
        after: Position | None,
        limit: int,
        now_ms: int,
    ) -> Sequence[tuple[Job, Position]] | None:
        """Jobs of a queue, each with its place in the list; None where there is no such queue."""
        ...

    async def calling(self, now_ms: int, limit: int) -> Sequence[tuple[int, str]]:
        """Tenants and queues that may have jobs for the server to call."""
        ...

    # ── Queues ─────────────────────────────────────────────────────────────────────────────────

    async def queue(self, tenant_id: int, name: str) -> Queue | None:
        """One queue."""
        ...

    async def queues(self, tenant_id: int, after: str, limit: int) -> Sequence[Queue]:
        """A tenant's queues by name."""
        ...

    async def define_queue(
        self, tenant_id: int, name: str, settings: QueueSettings, now_ms: int
    ) -> tuple[Queue, bool]:
        """Set a queue's settings; returns it, and whether it is new."""
        ...

    async def pause(self, tenant_id: int, name: str, paused: bool, now_ms: int) -> Queue | None:
        """Stop or resume claims; None where there is no such queue."""
        ...

    # ── Schedules ──────────────────────────────────────────────────────────────────────────────

    async def put_schedule(self, tenant_id: int, schedule: Schedule, also: Also = None) -> bool:
        """Store it in place of the one of its name; whether it is new."""
        ...

    async def schedule(self, tenant_id: int, name: str) -> Schedule | None:
        """One schedule."""
        ...

    async def schedules(self, tenant_id: int, after: str, limit: int) -> Sequence[Schedule]:
        """A tenant's schedules by name."""
        ...

    async def delete_schedule(self, tenant_id: int, name: str) -> bool:
        """Remove it; whether it was there. Its jobs stay."""
        ...

    async def due(self, now_ms: int, limit: int) -> Sequence[tuple[int, Schedule]]:
        """Schedules of any tenant whose tick has come."""
        ...

    async def next_tick(self) -> int | None:
        """When the next schedule of any tenant ticks."""
        ...

    async def tick(
        self, tenant_id: int, schedule: Schedule, next_at: int | None, job: NewJob, now_ms: int
    ) -> bool:
        """Add the tick's job and move the schedule on to `next_at`, unless another has."""
        ...

    # ── Beside ─────────────────────────────────────────────────────────────────────────────────

    def follow(self, changed: Changed, schedules_changed: Callable[[], None]) -> None:
        """Call these on the loop soon after commits, of this server or another."""
        ...

    async def rescue(self, now_ms: int) -> bool:
        """Take back expired leases of any queue; whether there may be more."""
        ...

    async def expire(self, now_ms: int, retention_s: int) -> bool:
        """Drop a slice of what finished before its retention; whether there may be more."""
        ...
