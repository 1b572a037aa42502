"""Streams as logs over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Annotated, Literal

import msgspec

from monolite.errors import FieldError, Invalid
from monolite.streams.arriving import EventToAppend, read_events, read_lines
from monolite.streams.engine import Ids
from monolite.streams.event import Run
from monolite.streams.event_id import PART_MAX, EventId, texts
from monolite.streams.log import Streams, event_id_at, position
from monolite.streams.shown import (
    Appended,
    EventPage,
    StreamShown,
    Trimmed,
    stream_shown,
)
from monolite.streams.stream import SYSTEM_PATTERN, Retention, Trim
from monolite.web.answer import JSON_TYPE, Answer, Stream, json_answer, page_answer
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.operation import Operation
from monolite.web.pages import LIMIT_MAX, Page, PageQuery
from monolite.web.sse import event_stream, frame

READ, WRITE = "streams:read", "streams:write"
NDJSON = "application/x-ndjson"
ANY_STREAM = {"stream": SYSTEM_PATTERN}

IdText = Annotated[str, msgspec.Meta(max_length=64)]
Length = Annotated[int, msgspec.Meta(ge=0, le=PART_MAX)]


class AppendQuery(msgspec.Struct):
    """`?maxlen=` keeps the newest so many events, `?minid=` none below an id; `approximate=true`
    may leave some more.
    """

    maxlen: Length | None = None
    minid: IdText | None = None
    approximate: bool = False


class EventsQuery(msgspec.Struct):
    """`?after=&count=`: events behind an id, `until` another, `order=desc` from the newest back.

    `limit` and `cursor` are other names of `count` and `after`.
    """

    after: IdText | None = None
    until: IdText | None = None
    order: Literal["asc", "desc"] = "asc"
    count: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] | None = None
    cursor: IdText | None = None
    live: Literal["sse"] | None = None


class StreamWish(msgspec.Struct, forbid_unknown_fields=True):
    """How much of a stream is kept; without any, all of it."""

    max_length: Annotated[int, msgspec.Meta(ge=1, le=PART_MAX)] | None = None
    max_age_ms: Annotated[int, msgspec.Meta(ge=1, le=PART_MAX)] | None = None


class TrimWish(msgspec.Struct, forbid_unknown_fields=True):
    """What to drop: all but the newest `maxlen`, what lies below `minid`, what is older than
    `max_age_ms`.
    """

    maxlen: Length | None = None
    minid: IdText | None = None
    max_age_ms: Length | None = None
    approximate: bool = False


def operations(
    streams: Streams,
    cursors: Cursors,
    now_ms: Callable[[], int],
    *,
    event_bytes_max: int,
    append_bytes_max: int,
) -> list[Operation]:
    """The route table."""
    e = _Endpoints(streams, cursors, now_ms, event_bytes_max)
    stream = "/v1/streams/{stream}"
    return [
        Operation(
            "streams.append",
            "POST",
            stream + "/events",
            WRITE,
            "Append events, all or none",
            e.append,
            {201: Appended},
            joins=True,
            query=AppendQuery,
            body=EventToAppend | list[EventToAppend],
            decodes=False,
            consumes=("application/json", NDJSON),
            body_bytes_max=append_bytes_max,
            creates=True,
            hot=True,
            example={"type": "order.created", "data": {"id": 7, "total": 120}},
            description="One event, an array of them, or a line each. A stream exists from its"
            " first. Ids are Redis's, `1763871234567-0`, and strictly increase.",
        ),
        Operation(
            "streams.events",
            "GET",
            stream + "/events",
            READ,
            "Events of a stream",
            e.events,
            {200: EventPage},
            query=EventsQuery,
            hot=True,
            names=ANY_STREAM,
            description="`live=sse` is a stream of events: those behind `after`, or from now on,"
            " and each new one as it is appended; `Last-Event-ID` goes on behind an event."
            " `{stream}:dlq` holds a stream's dead letters.",
        ),
        Operation(
            "streams.list",
            "GET",
            "/v1/streams",
            READ,
            "List streams",
            e.list,
            {200: Page[StreamShown]},
            query=PageQuery,
        ),
        Operation(
            "streams.get",
            "GET",
            stream,
            READ,
            "One stream",
            e.get,
            {200: StreamShown},
            names=ANY_STREAM,
        ),
        Operation(
            "streams.put",
            "PUT",
            stream,
            WRITE,
            "Say how much of a stream is kept, or make it",
            e.put,
            {200: StreamShown, 201: StreamShown},
            body=StreamWish,
            body_optional=True,
            example={"max_length": 1_000_000, "max_age_ms": 604_800_000},
            description="Applied every second. `PUT` replaces: what is left out is not limited.",
        ),
        Operation(
            "streams.trim",
            "POST",
            stream + "/trim",
            WRITE,
            "Drop the oldest events",
            e.trim,
            {200: Trimmed},
            body=TrimWish,
            names=ANY_STREAM,
            example={"maxlen": 1000},
        ),
        Operation(
            "streams.delete",
            "DELETE",
            stream,
            WRITE,
            "Remove a stream, its groups, webhooks and dead letters",
            e.delete,
            {204: None},
            names=ANY_STREAM,
        ),
    ]


class _Endpoints:
    def __init__(
        self, streams: Streams, cursors: Cursors, now_ms: Callable[[], int], event_bytes_max: int
    ) -> None:
        self._streams = streams
        self._cursors = cursors
        self._now_ms = now_ms
        self._event_bytes_max = event_bytes_max

    async def append(self, call: Call) -> Answer:
        media = call.headers.get(b"content-type", b"")
        read = read_lines if b"ndjson" in media.lower() else read_events
        events = read(call.raw, event_bytes_max=self._event_bytes_max)
        query = call.query
        trim = None
        if query.maxlen is not None or query.minid is not None:
            trim = Trim(query.maxlen, position(query.minid, "?minid"), query.approximate)
        once = None
        if call.once is not None:
            once = f"{call.principal.identity}\0{call.once.key}"
        return _appended(
            await self._streams.append(
                call.tenant_id,
                call.params["stream"],
                events,
                trim,
                call.companion(_appended),
                once,
            )
        )

    async def events(self, call: Call) -> Answer | Stream:
        query = call.query
        if query.live is not None:
            return await self._follow(call)
        stream = call.params["stream"]
        after = position(query.after or query.cursor, "?after")
        backwards = query.order == "desc"
        until = None
        if query.until is not None:
            # All of those milliseconds, as XRANGE reads them.
            until = event_id_at(query.until, "?until", n=0 if backwards else PART_MAX)
        runs, reached = await self._streams.events(
            call.tenant_id,
            stream,
            after,
            until,
            query.count or query.limit or 100,
            backwards=backwards,
        )
        shown = b",".join([event for run in runs for event in run.encoded()])
        cursor = b"null" if reached is None else b'"%d-%d"' % reached
        return Answer(200, b'{"data":[%b],"next_cursor":%b}' % (shown, cursor), [JSON_TYPE])

    async def _follow(self, call: Call) -> Stream:
        text, pointer = call.header(b"last-event-id"), "Last-Event-ID"
        if not text:
            text, pointer = call.query.after or call.query.cursor, "?after"
        if call.query.order == "desc" or call.query.until is not None:
            why = "a live stream is of events as they come: `order` and `until` don't go with it"
            raise Invalid(f"?live: {why}", [FieldError("?live", why)])
        found = await self._streams.follow(
            call.tenant_id, call.params["stream"], position(text, pointer)
        )
        return event_stream(_frames(found))

    async def list(self, call: Call) -> Answer:
        after = self._cursors.after(call, call.query.cursor)
        limit = call.query.limit
        found = await self._streams.streams(call.tenant_id, after, limit + 1)
        cursor = None
        if len(found) > limit:
            cursor = self._cursors.encode(call, [found[limit - 1].name])
        return page_answer([stream_shown(stream) for stream in found[:limit]], cursor)

    async def get(self, call: Call) -> Answer:
        found = await self._streams.stream(call.tenant_id, call.params["stream"])
        return json_answer(stream_shown(found))

    async def put(self, call: Call) -> Answer:
        wish = call.body or StreamWish()
        stream, is_new = await self._streams.configure(
            call.tenant_id, call.params["stream"], Retention(wish.max_length, wish.max_age_ms)
        )
        return json_answer(stream_shown(stream), 201 if is_new else 200)

    async def trim(self, call: Call) -> Answer:
        wish = call.body
        minid = position(wish.minid, "#/minid")
        if wish.max_age_ms is not None:
            young = EventId(max(0, self._now_ms() - wish.max_age_ms), 0)
            minid = young if minid is None else max(minid, young)
        if wish.maxlen is None and minid is None:
            why = "one of maxlen, minid and max_age_ms"
            raise Invalid(f"#: {why}", [FieldError("#", why)])
        trim = Trim(wish.maxlen, minid, wish.approximate)
        dropped = await self._streams.trim(call.tenant_id, call.params["stream"], trim)
        return json_answer(Trimmed(dropped))

    async def delete(self, call: Call) -> Answer:
        await self._streams.delete(call.tenant_id, call.params["stream"])
        return Answer(204)


def _appended(ids: Ids) -> Answer:
    shown = '","'.join([text for first, count in ids for text in texts(first, count)])
    return Answer(201, b'{"ids":["%b"]}' % shown.encode(), [JSON_TYPE])


async def _frames(found: AsyncGenerator[Run, None]) -> AsyncIterator[bytes]:
    async with aclosing(found):
        async for run in found:
            ids = texts(EventId(run.ms, run.n), len(run.pieces))
            for id, event in zip(ids, run.encoded(), strict=True):
                yield frame(event, event_id=id)
