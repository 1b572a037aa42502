"""Consumer groups over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Annotated

import msgspec

from monolite.errors import FieldError, Invalid
from monolite.names import NAME_PATTERN
from monolite.streams.endpoints import ANY_STREAM, IdText
from monolite.streams.event_id import LAST, PART_MAX, ZERO, EventId
from monolite.streams.group import (
    CLAIM_IDLE_MS,
    MAX_DELIVERIES,
    MAX_PENDING,
    DeadLetter,
    GroupSettings,
    Read,
)
from monolite.streams.groups import GIVEN_BACK, Groups
from monolite.streams.log import event_id_at, position
from monolite.streams.shown import (
    AckShown,
    ConsumerPending,
    ConsumersShown,
    DeadPage,
    GroupShown,
    GroupsShown,
    NackShown,
    PendingPage,
    PendingShown,
    ReadShown,
    Redriven,
    Released,
    consumer_shown,
    group_shown,
)
from monolite.web.answer import JSON_TYPE, Answer, json_answer
from monolite.web.call import Call
from monolite.web.operation import Operation
from monolite.web.pages import LIMIT_MAX, PageQuery
from monolite.web.timestamps import rfc3339

CONSUME = "streams:consume"
WEEK_MS = 7 * 86_400_000
BLOCK_MS_MAX = 60_000
MARKED_MAX = 10_000
"""Tokens or ids in one call."""

# A webhook's group can be looked at, and its dead letters redriven; the server alone consumes it.
ANY_GROUP = {**ANY_STREAM, "group": f"(webhook:)?{NAME_PATTERN}"}

Name = Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}$")]
Count = Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)]
Idle = Annotated[int, msgspec.Meta(ge=0, le=WEEK_MS)]
Tokens = Annotated[list[str], msgspec.Meta(max_length=MARKED_MAX)]
Ids = Annotated[list[IdText], msgspec.Meta(max_length=MARKED_MAX)]


class GroupWish(msgspec.Struct, forbid_unknown_fields=True):
    """A group. `start` counts when it is made: behind an id, `0` from the earliest event, `$` from
    now on.
    """

    start: IdText = "0"
    max_deliveries: Annotated[int, msgspec.Meta(ge=1, le=1000)] = MAX_DELIVERIES
    claim_idle_ms: Annotated[int, msgspec.Meta(ge=1, le=WEEK_MS)] = CLAIM_IDLE_MS
    max_pending: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = MAX_PENDING


class MoveWish(msgspec.Struct, forbid_unknown_fields=True):
    """Where a group goes on: behind an id, `0` from the earliest event, `$` from now on."""

    start: IdText


class ReadWish(msgspec.Struct, forbid_unknown_fields=True):
    """Who reads, how many events at most, and how long to wait for the first of them. `ack` are
    tokens to acknowledge in the same commit.
    """

    consumer: Name
    count: Count = 50
    block_ms: Annotated[int, msgspec.Meta(ge=0, le=BLOCK_MS_MAX)] = 0
    ack: Tokens = []


class AckWish(msgspec.Struct, forbid_unknown_fields=True):
    """Events that are done: the tokens of their deliveries, or ids, whoever holds them."""

    tokens: Tokens = []
    ids: Ids = []


class NackWish(msgspec.Struct, forbid_unknown_fields=True):
    """Events to be delivered again, after a delay; `reason` is told with a dead letter."""

    tokens: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MARKED_MAX)]
    delay_ms: Idle = 0
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)] | None = None


class ClaimWish(msgspec.Struct, forbid_unknown_fields=True):
    """Take over what others have held for `min_idle_ms` or longer."""

    consumer: Name
    min_idle_ms: Idle = CLAIM_IDLE_MS
    count: Count = 50


class RedriveWish(msgspec.Struct, forbid_unknown_fields=True):
    """The dead letters to deliver again; all where `ids` is left out."""

    ids: Annotated[list[IdText], msgspec.Meta(min_length=1, max_length=MARKED_MAX)] | None = None


class PendingQuery(msgspec.Struct):
    """`?start=&end=&count=` are a range of ids; `consumer` and `min_idle_ms` narrow it."""

    start: IdText | None = None
    end: IdText | None = None
    count: Count = 50
    consumer: Name | None = None
    min_idle_ms: Idle = 0
    cursor: IdText | None = None


def operations(
    groups: Groups,
    now_ms: Callable[[], int],
    registered: Callable[[Call], AbstractContextManager[None]],
) -> list[Operation]:
    """The route table. `registered` holds the current task as one to be cancelled when its
    credential, or the server, ends.
    """
    e = _Endpoints(groups, now_ms, registered)
    many = "/v1/streams/{stream}/groups"
    group = many + "/{group}"
    token = {"tokens": ["1763871234567890.42"]}
    return [
        Operation(
            "streams.groups",
            "GET",
            many,
            CONSUME,
            "Groups of a stream",
            e.list,
            {200: GroupsShown},
            names=ANY_STREAM,
        ),
        Operation(
            "streams.put_group",
            "PUT",
            group,
            CONSUME,
            "Make a group, or change its settings",
            e.put,
            {200: GroupShown, 201: GroupShown},
            body=GroupWish,
            body_optional=True,
            names=ANY_STREAM,
            example={"start": "0", "max_deliveries": 3, "claim_idle_ms": 60_000},
            description="Makes the stream too, where it is missing. A group that is there stays"
            " where it is; `POST …/move` moves it.",
        ),
        Operation(
            "streams.get_group",
            "GET",
            group,
            CONSUME,
            "One group, its lag and what it holds",
            e.get,
            {200: GroupShown},
            names=ANY_GROUP,
        ),
        Operation(
            "streams.move_group",
            "POST",
            group + "/move",
            CONSUME,
            "Let a group go on behind another id",
            e.move,
            {200: GroupShown},
            body=MoveWish,
            names=ANY_STREAM,
            example={"start": "1763871234567-0"},
            description="What it holds behind that id is delivered anew; its tokens are stale.",
        ),
        Operation(
            "streams.delete_group",
            "DELETE",
            group,
            CONSUME,
            "Remove a group and what it holds",
            e.delete,
            {204: None},
            names=ANY_STREAM,
        ),
        Operation(
            "streams.read",
            "POST",
            group + "/read",
            CONSUME,
            "Read as a consumer",
            e.read,
            {200: ReadShown},
            body=ReadWish,
            hot=True,
            names=ANY_STREAM,
            example={"consumer": "worker-1", "count": 50, "block_ms": 2000},
            description="First what was given back or was not acknowledged within"
            " `claim_idle_ms`, then new events. Where there is nothing, waits `block_ms` for"
            " something. While `max_pending` events are held: 429, `backpressure`.",
        ),
        Operation(
            "streams.ack",
            "POST",
            group + "/ack",
            CONSUME,
            "Acknowledge events",
            e.ack,
            {200: AckShown},
            body=AckWish,
            hot=True,
            names=ANY_STREAM,
            example=token,
            description="A token of an earlier delivery is stale and acknowledges nothing.",
        ),
        Operation(
            "streams.nack",
            "POST",
            group + "/nack",
            CONSUME,
            "Give events back",
            e.nack,
            {200: NackShown},
            body=NackWish,
            names=ANY_STREAM,
            example={**token, "delay_ms": 5000},
            description="Delivered again after `delay_ms`; after `max_deliveries` a dead letter.",
        ),
        Operation(
            "streams.claim",
            "POST",
            group + "/claim",
            CONSUME,
            "Take over what others hold for too long",
            e.claim,
            {200: ReadShown},
            body=ClaimWish,
            names=ANY_STREAM,
            example={"consumer": "worker-2", "min_idle_ms": 30_000, "count": 50},
        ),
        Operation(
            "streams.pending",
            "GET",
            group + "/pending",
            CONSUME,
            "What a group holds",
            e.pending,
            {200: PendingPage},
            query=PendingQuery,
            names=ANY_GROUP,
        ),
        Operation(
            "streams.consumers",
            "GET",
            group + "/consumers",
            CONSUME,
            "Consumers of a group",
            e.consumers,
            {200: ConsumersShown},
            names=ANY_GROUP,
        ),
        Operation(
            "streams.delete_consumer",
            "DELETE",
            group + "/consumers/{consumer}",
            CONSUME,
            "Forget a consumer and release what it holds",
            e.delete_consumer,
            {200: Released},
            names=ANY_STREAM,
        ),
        Operation(
            "streams.dead",
            "GET",
            group + "/dead",
            CONSUME,
            "Dead letters of a group",
            e.dead,
            {200: DeadPage},
            query=PageQuery,
            names=ANY_GROUP,
        ),
        Operation(
            "streams.redrive",
            "POST",
            group + "/dead/redrive",
            CONSUME,
            "Deliver dead letters again",
            e.redrive,
            {200: Redriven},
            body=RedriveWish,
            body_optional=True,
            names=ANY_GROUP,
            example={"ids": ["1763871234567-0"]},
        ),
    ]


class _Endpoints:
    def __init__(
        self,
        groups: Groups,
        now_ms: Callable[[], int],
        registered: Callable[[Call], AbstractContextManager[None]],
    ) -> None:
        self._groups = groups
        self._now_ms = now_ms
        self._registered = registered

    async def list(self, call: Call) -> Answer:
        found = await self._groups.groups(call.tenant_id, call.params["stream"])
        return json_answer(GroupsShown([group_shown(group) for group in found]))

    async def put(self, call: Call) -> Answer:
        wish = call.body or GroupWish()
        settings = GroupSettings(wish.max_deliveries, wish.claim_idle_ms, wish.max_pending)
        start = position(wish.start, "#/start")
        group, is_new = await self._groups.put(*_group(call), start, settings)
        return json_answer(group_shown(group), 201 if is_new else 200)

    async def get(self, call: Call) -> Answer:
        return json_answer(group_shown(await self._groups.group(*_group(call))))

    async def move(self, call: Call) -> Answer:
        start = position(call.body.start, "#/start")
        return json_answer(group_shown(await self._groups.move(*_group(call), start)))

    async def delete(self, call: Call) -> Answer:
        await self._groups.delete(*_group(call))
        return Answer(204)

    async def read(self, call: Call) -> Answer:
        wish: ReadWish = call.body
        got = await self._groups.read(*_group(call), wish.consumer, wish.count, ack=wish.ack)
        if wish.block_ms and not got.runs and not got.backpressure:
            waited = await self._wait(call, wish)
            got = waited._replace(acked=got.acked, stale=got.stale)
        return _read(got, shows_ack=bool(wish.ack))

    async def _wait(self, call: Call, wish: ReadWish) -> Read:
        """Wait for events, until the client goes, its right to be here ends, or the server stops:
        an event delivered to nobody would be idle for a minute.
        """
        if asyncio.current_task() is None:
            # A hot operation that never waited runs in no task yet, and only a task can be
            # broken off.
            await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None  # the sleep saw to it

        def break_off(_: object) -> None:
            task.cancel()

        gone = call.gone()
        gone.add_done_callback(break_off)
        try:
            with self._registered(call):
                return await self._groups.read(
                    *_group(call), wish.consumer, wish.count, block_ms=wish.block_ms
                )
        except asyncio.CancelledError:
            task.uncancel()
            return Read(())
        finally:
            gone.remove_done_callback(break_off)

    async def ack(self, call: Call) -> Answer:
        wish: AckWish = call.body
        if not wish.tokens and not wish.ids:
            why = "tokens or ids"
            raise Invalid(f"#: {why}", [FieldError("#", why)])
        done = await self._groups.ack(*_group(call), wish.tokens, _ids(wish.ids))
        return json_answer(AckShown(done.changed, list(done.stale)))

    async def nack(self, call: Call) -> Answer:
        wish: NackWish = call.body
        done = await self._groups.nack(
            *_group(call), wish.tokens, wish.delay_ms, wish.reason or GIVEN_BACK
        )
        return json_answer(NackShown(done.changed, done.dead, list(done.stale)))

    async def claim(self, call: Call) -> Answer:
        wish: ClaimWish = call.body
        return _read(
            await self._groups.claim(*_group(call), wish.consumer, wish.min_idle_ms, wish.count)
        )

    async def pending(self, call: Call) -> Answer:
        query: PendingQuery = call.query
        start = query.cursor or query.start
        first = ZERO if start is None else event_id_at(start, "?start")
        last = LAST if query.end is None else event_id_at(query.end, "?end", n=PART_MAX)
        summary, listed = await self._groups.pending(
            *_group(call), first, last, query.count + 1, query.consumer, query.min_idle_ms
        )
        # A page begins with its cursor, as a range of XPENDING does with its start.
        more = str(listed[query.count].id) if len(listed) > query.count else None
        return json_answer(
            PendingPage(
                data=[
                    PendingShown(str(one.id), one.consumer, one.idle_ms, one.deliveries)
                    for one in listed[: query.count]
                ],
                next_cursor=more,
                count=summary.pending,
                min_id=None if summary.min_id is None else str(summary.min_id),
                max_id=None if summary.max_id is None else str(summary.max_id),
                consumers=[ConsumerPending(*consumer) for consumer in summary.consumers],
            )
        )

    async def consumers(self, call: Call) -> Answer:
        found = await self._groups.consumers(*_group(call))
        now_ms = self._now_ms()
        return json_answer(ConsumersShown([consumer_shown(one, now_ms) for one in found]))

    async def delete_consumer(self, call: Call) -> Answer:
        released = await self._groups.delete_consumer(*_group(call), call.params["consumer"])
        return json_answer(Released(released))

    async def dead(self, call: Call) -> Answer:
        cursor = call.query.cursor
        after = ZERO if cursor is None else event_id_at(cursor, "?cursor")
        limit = call.query.limit
        found = await self._groups.dead(*_group(call), after, limit + 1)
        shown = b",".join([_dead(letter) for letter in found[:limit]])
        further = b'"%d-%d"' % found[limit - 1].id if len(found) > limit else b"null"
        return Answer(200, b'{"data":[%b],"next_cursor":%b}' % (shown, further), [JSON_TYPE])

    async def redrive(self, call: Call) -> Answer:
        ids = None if call.body is None or call.body.ids is None else _ids(call.body.ids)
        done = await self._groups.redrive(*_group(call), ids)
        return json_answer(Redriven(done.changed, list(done.stale)))


def _group(call: Call) -> tuple[int, str, str]:
    params = call.params
    return call.tenant_id, params["stream"], params["group"]


def _ids(texts: Sequence[str]) -> list[EventId]:
    return [event_id_at(text, f"#/ids/{at}") for at, text in enumerate(texts)]


def _read(got: Read, *, shows_ack: bool = False) -> Answer:
    shown = b",".join([event for run in got.runs for event in run.encoded()])
    rest = b""
    if shows_ack:
        rest = b',"acked":%d,"stale":%b' % (got.acked, msgspec.json.encode(list(got.stale)))
    return Answer(200, b'{"events":[%b]%b}' % (shown, rest), [JSON_TYPE])


def _dead(letter: DeadLetter) -> bytes:
    about = msgspec.json.encode(
        {
            "deliveries": letter.deliveries,
            "reason": letter.reason,
            "consumer": letter.consumer,
            "dead_at": rfc3339(letter.dead_at),
        }
    )
    kind = b"null" if letter.type is None else b'"%b"' % letter.type.encode()
    return b'{"id":"%d-%d","type":%b,"data":%b,%b' % (*letter.id, kind, letter.data, about[1:])
