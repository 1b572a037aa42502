"""Jobs that name a URL: the server is their worker.

    available ──claimed in lane 1──► running ──POST, 2xx──► completed
                                        └─anything else──► retryable … discarded

A call is the payload, posted and signed; its job is a delivery like a worker's, with a lease, so a
server that dies in the middle of one loses nothing: the job is called again, under the same
`webhook-id`. Which queues have such jobs is looked up; nothing is kept in memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from monolite.errors import DomainError
from monolite.jobs.core import Asked, Jobs
from monolite.jobs.engine import JobEngine
from monolite.jobs.job import Held, Job
from monolite.storage.errors import StorageError

log = logging.getLogger("monolite.jobs")

WORKER = "server"
CALLS_MAX = 64
"""Calls under way."""

DEADLINE_S = 60.0
DEADLINE_S_MAX = 600.0
LEASE_SLACK_S = 30.0
LOOK_S = 1.0
QUEUES_MAX = 1000
_AT_ONCE = 8


class Reply(NamedTuple):
    """What came of a call: a status and the beginning of the answer, or why there was none."""

    status: int | None
    text: str = ""
    error: str = ""
    retry_after_s: float | None = None


Post = Callable[[int, Job, float], Awaitable[Reply]]
"""Call the URL of a tenant's job, within so many seconds."""


class Caller:
    """Calls for all tenants, until it is cancelled."""

    def __init__(self, jobs: Jobs, engine: JobEngine, post: Post) -> None:
        self._jobs = jobs
        self._engine = engine
        self._post = post
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Look for jobs and call them; what fails is logged and tried again."""
        try:
            while True:
                try:
                    found = await self._look()
                except (DomainError, StorageError) as error:
                    log.warning("jobs to call could not be looked for: %s", error)
                    found = 0
                if not found:
                    await asyncio.sleep(LOOK_S)
        finally:
            for call in self._calls:
                call.cancel()

    async def _look(self) -> int:
        """Start calls where there is room; how many."""
        started = 0
        for tenant_id, queue in await self._engine.calling(self._jobs.now_ms(), QUEUES_MAX):
            room = min(_AT_ONCE, CALLS_MAX - len(self._calls))
            if room <= 0:
                await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
                room = 1
            asked = Asked(WORKER, room, _lease_ms(DEADLINE_S), lane=1)
            claimed = await self._jobs.claim(tenant_id, queue, asked)
            for delivery in claimed.jobs:
                held = Held(delivery.id, claimed.secret)
                call = asyncio.get_running_loop().create_task(self._call(tenant_id, held))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
                started += 1
        return started

    async def _call(self, tenant_id: int, held: Held) -> None:
        try:
            job = await self._jobs.job(tenant_id, held.id)
            deadline_s = DEADLINE_S if job.timeout_ms is None else job.timeout_ms / 1000
            deadline_s = min(deadline_s, DEADLINE_S_MAX)
            if deadline_s > DEADLINE_S:
                await self._jobs.extend(tenant_id, held, _lease_ms(deadline_s))
            reply = await self._post(tenant_id, job, deadline_s)
            if reply.status is not None and 200 <= reply.status < 300:
                shown = {"status": reply.status, "body": reply.text}
                result = msgspec.json.encode(shown).decode()
                await self._jobs.complete(tenant_id, held._replace(result=result))
                return
            why = reply.error or f"answered {reply.status}: {reply.text}"
            wait_s = reply.retry_after_s
            retry_in_ms = None if wait_s is None else int(wait_s * 1000)
            await self._jobs.fail(tenant_id, held, why, retry_in_ms)
        except (DomainError, StorageError) as error:
            # Its lease brings the job back, unless it is over already.
            log.info("a call's outcome was not noted: %s", error)


def _lease_ms(deadline_s: float) -> int:
    return int((deadline_s + LEASE_SLACK_S) * 1000)
