"""What other servers committed, by NOTIFY.

    channel monolite_jobs     q:TENANT.COUNT.NAME      so many jobs may be claimable; 0 for any
                              s:                       a schedule may tick earlier

A commit is told of a few milliseconds after it, many at once: NOTIFY inside the transaction would
make every commit of the database wait for the one before it. What is lost on its way is found by
those who wait, who look again every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from monolite.jobs.engine import Changed
from monolite.storage.errors import StorageError
from monolite.storage.postgres.notifications import Notifications
from monolite.storage.postgres.pool import Pool

CHANNEL = "monolite_jobs"

log = logging.getLogger("monolite.jobs")

_TELL_AFTER_S = 0.002


class PostgresJobNews:
    """Tells this server at once, and the others soon after."""

    def __init__(self, pool: Pool, notifications: Notifications) -> None:
        self._pool = pool
        self._touched: dict[tuple[int, str], int] = {}
        self._ticks_moved = False
        self._telling: asyncio.Task[None] | None = None
        self._changed: Changed = lambda *_: None
        self._schedules_changed: Callable[[], None] = lambda: None
        notifications.listen(CHANNEL, self._received, lambda: self._schedules_changed())

    def follow(self, changed: Changed, schedules_changed: Callable[[], None]) -> None:
        """Call these from now on."""
        self._changed, self._schedules_changed = changed, schedules_changed

    async def stop(self) -> None:
        """Finish telling."""
        if self._telling is not None:
            await asyncio.gather(self._telling, return_exceptions=True)

    def touch(self, tenant_id: int, queue: str, count: int) -> None:
        """Jobs of a queue may be claimable; 0 where it isn't known how many."""
        self._changed(tenant_id, queue, count)
        key = (tenant_id, queue)
        known = self._touched.get(key)
        self._touched[key] = 0 if count == 0 or known == 0 else (known or 0) + count
        self._tell_soon()

    def ticks_moved(self) -> None:
        """A schedule may tick earlier than was known."""
        self._schedules_changed()
        self._ticks_moved = True
        self._tell_soon()

    def _tell_soon(self) -> None:
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        while self._touched or self._ticks_moved:
            await asyncio.sleep(_TELL_AFTER_S)
            touched, self._touched = self._touched, {}
            payloads = [f"q:{tenant}.{count}.{name}" for (tenant, name), count in touched.items()]
            if self._ticks_moved:
                self._ticks_moved = False
                payloads.append("s:")
            try:
                await self._pool.fetch(
                    "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS p (payload)",
                    CHANNEL,
                    payloads,
                )
            except StorageError as error:
                log.warning("other servers were not told, and look by themselves: %s", error)

    def _received(self, payload: str) -> None:
        kind, _, rest = payload.partition(":")
        if kind == "q":
            tenant, count, name = rest.split(".", 2)
            self._changed(int(tenant), name, int(count))
        elif kind == "s":
            self._schedules_changed()
