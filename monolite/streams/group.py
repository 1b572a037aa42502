"""A group of consumers as it is defined and shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from monolite.streams.event import DeliveredRun
from monolite.streams.event_id import EventId

MAX_DELIVERIES = 3
CLAIM_IDLE_MS = 60_000
MAX_PENDING = 10_000


class GroupSettings(NamedTuple):
    """What may be changed of a group.

    An event that was delivered `max_deliveries` times without an ack is dead. A delivery idle for
    `claim_idle_ms` may be made to another. No more than `max_pending` events are held at once.
    """

    max_deliveries: int = MAX_DELIVERIES
    claim_idle_ms: int = CLAIM_IDLE_MS
    max_pending: int = MAX_PENDING


class Group(NamedTuple):
    """A group: `last_delivered_id` is how far it has read, `lag` what is still to come."""

    name: str
    settings: GroupSettings
    last_delivered_id: EventId
    pending: int
    lag: int
    dead: int
    consumer_count: int
    created_at: int


class Consumer(NamedTuple):
    """A consumer: when it last asked, and when it last got or finished something (ms)."""

    name: str
    pending: int
    seen_at: int
    active_at: int | None


class Read(NamedTuple):
    """What a consumer got. `backpressure`: nothing, since the group holds as much as it may.

    `more` says that somebody else could get something now. `due_in_ms`, where nothing came, is when
    to look again at the latest, as far as the store knows.
    """

    runs: Sequence[DeliveredRun]
    acked: int = 0
    stale: Sequence[str] = ()
    backpressure: bool = False
    more: bool = False
    due_in_ms: int | None = None


class Settled(NamedTuple):
    """How many events a call changed; `dead` of them are dead letters now.

    `stale` are the tokens or ids that changed nothing.
    """

    changed: int
    stale: Sequence[str] = ()
    dead: int = 0


class Pending(NamedTuple):
    """An event that is held (`consumer`), or waits to be delivered again (None, `idle_ms` 0)."""

    id: EventId
    consumer: str | None
    idle_ms: int
    deliveries: int


class PendingSummary(NamedTuple):
    """All that a group holds, in short."""

    pending: int
    min_id: EventId | None
    max_id: EventId | None
    consumers: Sequence[tuple[str, int]]


class DeadLetter(NamedTuple):
    """An event that a group gave up; `reason` says why, `is_there` whether the stream has it."""

    id: EventId
    type: str | None
    data: bytes
    deliveries: int
    reason: str
    consumer: str | None
    dead_at: int
