"""The log of streams in SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import apsw

from monolite.streams import sqlite_segments as segments
from monolite.streams.engine import Also, Ids
from monolite.streams.event import NewEvent, Run
from monolite.streams.event_id import EventId
from monolite.streams.sqlite_state import StreamState, load_log
from monolite.streams.sqlite_store import Store
from monolite.streams.stream import Retention, Stream, Trim, dead_letters_of

LONG_COUNT = 1000
LONG_BYTES = 256 * 1024
"""From here on an append runs on the writer's thread."""

_NAMES = (
    "SELECT name FROM streams WHERE tenant_id = ? AND name > ? AND deleted_at IS NULL"
    " ORDER BY name LIMIT ?"
)

_GROUP_COUNT = "SELECT count(*) FROM stream_groups WHERE tenant_id = ? AND stream_id = ?"


class SqliteStreamEngine:
    """The embedded StreamEngine."""

    def __init__(self, store: Store) -> None:
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
        store = self._store
        size = sum([len(event.piece) for event in events])
        is_long = len(events) >= LONG_COUNT or size >= LONG_BYTES
        if trim is None and also is None and not is_long and all(e.wish is None for e in events):
            return store.append_joined(tenant_id, stream, events, size)

        def work(connection: apsw.Connection) -> Ids:
            state = store.made(connection, tenant_id, stream)
            ids = store.append(connection, state, events)
            if trim is not None:
                trim_stream(connection, store, state, trim)
            if also is not None:
                also(connection, ids)
            return ids

        return store.change(tenant_id, stream, work, is_long=is_long)

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
        def look(connection: apsw.Connection) -> Sequence[Run] | None:
            state = load_log(connection, tenant_id, stream)
            if state is None:
                return None
            return _range(connection, state, first, last, count, backwards=backwards)

        return await self._store.look(look)

    async def stream(self, tenant_id: int, name: str) -> Stream | None:
        def look(connection: apsw.Connection) -> Stream | None:
            state = load_log(connection, tenant_id, name)
            return None if state is None else _shown(connection, state)

        return await self._store.look(look)

    async def streams(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Stream]:
        def look(connection: apsw.Connection) -> Sequence[Stream]:
            names: list[Any] = connection.execute(
                _NAMES, (tenant_id, after or "", limit)
            ).fetchall()
            states = [load_log(connection, tenant_id, name) for (name,) in names]
            return [_shown(connection, state) for state in states if state is not None]

        return await self._store.look(look)

    async def configure(
        self, tenant_id: int, name: str, retention: Retention
    ) -> tuple[Stream, bool]:
        store = self._store

        def work(connection: apsw.Connection) -> tuple[Stream, bool]:
            state = store.catalog.current(connection, tenant_id, name)
            is_new = state is None
            if state is None:
                state = store.catalog.make(connection, tenant_id, name, store.now_ms(), retention)
            else:
                state.retention = retention
                connection.execute(
                    "UPDATE streams SET max_length = ?, max_age_ms = ? WHERE id = ?",
                    (*retention, state.number),
                )
            return _shown(connection, state), is_new

        configured = await store.change(tenant_id, name, work)
        store.work_waits.set()
        return configured

    async def trim(self, tenant_id: int, name: str, trim: Trim) -> int:
        store = self._store

        def work(connection: apsw.Connection) -> int:
            return trim_stream(connection, store, store.existing(connection, tenant_id, name), trim)

        dropped = await store.change(tenant_id, name, work)
        return dropped

    async def delete_stream(self, tenant_id: int, name: str) -> bool:
        store = self._store
        names = [name] if dead_letters_of(name) is None else [name, dead_letters_of(name)]

        def work(connection: apsw.Connection) -> bool:
            existed = False
            for each in names:
                state = store.catalog.current(connection, tenant_id, str(each))
                if state is not None:
                    store.hide(connection, state)
                    existed = existed or each == name
            return existed

        existed = await store.change(tenant_id, name, work)
        store.work_waits.set()
        return existed

    def watch(self, tenant_id: int, stream: str) -> AbstractContextManager[asyncio.Event]:
        return self._store.waiting.follow((tenant_id, stream))


def trim_stream(connection: apsw.Connection, store: Store, state: StreamState, trim: Trim) -> int:
    """Drop the oldest events in the writer's transaction; returns how many."""
    first = state.first
    if trim.maxlen is not None:
        first = max(first, state.last + 1 - trim.maxlen)
    if trim.minid is not None:
        begin = segments.seek(connection, state.number, state.first, state.last, trim.minid)
        first = max(first, begin)
    dropped = segments.trim_to(connection, state, first, approximate=trim.approximate)
    if dropped and segments.remove_trimmed(connection, state.number, state.first):
        store.trimmed.add(state.number)
        store.call_upkeep()
    return dropped


def _range(
    connection: apsw.Connection,
    state: StreamState,
    first: EventId,
    last: EventId,
    count: int,
    *,
    backwards: bool,
) -> Sequence[Run]:
    number = state.number
    begin = segments.seek(connection, number, state.first, state.last, first)
    if last >= state.last_id:
        end = state.last
    else:
        end = segments.seek(connection, number, begin, state.last, last)
        if end > state.last or segments.id_at(connection, number, end) != last:
            end -= 1
    if begin > end:
        return []
    if not backwards:
        found = segments.read(connection, number, begin, end, count)
        return [Run(piece.ms, piece.n, piece.pieces) for piece in found]
    singles: list[Run] = []
    size = 0
    while end >= begin and len(singles) < count and size < segments.READ_BYTES_MAX:
        segment = segments.segment_at(connection, number, end)
        assert segment is not None  # every place from `first` on is in a row
        low = max(begin, segment.seq)
        for piece in segments.read(connection, number, low, end, end - low + 1):
            for at in reversed(range(len(piece.pieces))):
                singles.append(Run(piece.ms, piece.n + at, [piece.pieces[at]]))
                size += len(piece.pieces[at])
        end = low - 1
    return singles[:count]


def _shown(connection: apsw.Connection, state: StreamState) -> Stream:
    first_id = segments.id_at(connection, state.number, state.first) if state.length > 0 else None
    group_count = connection.execute(_GROUP_COUNT, (state.tenant_id, state.number)).get
    return Stream(
        name=state.name,
        length=state.length,
        first_id=first_id,
        last_id=state.last_id,
        group_count=group_count,
        retention=state.retention,
        created_at=state.created_at,
    )
