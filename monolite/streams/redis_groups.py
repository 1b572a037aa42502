"""Groups of consumers in Redis: XREADGROUP, XACK, XPENDING and XCLAIM inside Lua (lua/groups.lua).

XAUTOCLAIM is not among them: it knows neither how often an event may be delivered, nor when what
was given back is due, and a delivery past `max_deliveries` could not be taken back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from monolite.errors import Conflict
from monolite.streams.engine import Also
from monolite.streams.event import DeliveredRun, parts
from monolite.streams.event_id import EventId
from monolite.streams.group import (
    Consumer,
    DeadLetter,
    Group,
    GroupSettings,
    Pending,
    PendingSummary,
    Read,
    Settled,
)
from monolite.streams.redis_connection import Argument
from monolite.streams.redis_store import (
    RedisStore,
    delivered_again,
    event_id,
    ids_of,
    marks,
    texts,
)
from monolite.streams.tokens import Tokens
from monolite.streams.waiting import Place


class Buried(msgspec.Struct):
    """How an event died; `seq` is its number in the stream."""

    dead_at: int
    reason: str
    deliveries: int
    consumer: str | None
    seq: int | None = None


_buried = msgspec.json.Decoder(Buried)


class RedisGroupEngine:
    """The GroupEngine over Redis or Valkey."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    # ── Groups ─────────────────────────────────────────────────────────────────────────────────

    async def put_group(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        start: EventId | None,
        settings: GroupSettings,
    ) -> tuple[Group, bool]:
        begin = "" if start is None else str(start)
        is_new, reply = await self._store.call(
            *("put_group", tenant_id, stream, group, self._store.server, *self._store.times()),
            *(begin, *settings),
        )
        self._released(tenant_id, stream, group)
        return _shown(reply), bool(is_new)

    async def group(self, tenant_id: int, stream: str, group: str) -> Group | None:
        reply = await self._store.call("group", tenant_id, stream, group)
        return None if reply is None else _shown(reply)

    async def groups(self, tenant_id: int, stream: str) -> Sequence[Group] | None:
        reply = await self._store.call("groups", tenant_id, stream)
        return None if reply is None else [_shown(one) for one in reply]

    async def move_group(
        self, tenant_id: int, stream: str, group: str, start: EventId | None
    ) -> Group:
        begin = "" if start is None else str(start)
        reply = await self._store.existing(
            "move_group", tenant_id, stream, group, self._store.server, begin
        )
        self._released(tenant_id, stream, group)
        return _shown(reply)

    async def delete_group(self, tenant_id: int, stream: str, group: str) -> bool:
        existed = await self._store.existing(
            "delete_group", tenant_id, stream, group, self._store.server
        )
        self._released(tenant_id, stream, group)
        return bool(existed)

    # ── Consuming ──────────────────────────────────────────────────────────────────────────────

    async def read(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        consumer: str,
        count: int,
        *,
        ack: Tokens | None = None,
        also: Also = None,
    ) -> Read:
        reply = await self._store.existing(
            *("read", tenant_id, stream, group, *self._store.times(), consumer, count),
            *marks(ack or {}),
        )
        got = self._delivered(reply)
        await _after(also, got)
        return got

    async def ack(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        tokens: Tokens,
        ids: Sequence[EventId] = (),
        also: Also = None,
    ) -> Settled:
        settled = self._settled(
            await self._store.existing("ack", tenant_id, stream, group, *marks(tokens, ids))
        )
        await _after(also, settled)
        return settled

    async def nack(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        tokens: Tokens,
        *,
        delay_ms: int,
        reason: str,
        counts: bool = True,
    ) -> Settled:
        settled = self._settled(
            await self._changed(
                *("nack", tenant_id, stream, group, delay_ms, reason, int(counts)),
                *marks(tokens),
            )
        )
        if settled.changed:
            self._released(tenant_id, stream, group)
        return settled

    async def claim(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        consumer: str,
        min_idle_ms: int,
        count: int,
    ) -> Read:
        return self._delivered(
            await self._store.existing(
                *("claim", tenant_id, stream, group, *self._store.times()),
                *(consumer, count, min_idle_ms),
            )
        )

    def waiting(self, tenant_id: int, stream: str, group: str) -> AbstractContextManager[Place]:
        return self._store.stand((tenant_id, stream), group)

    def pass_on(self, tenant_id: int, stream: str, group: str) -> None:
        self._store.waiting.call_one((tenant_id, stream), group)

    # ── What is held ───────────────────────────────────────────────────────────────────────────

    async def pending(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        first: EventId,
        last: EventId,
        count: int,
        *,
        consumer: str | None = None,
        min_idle_ms: int = 0,
    ) -> Sequence[Pending] | None:
        reply = await self._store.call(
            *("pending", tenant_id, stream, group, *self._store.times()),
            *(str(first), str(last), count, consumer or "", min_idle_ms),
        )
        if reply is None:
            return None
        return [
            Pending(event_id(id), holder.decode() or None, int(idle), deliveries)
            for id, holder, idle, deliveries in reply
        ]

    async def pending_summary(
        self, tenant_id: int, stream: str, group: str
    ) -> PendingSummary | None:
        reply = await self._store.call("summary", tenant_id, stream, group)
        if reply is None:
            return None
        count, first, last, holders = reply
        held = sorted((name.decode(), int(held)) for name, held in holders)
        return PendingSummary(
            count, event_id(first) if first else None, event_id(last) if last else None, held
        )

    async def consumers(self, tenant_id: int, stream: str, group: str) -> Sequence[Consumer] | None:
        reply = await self._store.call("consumers", tenant_id, stream, group)
        if reply is None:
            return None
        return sorted(_consumer(*one) for one in reply)

    async def delete_consumer(
        self, tenant_id: int, stream: str, group: str, consumer: str
    ) -> int | None:
        reply = await self._changed("delete_consumer", tenant_id, stream, group, consumer)
        if reply[0] == b"consumer":
            return None
        released, dead = reply
        self._store.dead_count += dead
        self._released(tenant_id, stream, group)
        return int(released)

    # ── Dead letters ───────────────────────────────────────────────────────────────────────────

    async def dead(
        self, tenant_id: int, stream: str, group: str, after: EventId, limit: int
    ) -> Sequence[DeadLetter] | None:
        reply = await self._store.call("dead", tenant_id, stream, group, str(after), limit)
        return None if reply is None else [dead_letter(*one) for one in reply]

    async def redrive(
        self, tenant_id: int, stream: str, group: str, ids: Sequence[EventId] | None, limit: int
    ) -> Settled:
        named = [str(id) for id in ids or ()]
        settled = self._settled(
            await self._changed(
                *("redrive", tenant_id, stream, group, limit, int(ids is not None)),
                *dict.fromkeys(named),
            )
        )
        self._released(tenant_id, stream, group)
        return settled

    async def hasten(self, tenant_id: int, stream: str, group: str) -> None:
        await self._changed("hasten", tenant_id, stream, group)
        self._released(tenant_id, stream, group)

    async def redeliver(
        self, tenant_id: int, stream: str, group: str, first: EventId, last: EventId, limit: int
    ) -> int:
        count = await self._changed(
            "redeliver", tenant_id, stream, group, str(first), str(last), limit
        )
        self._released(tenant_id, stream, group)
        return int(count)

    # ── Inside ─────────────────────────────────────────────────────────────────────────────────

    def _changed(
        self, verb: str, tenant_id: int, stream: str, group: str, *arguments: Argument
    ) -> Awaitable[Any]:
        store = self._store
        return store.existing(
            verb, tenant_id, stream, group, store.server, *store.times(), *arguments
        )

    def _released(self, tenant_id: int, stream: str, group: str) -> None:
        self._store.waiting.call_all((tenant_id, stream), group)

    def _settled(self, reply: Sequence[Any]) -> Settled:
        changed, stale, dead = reply
        self._store.dead_count += dead
        return Settled(changed, texts(stale), dead)

    def _delivered(self, reply: Sequence[Any]) -> Read:
        if reply[0] == b"consumers":
            raise Conflict(
                "The group has 10000 consumers: name them for what stays, like a machine, or"
                " delete those that have gone.",
                code="too_many_consumers",
            )
        acked, stale, is_full, has_more, due_in, fence, ids, counts = reply[:8]
        new_fence, new_ids, body, dead = reply[8:]
        self._store.dead_count += dead
        pieces = body.split(b"\n") if ids or new_ids else []
        again_count = ids.count(b",") + 1 if ids else 0
        runs = delivered_again(ids, counts, pieces[:again_count], int(fence))
        at = again_count
        for first, count in ids_of(new_ids) if new_ids else ():
            part = pieces[at : at + count]
            runs.append(DeliveredRun(*first, part, 1, int(new_fence), None))
            at += count
        return Read(
            runs,
            acked=acked,
            stale=texts(stale),
            backpressure=bool(is_full),
            more=bool(has_more),
            due_in_ms=int(due_in) if due_in and not runs else None,
        )


async def _after(also: Also, value: Any) -> None:
    if also is not None:
        more = also(None, value)
        if more is not None:
            await more


def unburied(stored: bytes) -> tuple[Buried, bytes]:
    """How an event died, and the event."""
    how, _, event = stored.partition(b"\n")
    return _buried.decode(how), event


def dead_letter(id: bytes, stored: bytes) -> DeadLetter:
    """A dead letter as it is kept: how it died, and the event behind a line break."""
    known, event = unburied(stored)
    return DeadLetter(
        event_id(id),
        *parts(event),
        known.deliveries,
        known.reason,
        known.consumer,
        known.dead_at,
    )


def _consumer(name: bytes, held: bytes | int, seen: bytes) -> Consumer:
    asked, _, active = seen.partition(b" ")
    return Consumer(name.decode(), int(held), int(asked), int(active) if active else None)


def _shown(reply: Sequence[Any]) -> Group:
    name, deliveries, idle, most, position, pending, lag, dead, consumers, created = reply
    return Group(
        name=name.decode(),
        settings=GroupSettings(int(deliveries), int(idle), int(most)),
        last_delivered_id=event_id(position),
        pending=pending,
        lag=lag,
        dead=dead,
        consumer_count=consumers,
        created_at=int(created),
    )
