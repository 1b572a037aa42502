"""Streams, events and groups as they are answered."""

from __future__ import annotations

from typing import Any

import msgspec

from monolite.streams.group import Consumer, Group
from monolite.streams.stream import Stream
from monolite.web.pages import Page
from monolite.web.timestamps import rfc3339


class Appended(msgspec.Struct):
    """The ids of appended events, in their order."""

    ids: list[str]


class EventShown(msgspec.Struct):
    """An event; `data` is what its producer sent."""

    id: str
    type: str | None
    data: Any


class EventPage(Page[EventShown]):
    """Events in order; `next_cursor` is the `after` of the next page, null on the last."""


class RetentionShown(msgspec.Struct, forbid_unknown_fields=True):
    """What is kept: the newest `max_length` events, none older than `max_age_ms`; null is all."""

    max_length: int | None = None
    max_age_ms: int | None = None


class StreamShown(msgspec.Struct):
    """A stream; `first_id` is null where it is empty."""

    name: str
    length: int
    first_id: str | None
    last_id: str
    groups: int
    retention: RetentionShown
    created_at: str


class Trimmed(msgspec.Struct):
    """How many events were dropped."""

    trimmed: int


class GroupShown(msgspec.Struct):
    """A group. `lag` is how many events it has not been given yet, `pending` how many it was given
    and has not acknowledged, `dead` how many it gave up.
    """

    name: str
    max_deliveries: int
    claim_idle_ms: int
    max_pending: int
    last_delivered_id: str
    pending: int
    lag: int
    dead: int
    consumers: int
    created_at: str


class GroupsShown(msgspec.Struct):
    """All groups of a stream."""

    data: list[GroupShown]
    next_cursor: None = None


class DeliveryShown(EventShown):
    """An event for a consumer: for the how-manyeth time, and the token to acknowledge it with."""

    delivery: int
    token: str


class ReadShown(msgspec.Struct, omit_defaults=True):
    """What a consumer got; with `ack` in the request, what that acknowledged."""

    events: list[DeliveryShown]
    acked: int | None = None
    stale: list[str] | None = None


class AckShown(msgspec.Struct):
    """How many events are done; `stale` are the tokens or ids that changed nothing."""

    acked: int
    stale: list[str]


class NackShown(msgspec.Struct):
    """How many events were given back, `dead` of them for the last time."""

    nacked: int
    dead: int
    stale: list[str]


class ConsumerPending(msgspec.Struct):
    """How much a consumer holds."""

    name: str
    pending: int


class PendingShown(msgspec.Struct):
    """An event that is held; by nobody (null) where it waits to be delivered again."""

    id: str
    consumer: str | None
    idle_ms: int
    deliveries: int


class PendingPage(Page[PendingShown]):
    """What a group holds: all in short, and a page of it one by one."""

    count: int
    min_id: str | None
    max_id: str | None
    consumers: list[ConsumerPending]


class ConsumerShown(msgspec.Struct):
    """A consumer: how long since it asked, and since it last got something."""

    name: str
    pending: int
    idle_ms: int
    inactive_ms: int | None


class ConsumersShown(msgspec.Struct):
    """All consumers of a group."""

    data: list[ConsumerShown]
    next_cursor: None = None


class Released(msgspec.Struct):
    """How much a forgotten consumer had held."""

    released: int


class DeadShown(EventShown):
    """A dead letter: after how many deliveries, why, and whose the last one was."""

    deliveries: int
    reason: str
    consumer: str | None
    dead_at: str


class DeadPage(Page[DeadShown]):
    """A page of dead letters."""


class Redriven(msgspec.Struct):
    """How many will be delivered again; `trimmed` are dead letters that the stream has no more."""

    redriven: int
    trimmed: list[str]


def stream_shown(stream: Stream) -> StreamShown:
    """A stream."""
    return StreamShown(
        name=stream.name,
        length=stream.length,
        first_id=None if stream.first_id is None else str(stream.first_id),
        last_id=str(stream.last_id),
        groups=stream.group_count,
        retention=RetentionShown(*stream.retention),
        created_at=rfc3339(stream.created_at),
    )


def group_shown(group: Group) -> GroupShown:
    """A group."""
    return GroupShown(
        group.name,
        *group.settings,
        str(group.last_delivered_id),
        group.pending,
        group.lag,
        group.dead,
        group.consumer_count,
        rfc3339(group.created_at),
    )


def consumer_shown(consumer: Consumer, now_ms: int) -> ConsumerShown:
    """A consumer."""
    active_at = consumer.active_at
    return ConsumerShown(
        consumer.name,
        consumer.pending,
        max(0, now_ms - consumer.seen_at),
        None if active_at is None else max(0, now_ms - active_at),
    )
