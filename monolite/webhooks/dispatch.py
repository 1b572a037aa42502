"""All webhooks of this server: one deliverer each, started and stopped as their rows say."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from monolite.storage.errors import StorageError
from monolite.webhooks.delivery import Deliverer, Means
from monolite.webhooks.webhook import Webhook

log = logging.getLogger("monolite.webhooks")

LOOK_S = 2.0
ATTEMPTS_KEPT_MS = 7 * 86_400_000
ATTEMPTS_KEPT_COUNT = 10_000
_EXPIRY_LOOKS = 30


class Dispatcher:
    """Runs the deliverers; `look` whenever a webhook changed, and now and then by itself, since
    another server may have changed one.
    """

    def __init__(self, means: Means) -> None:
        self._means = means
        self._running: dict[tuple[int, str, str], tuple[Deliverer, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
        self._looks = 0
        self._has_delivered = False

    @property
    def down_count(self) -> int:
        """How many endpoints are down."""
        return sum(deliverer.is_down for deliverer, _ in self._running.values())

    @property
    def count(self) -> int:
        """How many webhooks are delivered to."""
        return len(self._running)

    def changed(self) -> None:
        """A webhook was changed here."""
        self._changed.set()

    def poke(self, key: tuple[int, str, str]) -> None:
        """There is something to deliver to a webhook."""
        running = self._running.get(key)
        if running is not None:
            running[0].poke()

    async def run(self) -> None:
        """Look and look again, until cancelled."""
        try:
            while True:
                self._changed.clear()
                try:
                    await self._look()
                except StorageError as error:
                    log.warning("webhooks can't be read now: %s", error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._changed.wait()
        finally:
            await self._stop_all()

    async def _look(self) -> None:
        engine = self._means.engine
        webhooks = {webhook.key: webhook for webhook in await engine.enabled()}
        ended = []
        for key, (deliverer, task) in self._running.items():
            webhook = webhooks.get(key)
            if webhook is None or webhook.updated_at != deliverer.webhook.updated_at or task.done():
                ended.append(key)
        await asyncio.gather(*map(self._stop, ended))
        for key, webhook in webhooks.items():
            if key not in self._running:
                await self._start(webhook)
            elif self._running[key][0].failing_since != webhook.failing_since:
                await engine.mark_failing(webhook, self._running[key][0].failing_since)
        self._looks += 1
        self._has_delivered = self._has_delivered or bool(self._running)
        if self._has_delivered and self._looks % _EXPIRY_LOOKS == 0:
            self._means.client().close_idle()
            before_ms = self._means.clock.now_ms() - ATTEMPTS_KEPT_MS
            await engine.expire_attempts(before_ms, ATTEMPTS_KEPT_COUNT)

    async def _start(self, webhook: Webhook) -> None:
        try:
            deliverer = Deliverer(webhook, self._means)
        except ValueError as error:
            reason = f"its secret can't be opened ({error}): PUT it again with a new one"
            await self._means.engine.disable(webhook, reason, self._means.clock.now_ms())
            log.error("webhook %s of stream %s: %s", webhook.name, webhook.stream, reason)
            return
        task = asyncio.get_running_loop().create_task(deliverer.run())
        self._running[webhook.key] = (deliverer, task)

    async def _stop(self, key: tuple[int, str, str]) -> None:
        deliverer, task = self._running.pop(key)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, Exception):
            log.error("a webhook's deliverer ended", exc_info=outcome)
        await deliverer.finish()

    async def _stop_all(self) -> None:
        await asyncio.gather(*map(self._stop, list(self._running)))
        if self._has_delivered:
            self._means.client().close()
