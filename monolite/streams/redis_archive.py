"""A tenant's streams as records of an export, out of Redis and into it.

The records are those of sqlite_archive.py. Redis gives no snapshot: the events are those until the
export came to their stream, and what groups have of them is read behind them, so an event that is
acknowledged meanwhile is done in the copy too.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from monolite.streams.archive import EVENTS_AT_ONCE, PENDING_AT_ONCE
from monolite.streams.event import piece
from monolite.streams.event_id import ZERO, EventId, after, parse
from monolite.streams.group import Group
from monolite.streams.redis import RedisStreamEngine
from monolite.streams.redis_groups import Buried, RedisGroupEngine
from monolite.streams.redis_store import RedisStore
from monolite.streams.stream import Stream

_LISTED_AT_ONCE = 200
Record = dict[str, Any]


class Misfit(Exception):
    """A record that is none of ours, or does not fit what came before it."""


class RedisStreamArchive:
    """Streams by name, each with its events and then its groups."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._log = RedisStreamEngine(store)
        self._groups = RedisGroupEngine(store)

    async def records(self, tenant_id: int) -> AsyncIterator[Record]:
        """Everything of a tenant."""
        name: str | None = None
        while streams := await self._log.streams(tenant_id, name, _LISTED_AT_ONCE):
            for stream in streams:
                name = stream.name
                async for record in self._stream(tenant_id, stream):
                    yield record

    async def _stream(self, tenant_id: int, stream: Stream) -> AsyncIterator[Record]:
        yield {
            "kind": "stream",
            "name": stream.name,
            "last_id": str(stream.last_id),
            "max_length": stream.retention.max_length,
            "max_age_ms": stream.retention.max_age_ms,
            "created_at": stream.created_at,
        }
        first = stream.first_id
        while first is not None and first <= stream.last_id:
            runs = await self._log.range(
                tenant_id, stream.name, first, stream.last_id, EVENTS_AT_ONCE
            )
            if not runs:
                break
            for run in runs:
                yield {
                    "kind": "stream_events",
                    "stream": stream.name,
                    "first_id": str(EventId(run.ms, run.n)),
                    "events": b"\n".join(run.pieces),
                }
            first = after(runs[-1].last)
        for group in await self._groups.groups(tenant_id, stream.name) or ():
            if ":" not in group.name:  # a webhook's
                async for record in self._group(tenant_id, stream, group):
                    yield record

    async def _group(self, tenant_id: int, stream: Stream, group: Group) -> AsyncIterator[Record]:
        place = {"stream": stream.name, "group": group.name}
        yield {
            "kind": "stream_group",
            "stream": stream.name,
            "name": group.name,
            "position": str(min(group.last_delivered_id, stream.last_id)),
            "max_deliveries": group.settings.max_deliveries,
            "claim_idle_ms": group.settings.claim_idle_ms,
            "max_pending": group.settings.max_pending,
            "created_at": group.created_at,
        }
        first = ZERO
        while held := await self._groups.pending(
            tenant_id, stream.name, group.name, first, stream.last_id, PENDING_AT_ONCE
        ):
            for deliveries in sorted({one.deliveries for one in held}):
                ids = [str(one.id) for one in held if one.deliveries == deliveries]
                yield {"kind": "stream_pending", **place, "deliveries": deliveries, "ids": ids}
            first = after(held[-1].id)
        behind = ZERO
        while letters := await self._groups.dead(
            tenant_id, stream.name, group.name, behind, PENDING_AT_ONCE
        ):
            for letter in letters:
                yield {
                    "kind": "stream_dead_letter",
                    **place,
                    "id": str(letter.id),
                    "event": piece(letter.type, letter.data),
                    "deliveries": letter.deliveries,
                    "reason": letter.reason,
                    "consumer": letter.consumer,
                    "dead_at": letter.dead_at,
                }
            behind = letters[-1].id

    async def store(self, tenant_id: int, record: Record) -> None:
        """Store one record; raises Misfit."""
        try:
            reply = await self._stored(tenant_id, record)
        except (KeyError, TypeError, ValueError, msgspec.DecodeError) as error:
            raise Misfit(str(error)) from None
        if reply is None or isinstance(reply, list):
            raise Misfit("it does not fit what came before it")

    async def _stored(self, tenant_id: int, record: Record) -> Any:
        call = self._store.call
        kind = record["kind"]
        if kind == "stream":
            bounds = [_number(record[name]) for name in ("max_length", "max_age_ms")]
            created_at = _number(record["created_at"])
            last = parse(record["last_id"])
            return await call(
                "restore_stream", tenant_id, _text(record["name"]), *last, *bounds, created_at, 0
            )
        stream = _text(record["stream"])
        if kind == "stream_events":
            content = base64.b64decode(record["events"], validate=True)
            first = parse(record["first_id"])
            return await call("restore_events", tenant_id, stream, *first, *content.split(b"\n"))
        if kind == "stream_group":
            names = ("max_deliveries", "claim_idle_ms", "max_pending", "created_at")
            numbers = [int(record[name]) for name in names]
            position = str(parse(record["position"]))
            return await call(
                "restore_group", tenant_id, stream, _text(record["name"]), position, *numbers, 0
            )
        group = _text(record["group"])
        if kind == "stream_pending":
            ids = [str(parse(id)) for id in msgspec.json.decode(record["ids"], type=list[str])]
            held = ("", 0, int(record["deliveries"]))
            return await call("restore_pending", tenant_id, stream, group, *held, *ids)
        letter = letter_bytes(
            int(record["dead_at"]),
            record["reason"],
            int(record["deliveries"]),
            record["consumer"],
            base64.b64decode(record["event"], validate=True),
        )
        return await call(
            "restore_dead", tenant_id, stream, group, str(parse(record["id"])), letter
        )


def letter_bytes(
    dead_at: int,
    reason: str,
    deliveries: int,
    consumer: str | None,
    event: bytes,
    seq: int | None = None,
) -> bytes:
    """A dead letter as it is kept; `seq` is its number in the stream, where that is known."""
    return msgspec.json.encode(Buried(dead_at, reason, deliveries, consumer, seq)) + b"\n" + event


def _number(value: int | None) -> int | str:
    return "" if value is None else int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"not a name: {value!r}")
    return value
