"""Indexes that follow a collection: each change of it, in order, once.

    changes beyond the position ─► texts ─► vectors ─► one commit: rows and position

A task for each such index. It begins at the earliest known change, which leads to every document
that lives. Where the log can't go on (changes were dropped, or the collection was deleted) the
index is emptied, and begins again when a collection of that name has documents.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

import msgspec

from monolite.clock import Clock
from monolite.embedder import Embedder
from monolite.errors import Gone
from monolite.search.engine import SearchEngine
from monolite.search.index import Entry, Index, Source

log = logging.getLogger("monolite.search")

CHANGES_AT_ONCE = 64
LOOK_AGAIN_S = 1.0
CAUGHT_UP_WAIT_S = 2.0
START = "0"


class Change(Protocol):
    """One entry of the collection's change log."""

    @property
    def position(self) -> str:
        """Where it stands in the log."""
        ...

    @property
    def id(self) -> str:
        """The document's."""
        ...

    @property
    def data(self) -> str | None:
        """The document as JSON text; None where it was deleted."""
        ...


class Collections(Protocol):
    """What is followed; the documents' engine is one."""

    async def collection(self, tenant_id: int, name: str) -> Any | None:
        """The collection of that name now."""
        ...

    async def last_change(self, tenant_id: int, collection: Any) -> str:
        """The position behind the newest change."""
        ...

    async def changes(
        self, tenant_id: int, collection: Any, after: str, limit: int
    ) -> Sequence[Any]:
        """Changes beyond a position. Raises Gone where the log can't go on from it."""
        ...

    def watch(self, tenant_id: int, collection: Any) -> AbstractContextManager[asyncio.Event]:
        """An event that is set after each commit that may have changed the collection."""
        ...


class Followers:
    """The tasks, one for each index that has a source."""

    def __init__(
        self, engine: SearchEngine, embedder: Embedder, collections: Collections, clock: Clock
    ) -> None:
        self._engine = engine
        self._embedder = embedder
        self._collections = collections
        self._clock = clock
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._look = asyncio.Event()
        self._moved = asyncio.Event()

    def look(self) -> None:
        """An index was defined or deleted."""
        self._look.set()

    async def run(self) -> None:
        """Keep a task for each index; until cancelled."""
        try:
            while True:
                self._look.clear()
                wanted = {index.number: (t, index) for t, index in await self._engine.following()}
                for number in self._tasks.keys() - wanted.keys():
                    self._tasks.pop(number).cancel()
                for number, (tenant_id, index) in wanted.items():
                    task = self._tasks.get(number)
                    if task is None or task.done():
                        work = self._follow_forever(tenant_id, index.name, number)
                        self._tasks[number] = asyncio.create_task(work)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._look.wait(), 60.0)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def caught_up(self, tenant_id: int, index: Index) -> None:
        """Wait until the index has seen what is committed now, two seconds at most."""
        assert index.source is not None
        collection = await self._collections.collection(tenant_id, index.source.collection)
        if collection is None:
            return
        target = await self._collections.last_change(tenant_id, collection)
        with suppress(TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_WAIT_S):
                while True:
                    self._moved.clear()
                    now = await self._engine.index(tenant_id, index.name)
                    if now is None or now.source is None:
                        return
                    if now.position is not None and _is_beyond(now.position, target):
                        return
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._moved.wait(), 0.1)

    async def _follow_forever(self, tenant_id: int, name: str, number: int) -> None:
        while True:
            try:
                index = await self._engine.index(tenant_id, name)
                if index is None or index.number != number or index.source is None:
                    return
                await self._follow(tenant_id, index, index.source)
            except Exception:
                log.exception("index %s couldn't follow its collection; it tries again", name)
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _follow(self, tenant_id: int, index: Index, source: Source) -> None:
        """Follow until the collection or the index is gone."""
        collection = await self._collections.collection(tenant_id, source.collection)
        if collection is None:
            return
        position = index.position or START
        with self._collections.watch(tenant_id, collection) as changed:
            while True:
                changed.clear()
                try:
                    found = await self._collections.changes(
                        tenant_id, collection, position, CHANGES_AT_ONCE
                    )
                except (Gone, ValueError):
                    await self._empty(tenant_id, index)
                    return
                if found:
                    if not await self._apply(tenant_id, index, source, found):
                        return
                    position = found[-1].position
                if len(found) < CHANGES_AT_ONCE:
                    current = await self._collections.collection(tenant_id, source.collection)
                    if current is None or current.number != collection.number:
                        await self._empty(tenant_id, index)
                        return
                    await changed.wait()

    async def _apply(
        self, tenant_id: int, index: Index, source: Source, changes: Sequence[Change]
    ) -> bool:
        # Of several changes of one document only the last is seen.
        last = {change.id: change for change in changes}
        texts, removed = {}, []
        for change in last.values():
            data = None if change.data is None else msgspec.json.decode(change.data)
            text = "" if data is None else _text(data, source)
            if text.strip():
                texts[change.id] = text, _metadata(data, source)
            else:
                removed.append(change.id)
        embedded = await self._embedder.passages(index.model, [text for text, _ in texts.values()])
        made = zip(
            texts.items(), embedded.vectors, embedded.tokens, embedded.truncated, strict=True
        )
        entries = [
            Entry(document_id, text, metadata, vector, tokens, truncated)
            for (document_id, (text, metadata)), vector, tokens, truncated in made
        ]
        return await self._commit(tenant_id, index, entries, removed, changes[-1].position)

    async def _empty(self, tenant_id: int, index: Index) -> None:
        await self._commit(tenant_id, index, [], [], None)

    async def _commit(
        self,
        tenant_id: int,
        index: Index,
        entries: Sequence[Entry],
        removed: Sequence[str],
        position: str | None,
    ) -> bool:
        now_ms = self._clock.now_ms()
        is_there = await self._engine.follow(
            tenant_id, index.number, entries, removed, position, now_ms
        )
        self._moved.set()
        return is_there


def _is_beyond(position: str, target: str) -> bool:
    """Whether a position is the target or beyond it; they are numbers on either engine."""
    if position.isdigit() and target.isdigit():
        return int(position) >= int(target)
    return position == target


def _value(data: Any, path: str) -> Any:
    for step in path.split("."):
        if not isinstance(data, dict) or step not in data:
            return None
        data = data[step]
    return data


def _text(data: Any, source: Source) -> str:
    """The named fields' texts, a line each; lists of texts are joined."""
    parts = []
    for path in source.text:
        value = _value(data, path)
        if isinstance(value, list):
            value = " ".join(one for one in value if isinstance(one, str))
        if isinstance(value, str) and value:
            parts.append(value)
    return "\n".join(parts)


def _metadata(data: Any, source: Source) -> str:
    """The named fields, under their paths' own shape."""
    shown: dict[str, Any] = {}
    for path in source.metadata:
        value = _value(data, path)
        if value is None:
            continue
        *outer, last = path.split(".")
        place = shown
        for step in outer:
            place = place.setdefault(step, {})
        place[last] = value
    return msgspec.json.encode(shown).decode()
