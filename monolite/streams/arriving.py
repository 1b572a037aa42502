"""Events as callers send them: one, an array, or a line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from monolite.errors import FieldError, Invalid, Malformed, TooLarge
from monolite.streams.event import TYPE_PATTERN, NewEvent, piece
from monolite.streams.event_id import parse_wish
from monolite.web.decoding import JsonBody

COUNT_MAX = 10_000
"""Events in one append."""


class EventToAppend(msgspec.Struct, forbid_unknown_fields=True):
    """An event to append. `data` is any JSON, kept as it came; `id` is made where it is left out,
    else greater than the stream's last: `5-1`, or `5-*` for the next of those milliseconds.
    """

    data: msgspec.Raw
    type: Annotated[str, msgspec.Meta(pattern=f"^{TYPE_PATTERN}$")] | None = None
    id: Annotated[str, msgspec.Meta(max_length=64)] | None = None


_one = JsonBody(EventToAppend)
_many = JsonBody(list[EventToAppend])


def read_events(raw: bytes, *, event_bytes_max: int) -> list[NewEvent]:
    """One event, or an array of them.

    Raises:
        Malformed: not JSON in UTF-8.
        Invalid: well-formed, and no event; the pointer says where.
        TooLarge: one of them is over `event_bytes_max` (`event_too_large`).
    """
    _decoded(raw)
    if raw.lstrip()[:1] == b"[":
        arrived: Sequence[EventToAppend] = _many(raw)
        pointers = "#/{}/"
    else:
        arrived = [_one(raw)]
        pointers = "#/"
    return _taken(arrived, pointers, event_bytes_max)


def read_lines(raw: bytes, *, event_bytes_max: int) -> list[NewEvent]:
    """Events, one a line; raises as `read_events` does, the pointer's first step the line's number
    from 0.
    """
    _decoded(raw)
    arrived: list[EventToAppend] = []
    for number, line in enumerate(raw.split(b"\n")):
        if not line.strip():
            continue
        try:
            arrived.append(_one(line))
        except Invalid as error:
            fields = [FieldError(f"#/{number}{f.pointer[1:]}", f.detail) for f in error.errors]
            raise Invalid(f"{fields[0].pointer}: {fields[0].detail}", fields) from None
        except Malformed as error:
            raise Malformed(f"Line {number}: {error.detail}") from None
    return _taken(arrived, "#/{}/", event_bytes_max)


def _decoded(raw: bytes) -> None:
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise Malformed("The body is not UTF-8.") from None


def _taken(arrived: Sequence[EventToAppend], pointers: str, event_bytes_max: int) -> list[NewEvent]:
    if not arrived:
        raise _invalid("#", "at least one event")
    if len(arrived) > COUNT_MAX:
        raise _invalid("#", f"at most {COUNT_MAX} events at once")
    events = []
    for at, event in enumerate(arrived):
        data = bytes(event.data)
        if len(data) > event_bytes_max:
            raise TooLarge(
                f"Event {at} has {len(data)} bytes of data; an event has at most"
                f" {event_bytes_max}.",
                code="event_too_large",
            )
        if b"\n" in data or b"\r" in data:
            data = msgspec.json.format(data, indent=-1)
        wish = None
        if event.id is not None:
            try:
                wish = parse_wish(event.id)
            except ValueError as error:
                raise _invalid(pointers.format(at) + "id", str(error)) from None
        events.append(NewEvent(piece(event.type, data), wish))
    return events


def _invalid(pointer: str, why: str) -> Invalid:
    return Invalid(f"{pointer}: {why}", [FieldError(pointer, why)])
