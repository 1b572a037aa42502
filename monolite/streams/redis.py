"""The log of streams in Redis: XADD, XRANGE, XTRIM."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from monolite.errors import NotFound
from monolite.streams.engine import Also, Ids
from monolite.streams.event import NewEvent, Run
from monolite.streams.event_id import LAST, EventId
from monolite.streams.redis_connection import Argument
from monolite.streams.redis_store import (
    NO_STREAM,
    RedisStore,
    event_id,
    ids_of,
    refused,
    runs_of,
)
from monolite.streams.stream import Retention, Stream, Trim, dead_letters_of

_LISTED_AT_ONCE = 1000


class RedisStreamEngine:
    """The StreamEngine over Redis or Valkey."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

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
        if trim is None and also is None and once is None and all(e.wish is None for e in events):
            return self._store.append_joined(tenant_id, stream, events)
        return self._append(tenant_id, stream, events, trim, also, once)

    async def _append(
        self,
        tenant_id: int,
        stream: str,
        events: Sequence[NewEvent],
        trim: Trim | None,
        also: Also,
        once: str | None,
    ) -> Ids:
        digest = "" if once is None else hashlib.sha256(once.encode()).hexdigest()
        how = (digest, *_trimming(trim))
        reply = await self._store.append(tenant_id, stream, events, *how)
        if isinstance(reply, list):
            raise refused(reply)
        ids = ids_of(reply)
        if also is not None:
            more = also(None, ids)
            if more is not None:
                await more
        return ids

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
        reply = await self._store.call(
            "range", tenant_id, stream, str(first), str(last), count, int(backwards)
        )
        return None if reply is None else runs_of(*reply, singly=backwards)

    async def stream(self, tenant_id: int, name: str) -> Stream | None:
        reply = await self._store.call("stream", tenant_id, name)
        return None if reply is None else _shown(name, reply)

    async def streams(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Stream]:
        prefix = f"{tenant_id:016x}/"
        names = await self.names(f"({prefix}{after}" if after else f"[{prefix}", prefix, limit)
        replies = [self._store.call("stream", tenant_id, name) for name in names]
        shown = zip(names, await asyncio.gather(*replies), strict=True)
        return [_shown(name, reply) for name, reply in shown if reply is not None]

    async def names(self, after: str, prefix: str, limit: int) -> list[str]:
        """Streams of a tenant by name, behind a place in the list of all."""
        listed = await self._store.connection.send(
            ("ZRANGE", "monolite:streams", after, f"({prefix[:-1]}0", "BYLEX", "LIMIT", 0, limit)
        )
        return [name.decode().partition("/")[2] for name in listed]

    async def configure(
        self, tenant_id: int, name: str, retention: Retention
    ) -> tuple[Stream, bool]:
        max_length, max_age = ("" if most is None else most for most in retention)
        is_new = await self._store.call(
            "configure", tenant_id, name, *self._store.times(), max_length, max_age
        )
        shown = await self.stream(tenant_id, name)
        if shown is None:
            raise NotFound(NO_STREAM)
        return shown, bool(is_new)

    async def trim(self, tenant_id: int, name: str, trim: Trim) -> int:
        dropped = await self._store.call("trim", tenant_id, name, *_trimming(trim))
        if dropped is None:
            raise NotFound(NO_STREAM)
        return int(dropped)

    async def delete_stream(self, tenant_id: int, name: str) -> bool:
        store = self._store
        names = [name] if dead_letters_of(name) is None else [name, dead_letters_of(name)]
        existed = [
            await store.call("delete_stream", tenant_id, str(each), store.server) for each in names
        ]
        for each in names:
            store.waiting.call_stream((tenant_id, str(each)))
        return bool(existed[0])

    async def delete_tenant(self, tenant_id: int) -> None:
        """Remove all streams of a tenant."""
        prefix = f"{tenant_id:016x}/"
        while names := await self.names(f"[{prefix}", prefix, _LISTED_AT_ONCE):
            for name in names:
                await self._store.call("delete_stream", tenant_id, name, self._store.server)

    def watch(self, tenant_id: int, stream: str) -> AbstractContextManager[asyncio.Event]:
        return self._store.follow((tenant_id, stream))


def _trimming(trim: Trim | None) -> tuple[Argument, Argument, Argument]:
    if trim is None:
        return "", "", 0
    return (
        "" if trim.maxlen is None else trim.maxlen,
        "" if trim.minid is None else str(trim.minid),
        int(trim.approximate),
    )


def _shown(name: str, reply: Sequence[Any]) -> Stream:
    length, first, last, group_count, max_length, max_age, created_at = reply
    return Stream(
        name=name,
        length=length,
        first_id=event_id(first) if first else None,
        last_id=min(event_id(last), LAST),
        group_count=group_count,
        retention=Retention(
            int(max_length) if max_length else None, int(max_age) if max_age else None
        ),
        created_at=int(created_at),
    )
