"""What the rules of streams need of a store.

Two protocols: a log of events, and groups that consume it. Where there is no such stream or group
a method that reads answers None, one that changes something raises NotFound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from monolite.streams.event import NewEvent, Run
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
from monolite.streams.stream import Retention, Stream, Trim
from monolite.streams.tokens import Tokens
from monolite.streams.waiting import Place

Ids = Sequence[tuple[EventId, int]]
"""Ids of appended events, in their order: each run's first id, and its length."""

Also = Callable[[Any, Any], Awaitable[None] | None] | None
"""What else to do with the same effect, given the store's transaction and the verb's result.

Over SQLite it is one commit with the effect. Redis has no transaction of ours: there it is given
None and runs behind the effect, which `once` then keeps from being repeated.
"""


class StreamEngine(Protocol):
    """Streams at rest. A stream comes into being with its first event or its definition."""

    def append(
        self,
        tenant_id: int,
        stream: str,
        events: Sequence[NewEvent],
        *,
        trim: Trim | None = None,
        also: Also = None,
        once: str | None = None,
    ) -> Awaitable[Ids]:
        """Append all of them or none. Not a coroutine itself: each layer costs at every wake-up.

        Raises Conflict (`id_not_increasing`) for an id that is not greater than the stream's last,
        (`stream_full`) where there is no greater one. `once` names the request: the same name
        again answers the ids of the first time, where the store can't run `also` in its own
        transaction.
        """
        ...

    async def range(
        self,
        tenant_id: int,
        stream: str,
        first: EventId,
        last: EventId,
        count: int,
        *,
        backwards: bool = False,
    ) -> Sequence[Run] | None:
        """Events between two ids, both included: the first `count`, or the last ones backwards.

        Backwards the runs are of one event each. It may give fewer where they are large, though
        never none where there are some.
        """
        ...

    async def stream(self, tenant_id: int, name: str) -> Stream | None:
        """One stream."""
        ...

    async def streams(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Stream]:
        """Streams by name."""
        ...

    async def configure(
        self, tenant_id: int, name: str, retention: Retention
    ) -> tuple[Stream, bool]:
        """Set what is kept of a stream, or make it; returns it and whether it is new."""
        ...

    async def trim(self, tenant_id: int, name: str, trim: Trim) -> int:
        """Drop the oldest events; returns how many. NotFound where there is no such stream."""
        ...

    async def delete_stream(self, tenant_id: int, name: str) -> bool:
        """Remove it with its groups and dead letters; gone for every reader at once."""
        ...

    def watch(self, tenant_id: int, stream: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set soon after each append; whoever waits clears it before reading."""
        ...


class GroupEngine(Protocol):
    """Groups of consumers, and what they hold."""

    async def put_group(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        start: EventId | None,
        settings: GroupSettings,
    ) -> tuple[Group, bool]:
        """Make a group that begins behind `start`, now where that is None; or change its settings.

        Returns it and whether it is new. A missing stream is made.
        """
        ...

    async def group(self, tenant_id: int, stream: str, group: str) -> Group | None:
        """One group."""
        ...

    async def groups(self, tenant_id: int, stream: str) -> Sequence[Group] | None:
        """Every group of a stream, by name."""
        ...

    async def move_group(
        self, tenant_id: int, stream: str, group: str, start: EventId | None
    ) -> Group:
        """Let it go on behind another id (XGROUP SETID); what it holds stays held."""
        ...

    async def delete_group(self, tenant_id: int, stream: str, group: str) -> bool:
        """Remove a group, what it holds, and its dead letters."""
        ...

    def read(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        consumer: str,
        count: int,
        *,
        ack: Tokens | None = None,
        also: Also = None,
    ) -> Awaitable[Read]:
        """Acknowledge `ack`, then deliver: first what waits for another delivery, then new events.

        What has been delivered often enough becomes a dead letter instead.
        """
        ...

    def ack(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        tokens: Tokens,
        ids: Sequence[EventId] = (),
        also: Also = None,
    ) -> Awaitable[Settled]:
        """Events are done: by the tokens of their deliveries, or by id, whoever holds them."""
        ...

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
        """Give events back, to be delivered again after a delay, or dead where that was the last.

        `counts` False takes the delivery back as if it had not been.
        """
        ...

    async def claim(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        consumer: str,
        min_idle_ms: int,
        count: int,
    ) -> Read:
        """Deliver to `consumer` what others have held for longer than `min_idle_ms`."""
        ...

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
        """What a group holds between two ids, by id."""
        ...

    async def pending_summary(
        self, tenant_id: int, stream: str, group: str
    ) -> PendingSummary | None:
        """How much it holds, and who of its consumers does."""
        ...

    async def consumers(self, tenant_id: int, stream: str, group: str) -> Sequence[Consumer] | None:
        """Everyone who ever asked, by name."""
        ...

    async def delete_consumer(
        self, tenant_id: int, stream: str, group: str, consumer: str
    ) -> int | None:
        """Forget a consumer; what it held is released at once. How much that was, or None."""
        ...

    async def dead(
        self, tenant_id: int, stream: str, group: str, after: EventId, limit: int
    ) -> Sequence[DeadLetter] | None:
        """A group's dead letters behind an id, by id."""
        ...

    async def redrive(
        self, tenant_id: int, stream: str, group: str, ids: Sequence[EventId] | None, limit: int
    ) -> Settled:
        """Release dead letters, all where `ids` is None, to be delivered as if for the first time.

        `stale` are those that the stream has no more.
        """
        ...

    async def hasten(self, tenant_id: int, stream: str, group: str) -> None:
        """Let all that was given back be due now."""
        ...

    async def redeliver(
        self, tenant_id: int, stream: str, group: str, first: EventId, last: EventId, limit: int
    ) -> int:
        """Release events that were delivered before and are not held; at most `limit`."""
        ...

    def waiting(self, tenant_id: int, stream: str, group: str) -> AbstractContextManager[Place]:
        """A place in the line of those who wait for the group's next event."""
        ...

    def pass_on(self, tenant_id: int, stream: str, group: str) -> None:
        """There is more than one consumer took: the next in line may look."""
        ...
