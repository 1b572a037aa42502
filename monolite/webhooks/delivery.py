"""One webhook's deliveries: read, sign, send, note what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from monolite import __version__
from monolite.clock import Clock
from monolite.egress.errors import EgressError
from monolite.egress.target import parse_url
from monolite.errors import NotFound
from monolite.storage.errors import StorageError
from monolite.web.timestamps import rfc3339
from monolite.webhooks.engine import WebhookEngine
from monolite.webhooks.feed import Delivery, Feed
from monolite.webhooks.ordering import Ordering
from monolite.webhooks.schedule import delay_s, retry_after_s
from monolite.webhooks.sealing import Sealer
from monolite.webhooks.signing import signature
from monolite.webhooks.webhook import Attempt, Webhook, message_id

if TYPE_CHECKING:
    from monolite.egress.client import Client

log = logging.getLogger("monolite.webhooks")

DEADLINE_S = 15.0
DOWN_AFTER = 8
"""Failures in a row after which an endpoint is taken to be down, and probed."""

DISABLED_AFTER_MS = 5 * 86_400_000
FINISH_S = 2.0
"""How long a stop waits for requests under way."""

HELD_S_MAX = 45.0
"""How long an event may wait here; a third of how long its delivery is good for."""

_IDLE_S = 30.0
_RETRY_S = 1.0
_SORTED_AT_ONCE = 100
PENDING_MAX = 10_000
PENDING_MAX_IN_ORDER = 1000
"""How many events a webhook's group holds; one in order looks at all of them when it starts."""


class Message(msgspec.Struct):
    """The body of a webhook request, as Standard Webhooks has it."""

    type: str
    timestamp: str
    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Means:
    """What all deliverers share. `places` bounds the requests under way; `client` is imported with
    the first of them.
    """

    feed: Feed
    engine: WebhookEngine
    client: Callable[[], Client]
    sealer: Sealer
    clock: Clock
    chance: Callable[[], float]
    places: asyncio.Semaphore


