"""The rules of jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from monolite.clock import Clock, Identifiers
from monolite.errors import NotFound, TooLarge
from monolite.jobs.engine import Also, Claim, JobEngine, Position
from monolite.jobs.job import Added, Claimed, Held, Job, NewJob, Queue, QueueSettings, State
from monolite.jobs.refusals import lease_lost, no_job
from monolite.waiting import Lines

BACKOFF_MS = 2000
BACKOFF_MS_MAX = 6 * 3_600_000
RESCUE_INTERVAL_S = 1.0
EXPIRY_INTERVAL_S = 60.0
LOOK_AGAIN_S = 2.0
"""How long news that may have been lost is waited for."""

_WAIT_S_MIN = 0.002

_MISSING_QUEUE = "There is no such queue; it comes into being with its first job."


def backoff_ms(attempt: int, chance: float) -> int:
    """How long a job waits after its attempt number `attempt` failed: 2 s, doubled each time, at
    most 6 hours, and by `chance` in [0, 1) a quarter less or more, so that what failed together
    doesn't come back together.
    """
    whole = min(BACKOFF_MS_MAX, BACKOFF_MS << min(attempt - 1, 30))
    return int(whole * (0.75 + 0.5 * chance))


class Asked(NamedTuple):
    """A worker's wish. `wait_ms` is how long it waits where there is nothing."""

    worker: str
    limit: int
    lease_ms: int
    wait_ms: int = 0
    lane: int = 0


