"""A dead letter as an event of the stream that collects them."""

from __future__ import annotations

import msgspec

from monolite.streams.event import NewEvent, piece
from monolite.streams.group import DeadLetter


class DeadEventData(msgspec.Struct):
    """The data of an event of `{stream}:dlq`: the event, and why and how often it failed."""

    id: str
    data: msgspec.Raw
    group: str
    reason: str
    deliveries: int
    consumer: str | None
    dead_at_ms: int


def dead_event(group: str, letter: DeadLetter) -> NewEvent:
    """The event, of the type of the one that died."""
    data = DeadEventData(
        str(letter.id),
        msgspec.Raw(letter.data),
        group,
        letter.reason,
        letter.deliveries,
        letter.consumer,
        letter.dead_at,
    )
    return NewEvent(piece(letter.type, msgspec.json.encode(data)))
