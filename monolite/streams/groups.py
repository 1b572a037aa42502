"""The rules of consumer groups: reading, waiting, acknowledging, giving back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from monolite.clock import Clock
from monolite.errors import Backpressure, NotFound
from monolite.streams import tokens
from monolite.streams.engine import Also, GroupEngine
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

T = TypeVar("T")

NO_GROUP = "There is no such group, or no such stream."
REDRIVEN_AT_ONCE = 1000
GIVEN_BACK = "given back by its consumer"
_SHORTEST_WAIT_S = 0.005


class Groups:
    """Groups of every tenant's streams."""

    def __init__(self, engine: GroupEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    # ── Groups ─────────────────────────────────────────────────────────────────────────────────

    async def put(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        start: EventId | None,
        settings: GroupSettings,
    ) -> tuple[Group, bool]:
        """Make a group behind `start`, now where that is None; or change its settings, not where
        it is. Returns it and whether it is new.
        """
        return await self._engine.put_group(tenant_id, stream, group, start, settings)

    async def group(self, tenant_id: int, stream: str, group: str) -> Group:
        """One group; NotFound where there is none."""
        return _there(await self._engine.group(tenant_id, stream, group))

    async def groups(self, tenant_id: int, stream: str) -> Sequence[Group]:
        """Every group of a stream, by name."""
        return _there(await self._engine.groups(tenant_id, stream))

    async def move(self, tenant_id: int, stream: str, group: str, start: EventId | None) -> Group:
        """Let it go on behind another id, now where that is None."""
        return await self._engine.move_group(tenant_id, stream, group, start)

    async def delete(self, tenant_id: int, stream: str, group: str) -> None:
        """Remove it; NotFound where there is none."""
        if not await self._engine.delete_group(tenant_id, stream, group):
            raise NotFound(NO_GROUP)

    # ── Consuming ──────────────────────────────────────────────────────────────────────────────

    async def read(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        consumer: str,
        count: int,
        *,
        block_ms: int = 0,
        ack: Sequence[str] = (),
        also: Also = None,
    ) -> Read:
        """Acknowledge, then deliver; where there is nothing, wait up to `block_ms` for something.

        Raises NotFound, and Backpressure where the group holds `max_pending` events and nothing
        was acknowledged now.
        """
        marked, bad = tokens.by_fence(ack)
        got = await self._engine.read(
            tenant_id, stream, group, consumer, count, ack=marked if ack else None, also=also
        )
        if block_ms and not got.runs and not got.backpressure:
            later = await self._wait(tenant_id, stream, group, consumer, count, block_ms)
            got = later._replace(acked=got.acked, stale=got.stale)
        if got.runs and got.more:
            self._engine.pass_on(tenant_id, stream, group)
        if got.backpressure and not got.acked:
            raise Backpressure(
                "The group holds as many events as it may: acknowledge some, or raise its"
                " max_pending.",
                retry_after_s=1.0,
            )
        return got._replace(stale=[*got.stale, *bad]) if bad else got

    async def _wait(
        self, tenant_id: int, stream: str, group: str, consumer: str, count: int, block_ms: int
    ) -> Read:
        deadline = self._clock.monotonic() + block_ms / 1000
        with self._engine.waiting(tenant_id, stream, group) as place:
            while True:
                got = await self._engine.read(tenant_id, stream, group, consumer, count)
                left_s = deadline - self._clock.monotonic()
                if got.runs or got.backpressure or left_s <= 0:
                    return got
                if got.due_in_ms is not None:
                    left_s = min(left_s, max(_SHORTEST_WAIT_S, got.due_in_ms / 1000))
                await place.come(left_s)

    async def ack(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        texts: Sequence[str] = (),
        ids: Sequence[EventId] = (),
        also: Also = None,
    ) -> Settled:
        """Events are done: by the tokens of their deliveries, or by id, whoever holds them."""
        marked, bad = tokens.by_fence(texts)
        done = await self._engine.ack(tenant_id, stream, group, marked, ids, also)
        return done._replace(stale=[*done.stale, *bad]) if bad else done

    async def nack(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        texts: Sequence[str],
        delay_ms: int = 0,
        reason: str = GIVEN_BACK,
    ) -> Settled:
        """Give events back, to be delivered again after a delay."""
        marked, bad = tokens.by_fence(texts)
        done = await self._engine.nack(
            tenant_id, stream, group, marked, delay_ms=delay_ms, reason=reason
        )
        return done._replace(stale=[*done.stale, *bad]) if bad else done

    async def claim(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        consumer: str,
        min_idle_ms: int,
        count: int,
    ) -> Read:
        """Take over what others have held for longer than `min_idle_ms`."""
        return await self._engine.claim(tenant_id, stream, group, consumer, min_idle_ms, count)

    # ── What is held, and what was given up ────────────────────────────────────────────────────

    async def pending(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        first: EventId,
        last: EventId,
        count: int,
        consumer: str | None,
        min_idle_ms: int,
    ) -> tuple[PendingSummary, Sequence[Pending]]:
        """Both of XPENDING's forms: all in short, and one by one."""
        summary = await self._engine.pending_summary(tenant_id, stream, group)
        listed = await self._engine.pending(
            tenant_id,
            stream,
            group,
            first,
            last,
            count,
            consumer=consumer,
            min_idle_ms=min_idle_ms,
        )
        return _there(summary), _there(listed)

    async def consumers(self, tenant_id: int, stream: str, group: str) -> Sequence[Consumer]:
        """Everyone who ever asked."""
        return _there(await self._engine.consumers(tenant_id, stream, group))

    async def delete_consumer(self, tenant_id: int, stream: str, group: str, consumer: str) -> int:
        """Forget a consumer, and release what it held; returns how much that was."""
        released = await self._engine.delete_consumer(tenant_id, stream, group, consumer)
        if released is None:
            raise NotFound("There is no such consumer.")
        return released

    async def dead(
        self, tenant_id: int, stream: str, group: str, after: EventId, limit: int
    ) -> Sequence[DeadLetter]:
        """A group's dead letters behind an id."""
        return _there(await self._engine.dead(tenant_id, stream, group, after, limit))

    async def redrive(
        self, tenant_id: int, stream: str, group: str, ids: Sequence[EventId] | None
    ) -> Settled:
        """Deliver dead letters again, all or those named; `stale` are those that can't be."""
        if ids is not None:
            return await self._engine.redrive(tenant_id, stream, group, ids, len(ids))
        count = 0
        while True:
            done = await self._engine.redrive(tenant_id, stream, group, None, REDRIVEN_AT_ONCE)
            count += done.changed
            if not done.changed:
                return Settled(count, done.stale)


def _there(found: T | None) -> T:
    if found is None:
        raise NotFound(NO_GROUP)
    return found
