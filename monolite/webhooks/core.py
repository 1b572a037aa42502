"""The rules of webhooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monolite.clock import Identifiers
from monolite.egress.errors import EgressError
from monolite.egress.target import Guard, parse_url
from monolite.errors import Conflict, FieldError, Invalid, NotFound
from monolite.webhooks.delivery import (
    PENDING_MAX,
    PENDING_MAX_IN_ORDER,
    Means,
    message_body,
    send,
    signing_keys,
)
from monolite.webhooks.dispatch import Dispatcher
from monolite.webhooks.schedule import ATTEMPTS_MAX
from monolite.webhooks.signing import parse_secret, secret_text
from monolite.webhooks.webhook import DISABLED, Attempt, Definition, Secrets, Webhook

NO_WEBHOOK = "There is no such webhook."
PER_STREAM_MAX = 64
ROTATION_MS = 24 * 3_600_000
"""How long messages carry the signature of the former secret too."""

REPLAYED_MAX = 10_000
_SECRET_BYTES = 32


class Webhooks:
    """Webhooks of every tenant's streams."""

    def __init__(
        self,
        means: Means,
        guard: Guard,
        dispatcher: Dispatcher,
        identifiers: Identifiers,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._means = means
        self._guard = guard
        self._dispatcher = dispatcher
        self._identifiers = identifiers
        self._random_bytes = random_bytes

    async def put(
        self, tenant_id: int, stream: str, name: str, definition: Definition, secret: str | None
    ) -> tuple[Webhook, bool, str | None]:
        """Store a webhook and enable it; returns it, whether it is new, and its secret where that
        is new.

        Raises Invalid for a URL or a secret that can't be used (`address_refused` for an address
        that may not be called), Conflict (`too_many_webhooks`).
        """
        await self._check_url(definition.url)
        key = None if secret is None else _key(secret)
        old = await self._means.engine.get(tenant_id, stream, name)
        if old is None:
            there = await self._means.engine.list(tenant_id, stream)
            if len(there) >= PER_STREAM_MAX:
                raise Conflict(
                    f"The stream has {PER_STREAM_MAX} webhooks already: delete one.",
                    code="too_many_webhooks",
                )
            key = key or self._random_bytes(_SECRET_BYTES)
        in_order = definition.order_by is not None
        await self._means.feed.make_group(
            tenant_id,
            stream,
            f"webhook:{name}",
            max_pending=PENDING_MAX_IN_ORDER if in_order else PENDING_MAX,
            max_deliveries=ATTEMPTS_MAX,
        )
        secrets = None if key is None else self._secrets(old, key)
        webhook, is_new = await self._means.engine.put(
            tenant_id, stream, name, definition, secrets, self._means.clock.now_ms()
        )
        if old is not None and old.state == DISABLED:
            await self._means.feed.hasten(tenant_id, stream, webhook.group)
        self._dispatcher.changed()
        return webhook, is_new, None if key is None else secret_text(key)

    async def rotate(self, tenant_id: int, stream: str, name: str) -> tuple[Webhook, str]:
        """Give it a new secret; for a day its messages are signed with both."""
        webhook = await self.get(tenant_id, stream, name)
        key = self._random_bytes(_SECRET_BYTES)
        stored, _ = await self._means.engine.put(
            tenant_id,
            stream,
            name,
            webhook.definition,
            self._secrets(webhook, key),
            self._means.clock.now_ms(),
        )
        self._dispatcher.changed()
        return stored, secret_text(key)

    async def get(self, tenant_id: int, stream: str, name: str) -> Webhook:
        """One webhook; NotFound where there is none."""
        found = await self._means.engine.get(tenant_id, stream, name)
        if found is None:
            raise NotFound(NO_WEBHOOK)
        return found

    async def list(self, tenant_id: int, stream: str) -> Sequence[Webhook]:
        """The webhooks of a stream, by name."""
        return await self._means.engine.list(tenant_id, stream)

    async def delete(self, tenant_id: int, stream: str, name: str) -> None:
        """Remove a webhook, with what was still to be delivered."""
        if not await self._means.engine.delete(tenant_id, stream, name):
            raise NotFound(NO_WEBHOOK)
        self._dispatcher.changed()
        await self._means.feed.delete_group(tenant_id, stream, f"webhook:{name}")

    async def stream_deleted(self, tenant_id: int, stream: str) -> None:
        """A stream has gone, and its groups: its webhooks go too."""
        if await self._means.engine.delete(tenant_id, stream, None):
            self._dispatcher.changed()

    async def attempts(
        self, tenant_id: int, stream: str, name: str, before: int | None, limit: int
    ) -> Sequence[Attempt]:
        """What was tried, the newest first."""
        await self.get(tenant_id, stream, name)
        return await self._means.engine.attempts(tenant_id, stream, name, before, limit)

    async def test(self, tenant_id: int, stream: str, name: str) -> Attempt:
        """Send a message of the type `webhook.test` now, and say how that went; it is not tried
        again.
        """
        means = self._means
        webhook = await self.get(tenant_id, stream, name)
        now_ms = means.clock.now_ms()
        try:
            keys = signing_keys(webhook, means.sealer, now_ms)
        except ValueError as error:
            raise Conflict(
                f"The webhook's secret can't be opened ({error}): PUT it again with a new one.",
                code="secret_lost",
            ) from None
        id = f"msg_test_{self._identifiers.new()}"
        data = b'{"test":true}'
        body = message_body("webhook.test", now_ms, data)
        attempt, _ = await send(means, webhook, keys, id, None, 1, body)
        await means.engine.record(tenant_id, stream, name, [attempt])
        return attempt

    async def replay(self, tenant_id: int, stream: str, name: str, first: str, last: str) -> int:
        """Deliver a range of events again, both ends included; returns how many that are, at most
        REPLAYED_MAX.
        """
        webhook = await self.get(tenant_id, stream, name)
        count = await self._means.feed.redeliver(
            tenant_id, stream, webhook.group, first, last, REPLAYED_MAX
        )
        self._dispatcher.poke(webhook.key)
        return count

    def _secrets(self, old: Webhook | None, key: bytes) -> Secrets:
        sealed = self._means.sealer.seal(key)
        if old is None:
            return Secrets(sealed)
        return Secrets(sealed, old.secrets.current, self._means.clock.now_ms() + ROTATION_MS)

    async def _check_url(self, url: str) -> None:
        try:
            await self._guard.addresses(parse_url(url))
        except ValueError as error:
            raise _invalid("#/url", str(error)) from None
        except EgressError as error:
            # A name may get its address later; each delivery looks again.
            if error.code == "address_refused":
                raise _invalid("#/url", error.detail, code=error.code) from None


def _key(secret: str) -> bytes:
    try:
        return parse_secret(secret)
    except ValueError as error:
        raise _invalid("#/secret", str(error)) from None


def _invalid(pointer: str, why: str, *, code: str | None = None) -> Invalid:
    return Invalid(f"{pointer}: {why}", [FieldError(pointer, why)], code=code)
