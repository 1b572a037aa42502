"""Waiting until everything committed so far lies in S3, shared by all who wait.

One sync is in flight and one is queued. A sync in flight may have looked at the log before the
caller's commit, so whoever comes meanwhile shares the queued one: like group commit.

    callers   a      b c d      e
    syncs     [──a──][─b,c,d──][──e──]
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from monolite.replication.errors import ReplicationUnavailable


class Barrier:
    """Shares calls of `sync`, which must cover all that was committed before it was called."""

    def __init__(self, sync: Callable[[], Awaitable[None]]) -> None:
        self._sync = sync
        self._running: asyncio.Task[None] | None = None
        self._queued: asyncio.Task[None] | None = None

    async def wait(self, timeout_s: float) -> None:
        """Returns after a sync that began after this call. Raises what `sync` raised, or
        ReplicationUnavailable after `timeout_s`.
        """
        shared = self._join()
        try:
            async with asyncio.timeout(timeout_s):
                # One caller's cancellation must not end the sync that others wait for.
                await asyncio.shield(shared)
        except TimeoutError:
            raise ReplicationUnavailable(
                f"the latest commits did not reach S3 within {timeout_s:g} s. "
                "Try again; the write itself is committed locally."
            ) from None

    def _join(self) -> asyncio.Task[None]:
        if self._running is None or self._running.done():
            if self._queued is None or self._queued.done():
                self._running = self._start(self._run())
                return self._running
            return self._queued
        if self._queued is None or self._queued.done():
            self._queued = self._start(self._run_after(self._running))
        return self._queued

    def _start(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        # Callers that gave up leave the failure unread; that is not worth a log line.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _run(self) -> None:
        await self._sync()

    async def _run_after(self, previous: asyncio.Task[None]) -> None:
        await asyncio.wait((previous,))
        self._running, self._queued = self._queued, None
        await self._sync()
