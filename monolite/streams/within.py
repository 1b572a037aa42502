"""An event, and an acknowledgement, in the transaction of a write that is another subsystem's.

A write and its event are one commit, so neither is ever there without the other. A consumer's
effect and its acknowledgement are one commit too, refused where the delivery was overtaken: of two
consumers that both believe they hold an event, one alone has an effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from monolite.errors import FieldError, Invalid, TooLarge
from monolite.names import NAME_PATTERN
from monolite.streams import tokens
from monolite.streams.event import TYPE_PATTERN, NewEvent, piece
from monolite.streams.tokens import Place

TOKENS_MAX = 1000

_event = re.compile(rf"({NAME_PATTERN})(?:\s*;\s*type=({TYPE_PATTERN}))?").fullmatch
_ack = re.compile(rf"({NAME_PATTERN}(?::dlq)?)/({NAME_PATTERN})\s+(\S+)").fullmatch


class EventWish(NamedTuple):
    """Where to append what the write came to."""

    stream: str
    type: str | None


class AckWish(NamedTuple):
    """The deliveries that the write is the effect of."""

    stream: str
    group: str
    marked: Mapping[int, Sequence[Place]]


class Wish(NamedTuple):
    """What a write takes along."""

    event: EventWish | None
    ack: AckWish | None


class Within(Protocol):
    """A store of streams that has the transactions of the database."""

    def run(self, transaction: Any, tenant_id: int, wish: Wish, data: bytes) -> None:
        """Acknowledge, and append the event of this data.

        Raises NotFound where there is no such group, Conflict (`delivery_lost`) where a delivery
        was overtaken; the write is then to be taken back.
        """
        ...


def read_wish(event: str | None, ack: str | None) -> Wish:
    """`orders; type=order.created` and `orders/mailer TOKEN,TOKEN`; raises Invalid."""
    return Wish(
        None if event is None else _event_wish(event),
        None if ack is None else _ack_wish(ack),
    )


def new_event(wish: EventWish, data: bytes, bytes_max: int) -> NewEvent:
    """The event of a write's answer; raises TooLarge."""
    if len(data) > bytes_max:
        raise TooLarge(
            f"X-Event: the event would have {len(data)} bytes of data; it has at most {bytes_max}.",
            code="event_too_large",
        )
    if b"\n" in data or b"\r" in data:
        data = msgspec.json.format(data, indent=-1)
    return NewEvent(piece(wish.type, data or b"null"))


def _event_wish(text: str) -> EventWish:
    found = _event(text.strip())
    if found is None:
        raise _invalid("X-Event", "a stream, and a type if you like: orders; type=order.created")
    return EventWish(found[1], found[2])


def _ack_wish(text: str) -> AckWish:
    why = "a stream, a group and tokens: orders/mailer 1763871234567890.1,1763871234567890.2"
    found = _ack(text.strip())
    if found is None:
        raise _invalid("X-Ack", why)
    texts = found[3].split(",")
    marked, bad = tokens.by_fence(texts)
    if bad or len(texts) > TOKENS_MAX:
        raise _invalid("X-Ack", why if bad else f"at most {TOKENS_MAX} tokens")
    return AckWish(found[1], found[2], marked)


def _invalid(pointer: str, why: str) -> Invalid:
    return Invalid(f"{pointer}: {why}", [FieldError(pointer, why)])
