"""Webhooks on top of streams: the one place that knows both."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from monolite.assembly_engines import Streaming
from monolite.clock import Clock, Identifiers
from monolite.egress.addresses import Allowed
from monolite.egress.target import Guard
from monolite.streams import tokens
from monolite.streams.event import NewEvent, piece
from monolite.streams.event_id import LAST, ZERO, parse
from monolite.streams.group import GroupSettings
from monolite.streams.stream import NEWS_SUFFIX
from monolite.streams.waiting import Place
from monolite.tenancy.secret import RootSecret
from monolite.webhooks.core import Webhooks
from monolite.webhooks.delivery import PENDING_MAX, Means
from monolite.webhooks.dispatch import Dispatcher
from monolite.webhooks.engine import WebhookEngine
from monolite.webhooks.feed import Delivery
from monolite.webhooks.schedule import ATTEMPTS_MAX
from monolite.webhooks.sealing import Sealer

if TYPE_CHECKING:
    from monolite.egress.client import Client

CONSUMER = "server"
CLAIM_IDLE_MS = 120_000
"""How long a server that died holds what it was sending."""

REQUESTS_MAX = 256
"""Requests to receivers under way, of all webhooks."""


class StreamFeed:
    """The groups of one store of streams as webhooks use them."""

    def __init__(self, streams: Streaming) -> None:
        self._log = streams.log
        self._groups = streams.groups
        self._streams = streams
        self.is_transactional = streams.is_embedded

    async def make_group(
        self, tenant_id: int, stream: str, group: str, *, max_pending: int, max_deliveries: int
    ) -> None:
        settings = GroupSettings(max_deliveries, CLAIM_IDLE_MS, max_pending)
        await self._groups.put_group(tenant_id, stream, group, None, settings)

    async def remake_group(self, tenant_id: int, stream: str, group: str) -> bool:
        if await self._log.stream(tenant_id, stream) is None:
            return False
        settings = GroupSettings(ATTEMPTS_MAX, CLAIM_IDLE_MS, PENDING_MAX)
        await self._groups.put_group(tenant_id, stream, group, ZERO, settings)
        return True

    async def delete_group(self, tenant_id: int, stream: str, group: str) -> None:
        await self._groups.delete_group(tenant_id, stream, group)

    async def read(
        self, tenant_id: int, stream: str, group: str, count: int, *, only_again: bool
    ) -> tuple[Sequence[Delivery], int | None]:
        if only_again:
            got = await self._groups.claim(tenant_id, stream, group, CONSUMER, CLAIM_IDLE_MS, count)
        else:
            got = await self._groups.read(tenant_id, stream, group, CONSUMER, count)
        deliveries = [Delivery(*one) for run in got.runs for one in run.deliveries()]
        return deliveries, got.due_in_ms

    async def settle(
        self, tenant_id: int, stream: str, group: str, texts: Sequence[str], also: Any
    ) -> None:
        marked, _ = tokens.by_fence(texts)
        await self._groups.ack(tenant_id, stream, group, marked, (), also)

    async def give_back(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        token: str,
        delay_ms: int,
        reason: str,
        *,
        counts: bool,
    ) -> bool:
        marked, _ = tokens.by_fence([token])
        done = await self._groups.nack(
            tenant_id, stream, group, marked, delay_ms=delay_ms, reason=reason, counts=counts
        )
        return done.dead > 0

    async def hasten(self, tenant_id: int, stream: str, group: str) -> None:
        await self._groups.hasten(tenant_id, stream, group)

    async def held(
        self, tenant_id: int, stream: str, group: str, count: int
    ) -> Sequence[tuple[str, bytes]]:
        found: list[tuple[str, bytes]] = []
        listed = await self._groups.pending(tenant_id, stream, group, ZERO, LAST, count)
        for one in listed or ():
            runs = await self._log.range(tenant_id, stream, one.id, one.id, 1)
            found += [(event.id, event.data) for run in runs or () for event in run]
        return found

    async def redeliver(
        self, tenant_id: int, stream: str, group: str, first: str, last: str, limit: int
    ) -> int:
        end = parse(last) if last else LAST
        return await self._groups.redeliver(tenant_id, stream, group, parse(first), end, limit)

    async def owns(self, tenant_id: int, stream: str, group: str) -> bool:
        return await self._streams.owns(tenant_id, stream, group)

    async def tell(self, tenant_id: int, stream: str, kind: str, data: dict[str, Any]) -> None:
        event = NewEvent(piece(kind, msgspec.json.encode(data)))
        await self._log.append(tenant_id, stream + NEWS_SUFFIX, [event])

    def waiting(self, tenant_id: int, stream: str, group: str) -> AbstractContextManager[Place]:
        return self._groups.waiting(tenant_id, stream, group)


def make_webhooks(
    streams: Streaming,
    engine: WebhookEngine,
    secret: RootSecret,
    clock: Clock,
    identifiers: Identifiers,
    allowed: str,
) -> tuple[Webhooks, Dispatcher]:
    """The rules, and what delivers."""
    guard = Guard(Allowed.parse(allowed))

    @cache
    def client() -> Client:
        from monolite.egress.client import Client

        return Client(guard)

    means = Means(
        feed=StreamFeed(streams),
        engine=engine,
        client=client,
        sealer=Sealer(secret.draw("webhook-secrets"), os.urandom),
        clock=clock,
        chance=random.random,
        places=asyncio.Semaphore(REQUESTS_MAX),
    )
    dispatcher = Dispatcher(means)
    return Webhooks(means, guard, dispatcher, identifiers, os.urandom), dispatcher