class Deliverer:
    """Delivers to one webhook, as it was read, until it is stopped."""

    def __init__(self, webhook: Webhook, means: Means) -> None:
        self.webhook = webhook
        self.failing_since = webhook.failing_since
        self._means = means
        self._target = parse_url(webhook.definition.url)
        self._keys = signing_keys(webhook, means.sealer, means.clock.now_ms())
        order_by = webhook.definition.order_by
        self._ordering = None if order_by is None else Ordering(order_by)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(webhook.definition.concurrency)
        self._failures = 0
        self._poked = asyncio.Event()
        self._freed = asyncio.Event()
        self._done: list[str] = []
        self._attempts: list[Attempt] = []
        self._flushing: asyncio.Task[None] | None = None
        self._next_at_s = 0.0
        self._stopped = False

    @property
    def is_down(self) -> bool:
        """Whether the endpoint failed so often in a row that it is only probed."""
        return self._failures >= DOWN_AFTER

    def poke(self) -> None:
        """There may be something to deliver that no append told of."""
        self._poked.set()

    async def run(self) -> None:
        """Deliver until cancelled; then `finish`."""
        while not self._stopped:
            try:
                await self._run()
            except NotFound:
                # Broken off between, it would leave a group that is nobody's.
                if not await asyncio.shield(self._remake_group()):
                    await asyncio.sleep(_RETRY_S)
            except StorageError as error:
                log.warning("a webhook's events can't be read now: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def _remake_group(self) -> bool:
        if not await self._means.feed.remake_group(*self._where):
            return False
        # Whoever deletes a webhook deletes its group after it: one of the two finds this group.
        there = await self._means.engine.get(*self.webhook.key) is not None
        if not there:
            await self._means.feed.delete_group(*self._where)
        return there

    async def finish(self) -> None:
        """After `run` was cancelled: let requests under way end, break off those that don't, and
        note what came of them.
        """
        self._stopped = True
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=FINISH_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._flushing is not None:
            await self._flushing

    @property
    def _where(self) -> tuple[int, str, str]:
        return self.webhook.tenant_id, self.webhook.stream, self.webhook.group

    async def _run(self) -> None:
        feed = self._means.feed
        if self._ordering is not None:
            self._ordering.remember(await feed.held(*self._where, PENDING_MAX_IN_ORDER))
        with feed.waiting(*self._where) as line:
            while not self._stopped:
                if not await feed.owns(*self._where):
                    await asyncio.sleep(_RETRY_S)
                    continue
                free = self._free()
                if free <= 0:
                    self._freed.clear()
                    await self._freed.wait()
                    continue
                got, due_in_ms = await feed.read(*self._where, free, only_again=self.is_down)
                if got:
                    for delivery in got:
                        self._take(delivery)
                    continue
                idle_s = _IDLE_S if due_in_ms is None else min(_IDLE_S, due_in_ms / 1000)
                if self.is_down:
                    # Each append would wake the line, and there is nothing to be read for it.
                    await self._sleep(max(0.01, idle_s))
                else:
                    await line.come(max(0.01, idle_s))

    def _free(self) -> int:
        if self.is_down:
            return 0 if self._in_flight else 1
        most = self.webhook.definition.concurrency
        if self.webhook.definition.types is not None:
            # Most of what comes may be for others, and is done at once.
            most += _SORTED_AT_ONCE
        waiting = 0 if self._ordering is None else self._ordering.waiting_count
        return most - len(self._in_flight) - waiting

    async def _sleep(self, seconds: float) -> None:
        self._poked.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._poked.wait()
        except TimeoutError:
            return

    # ── One event ──────────────────────────────────────────────────────────────────────────────

    def _take(self, delivery: Delivery) -> None:
        if not self.webhook.wants(delivery.type):
            self._note_done(delivery, None)
            return
        if self._ordering is None:
            self._start(delivery)
            return
        now_s = self._means.clock.monotonic()
        send_now, back_s = self._ordering.arrive(delivery, now_s)
        if send_now:
            self._start(delivery)
        elif back_s is not None:
            self._spawn(self._give_back(delivery, back_s, "", counts=False))

    def _start(self, delivery: Delivery) -> None:
        self._spawn(self._deliver(delivery, self._means.clock.monotonic()))

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._in_flight.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._freed.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("a webhook's delivery failed here", exc_info=task.exception())

    async def _deliver(self, delivery: Delivery, taken_s: float) -> None:
        means = self._means
        try:
            async with self._slots, means.places:
                await self._pace()
                if means.clock.monotonic() - taken_s > HELD_S_MAX:
                    # Its delivery may fall due while it is sent.
                    await self._give_back(delivery, 0.0, "", counts=False)
                    return
                attempt, retry_s = await self._send(delivery)
        except asyncio.CancelledError:
            # Whether the receiver got it is not known; it comes again under the same webhook-id.
            with contextlib.suppress(NotFound, StorageError):
                await asyncio.shield(self._give_back(delivery, 0.0, "", counts=False))
            raise
        if attempt.succeeded:
            await self._note_success(delivery, attempt)
        else:
            await self._note_failure(delivery, attempt, retry_s)

    async def _pace(self) -> None:
        rate = self.webhook.definition.rate_per_s
        if rate is None:
            return
        now_s = self._means.clock.monotonic()
        self._next_at_s = max(now_s, self._next_at_s + 1 / rate)
        if self._next_at_s > now_s:
            await asyncio.sleep(self._next_at_s - now_s)

    async def _send(self, delivery: Delivery) -> tuple[Attempt, float | None]:
        stream = self.webhook.stream
        body = message_body(
            delivery.type or stream, int(delivery.id.partition("-")[0]), delivery.data
        )
        return await send(
            self._means,
            self.webhook,
            self._keys,
            message_id(stream, delivery.id),
            delivery.id,
            delivery.delivery,
            body,
        )

    # ── What came of it ────────────────────────────────────────────────────────────────────────

    async def _note_success(self, delivery: Delivery, attempt: Attempt) -> None:
        was_down, self._failures = self.is_down, 0
        self.failing_since = None
        self._note_done(delivery, attempt)
        if was_down:
            if self._ordering is not None:
                self._ordering.hasten()
            await self._means.feed.hasten(*self._where)
            self.poke()

    async def _note_failure(
        self, delivery: Delivery, attempt: Attempt, retry_s: float | None
    ) -> None:
        means = self._means
        now_ms = means.clock.now_ms()
        self._failures += 1
        if self.failing_since is None:
            self.failing_since = now_ms
        reason = attempt.error or f"the receiver answered {attempt.status}"
        back_s = delay_s(delivery.delivery, retry_s, means.chance)
        waiting: list[Delivery] = []
        if self._ordering is not None:
            waiting = self._ordering.failed(delivery, means.clock.monotonic() + back_s)
        self._attempts.append(attempt)
        self._flush_soon()
        died = await self._give_back(delivery, back_s, reason, counts=True)
        for other in waiting:
            await self._give_back(other, back_s, "", counts=False)
        if died and self._ordering is not None:
            for other in self._ordering.finished(delivery):
                self._take(other)
        if attempt.status == 410:
            await self.disable("the receiver answered 410: it is gone for good")
        elif now_ms - self.failing_since > DISABLED_AFTER_MS:
            await self.disable(f"it failed for five days; last: {reason}")

    async def _give_back(
        self, delivery: Delivery, back_s: float, reason: str, *, counts: bool
    ) -> bool:
        return await self._means.feed.give_back(
            *self._where, delivery.token, int(back_s * 1000), reason, counts=counts
        )

    async def disable(self, reason: str) -> None:
        """Stop, and say so."""
        self._stopped = True
        self._freed.set()
        means, webhook = self._means, self.webhook
        if await means.engine.disable(webhook, reason, means.clock.now_ms()):
            about = {"webhook": webhook.name, "url": webhook.definition.url, "reason": reason}
            await means.feed.tell(webhook.tenant_id, webhook.stream, "webhook.disabled", about)

    def _note_done(self, delivery: Delivery, attempt: Attempt | None) -> None:
        self._done.append(delivery.token)
        if attempt is not None:
            self._attempts.append(attempt)
        self._flush_soon()
        if self._ordering is not None and attempt is not None:
            for other in self._ordering.finished(delivery):
                self._take(other)

    def _flush_soon(self) -> None:
        # What finishes while one flush is written is the next one's.
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().create_task(self._flush())

    async def _flush(self) -> None:
        feed, engine, webhook = self._means.feed, self._means.engine, self.webhook
        try:
            while self._done or self._attempts:
                done, self._done = self._done, []
                attempts, self._attempts = self._attempts, []
                try:
                    if done and feed.is_transactional:
                        record = partial(_record, engine, webhook, attempts)
                        await feed.settle(*self._where, done, record)
                        continue
                    if done:
                        await feed.settle(*self._where, done, None)
                    if attempts:
                        await engine.record(*webhook.key, attempts)
                except (NotFound, StorageError) as error:
                    # Not acknowledged: it is delivered again, under the same webhook-id.
                    log.warning("what became of a webhook's events was not noted: %s", error)
        finally:
            self._flushing = None


def _record(
    engine: WebhookEngine,
    webhook: Webhook,
    attempts: list[Attempt],
    transaction: Any,
    _: Any,
) -> None:
    engine.record_within(transaction, *webhook.key, attempts)


def signing_keys(webhook: Webhook, sealer: Sealer, now_ms: int) -> list[bytes]:
    """The keys to sign with; ValueError where they can't be opened."""
    secrets = webhook.secrets
    keys = [sealer.open(secrets.current)]
    if secrets.previous is not None and (secrets.previous_until or 0) > now_ms:
        keys.append(sealer.open(secrets.previous))
    return keys


def message_body(kind: str, at_ms: int, data: bytes) -> bytes:
    """A message's body; `data` is JSON."""
    return msgspec.json.encode(Message(kind, rfc3339(at_ms), msgspec.Raw(data)))


async def send(
    means: Means,
    webhook: Webhook,
    keys: list[bytes],
    id: str,
    event_id: str | None,
    number: int,
    body: bytes,
) -> tuple[Attempt, float | None]:
    """One signed request; how it went, and how long the receiver wants to be left alone."""
    clock = means.clock
    at_ms = clock.now_ms()
    timestamp_s = at_ms // 1000
    headers = [
        ("content-type", "application/json"),
        ("user-agent", f"Monolite/{__version__}"),
        ("webhook-id", id),
        ("webhook-timestamp", str(timestamp_s)),
        ("webhook-signature", signature(id, timestamp_s, body, keys)),
    ]
    began_s = clock.monotonic()
    status: int | None = None
    error = response = None
    retry_s = None
    try:
        answer = await means.client().call(
            "POST",
            parse_url(webhook.definition.url),
            headers,
            body,
            deadline_s=DEADLINE_S,
        )
        status = answer.status
        response = answer.body.decode("utf-8", "replace").replace("\0", "\ufffd")
        retry_s = retry_after_s(_header(answer.headers.get(b"retry-after")), clock.now_ms())
        if 300 <= status < 400:
            error = "a redirect, which is not followed"
    except EgressError as failure:
        error = f"{failure.code}: {failure.detail}"
    duration_ms = round((clock.monotonic() - began_s) * 1000)
    attempt = Attempt(0, event_id, id, number, at_ms, duration_ms, status, error, response)
    return attempt, retry_s


def _header(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")