class Jobs:
    """The queues of every tenant. `secret` makes 63 random bits; `payload_bytes_max` bounds a job's
    payload, and its result.
    """

    def __init__(
        self,
        engine: JobEngine,
        lines: Lines,
        clock: Clock,
        identifiers: Identifiers,
        *,
        secret: Callable[[], int],
        payload_bytes_max: int,
    ) -> None:
        self._engine = engine
        self._lines = lines
        self._clock = clock
        self._identifiers = identifiers
        self._secret = secret
        self._payload_bytes_max = payload_bytes_max

    def changed(self, tenant_id: int, queue: str, count: int) -> None:
        """Jobs may have become claimable; 0 where it isn't known how many."""
        self._lines.call((tenant_id, queue), count)

    def now_ms(self) -> int:
        """The wall clock."""
        return self._clock.now_ms()

    # ── Producers ──────────────────────────────────────────────────────────────────────────────

    def add(
        self, tenant_id: int, queue: str, jobs: Sequence[NewJob], also: Also = None
    ) -> Awaitable[Sequence[Added]]:
        """Add jobs, all or none. A `run_at` of 0 is now. Raises TooLarge."""
        now_ms = self._clock.now_ms()
        named = []
        for job in jobs:
            self.check_size(job.payload, "payload")
            run_at = job.run_at or now_ms
            named.append(job._replace(id=self._identifiers.new(), run_at=run_at))
        return self._engine.add(tenant_id, queue, named, now_ms, also)

    async def cancel(self, tenant_id: int, job_id: str) -> Job:
        """End a live job."""
        return await self._engine.cancel(tenant_id, job_id, self._clock.now_ms())

    async def retry(self, tenant_id: int, job_id: str) -> Job:
        """Make a job available now."""
        return await self._engine.retry(tenant_id, job_id, self._clock.now_ms())

    # ── Workers ────────────────────────────────────────────────────────────────────────────────

    async def claim(self, tenant_id: int, queue: str, asked: Asked) -> Claimed:
        """Jobs for a worker, waited for up to `wait_ms`; none where the queue has nothing, or isn't
        there yet.
        """
        claimed = await self._claim(tenant_id, queue, asked)
        if claimed.jobs or not asked.wait_ms:
            return claimed
        key = (tenant_id, queue)
        until = self._clock.monotonic() + asked.wait_ms / 1000
        with self._lines.stand(key) as place:
            while not self._lines.is_closed:
                # Once more from the place in line: what came in between called nobody.
                claimed = await self._claim(tenant_id, queue, asked)
                if claimed.jobs:
                    break
                left_s = until - self._clock.monotonic()
                if left_s <= 0:
                    break
                if claimed.next_at is not None:
                    next_s = (claimed.next_at - self._clock.now_ms()) / 1000
                    left_s = min(left_s, max(_WAIT_S_MIN, next_s))
                await place.come(min(left_s, LOOK_AGAIN_S))
        if claimed.is_more:
            self._lines.call(key, 1)
        return claimed

    async def _claim(self, tenant_id: int, queue: str, asked: Asked) -> Claimed:
        return await self._engine.claim(
            Claim(
                tenant_id,
                queue,
                asked.worker,
                asked.limit,
                asked.lease_ms,
                self._clock.now_ms(),
                self._secret(),
                asked.lane,
            )
        )

    async def complete(self, tenant_id: int, held: Held) -> None:
        """Complete one delivery. Raises NotFound, or Conflict (`lease_lost`)."""
        for _, state in await self.complete_many(tenant_id, [held]):
            raise no_job() if state is None else lease_lost(state)

    async def complete_many(
        self, tenant_id: int, held: Sequence[Held]
    ) -> Sequence[tuple[str, State | None]]:
        """Complete deliveries; returns id and state of those that are over, state None for no
        job.
        """
        for one in held:
            if one.result is not None:
                self.check_size(one.result, "result")
        return await self._engine.complete(tenant_id, held, self._clock.now_ms())

    async def fail(self, tenant_id: int, held: Held, error: str, retry_in_ms: int | None) -> Job:
        """End an attempt; the job as it stands then."""
        return await self._engine.fail(tenant_id, held, error, retry_in_ms, self._clock.now_ms())

    async def extend(self, tenant_id: int, held: Held, lease_ms: int) -> int:
        """Renew a lease; when it ends, in ms."""
        return await self._engine.extend(tenant_id, held, lease_ms, self._clock.now_ms())

    # ── Looking ────────────────────────────────────────────────────────────────────────────────

    async def job(self, tenant_id: int, job_id: str) -> Job:
        """One job."""
        job = await self._engine.job(tenant_id, job_id, self._clock.now_ms())
        if job is None:
            raise no_job()
        return job

    async def jobs(
        self, tenant_id: int, queue: str, state: State | None, after: Position | None, limit: int
    ) -> Sequence[tuple[Job, Position]]:
        """Jobs of a queue, of one state or of all."""
        now_ms = self._clock.now_ms()
        found = await self._engine.jobs(tenant_id, queue, state, after, limit, now_ms)
        if found is None:
            raise NotFound(_MISSING_QUEUE)
        return found

    # ── Queues ─────────────────────────────────────────────────────────────────────────────────

    async def queue(self, tenant_id: int, name: str) -> Queue:
        """One queue."""
        queue = await self._engine.queue(tenant_id, name)
        if queue is None:
            raise NotFound(_MISSING_QUEUE)
        return queue

    async def queues(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Queue]:
        """A tenant's queues by name."""
        return await self._engine.queues(tenant_id, after or "", limit)

    async def define_queue(
        self, tenant_id: int, name: str, settings: QueueSettings
    ) -> tuple[Queue, bool]:
        """Set a queue's settings; whether it is new."""
        return await self._engine.define_queue(tenant_id, name, settings, self._clock.now_ms())

    async def pause(self, tenant_id: int, name: str, paused: bool) -> Queue:
        """Stop or resume claims."""
        queue = await self._engine.pause(tenant_id, name, paused, self._clock.now_ms())
        if queue is None:
            raise NotFound(_MISSING_QUEUE)
        return queue

    # ── Beside ─────────────────────────────────────────────────────────────────────────────────

    async def rescue(self) -> None:
        """Take back expired leases of queues that nobody claims from."""
        while await self._engine.rescue(self._clock.now_ms()):
            pass

    def check_size(self, text: str, what: str) -> None:
        """Raise TooLarge for a payload or a result over its bound."""
        size = len(text) if text.isascii() else len(text.encode())
        if size > self._payload_bytes_max:
            raise TooLarge(
                f"The {what} is {size} bytes; a job takes {self._payload_bytes_max}. Store it as a"
                " document, and give the job its id."
            )
