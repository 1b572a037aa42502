"""What other servers of the same database have just committed, by LISTEN and NOTIFY.

    connecting ──LISTEN on every channel──► listening ──lost, or no answer──► connecting …

    sender     await notify(connection, channel, payload)      in its transaction
    receiver   notifications.listen(channel, on_payload, on_gap)

PostgreSQL delivers a notification once its transaction has committed, in the order of commits, to
every session that listens, the sender's own server included. A receiver that was not connected gets
nothing, so `on_gap` is called once it listens, when the connection is lost, and once it listens
anew: whatever was remembered may be out of date by then. https://www.postgresql.org/docs/16/sql-notify.html
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from monolite.storage.errors import StorageError
from monolite.storage.postgres.errors import CAUGHT
from monolite.storage.postgres.pool import Pool

log = logging.getLogger("monolite.storage")

BACKOFF_S_MIN, BACKOFF_S_MAX = 0.05, 1.0
_PROBE_INTERVAL_S = 5.0
_PROBE_TIMEOUT_S = 5.0

OnPayload = Callable[[str], None]
OnGap = Callable[[], None]


async def notify(connection: Any, channel: str, payload: str) -> None:
    """Tell every server once the connection's transaction commits; `payload` is under 8000 bytes.

    Equal ones of one transaction arrive once.
    """
    await connection.execute("SELECT pg_notify($1, $2)", channel, payload)


class Notifications:
    """One connection that listens, made anew by itself. `listen` first, then `start`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._subscribers: dict[str, list[tuple[OnPayload, OnGap]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()
        self.reconnects_total = 0

    @property
    def is_connected(self) -> bool:
        """Whether PostgreSQL answers on the listening connection."""
        return self._listening.is_set()

    def listen(self, channel: str, on_payload: OnPayload, on_gap: OnGap) -> None:
        """Call `on_payload` on the loop for each notification; before `start` only.

        Neither may raise or block. `channel` begins with `monolite_`: channels are the whole
        database's.
        """
        if self._task is not None:
            raise RuntimeError("every channel is named before start")
        self._subscribers.setdefault(channel, []).append((on_payload, on_gap))

    async def start(self) -> None:
        """Listen; returns once it does. Raises StorageError where PostgreSQL can't be reached."""
        self._task = asyncio.get_running_loop().create_task(self._keep_listening())
        waits = asyncio.ensure_future(self._listening.wait())
        try:
            await asyncio.wait({waits, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                self._task.result()
        finally:
            waits.cancel()

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep_listening(self) -> None:
        backoff_s = BACKOFF_S_MIN
        while True:
            try:
                await self._session()
            except (StorageError, *CAUGHT) as error:
                if self.is_connected:
                    backoff_s = BACKOFF_S_MIN
                    self._listening.clear()
                    log.warning("notifications were lost; connecting anew: %s", error)
                    self._tell_gap()
                elif self.reconnects_total == 0 and backoff_s == BACKOFF_S_MIN:
                    raise  # the first connection of all: the start fails, and says why
            self.reconnects_total += 1
            await asyncio.sleep(backoff_s)
            backoff_s = min(BACKOFF_S_MAX, backoff_s * 2)

    async def _session(self) -> None:
        async with self._pool.dedicated() as connection:
            closed = asyncio.Event()
            connection.add_termination_listener(lambda _: closed.set())
            for channel in self._subscribers:
                await connection.add_listener(channel, self._received)
            if self.reconnects_total:
                log.info("notifications are received again")
            self._tell_gap()
            self._listening.set()
            while not closed.is_set():
                try:
                    async with asyncio.timeout(_PROBE_INTERVAL_S):
                        await closed.wait()
                except TimeoutError:
                    # A network that drops packets tells nobody.
                    await connection.fetchval("SELECT 1", timeout=_PROBE_TIMEOUT_S)
        raise ConnectionError("PostgreSQL ended the connection")

    def _received(self, connection: Any, process: int, channel: str, payload: str) -> None:
        for on_payload, _ in self._subscribers[channel]:
            on_payload(payload)

    def _tell_gap(self) -> None:
        for subscribers in self._subscribers.values():
            for _, on_gap in subscribers:
                on_gap()
