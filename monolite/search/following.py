"""Indexes that follow a collection: each change of it, in order, once.

    waiting ──► filling ──► live ──► filling …        live: it has seen every change
       ▲           │          │
       └── empty ◄─┴──────────┘    the collection went, or its log can't go on

    changes beyond the position ─► texts ─► vectors ─► one commit: rows and position

A task for each such index, on one server at a time. It begins at the earliest known change, which
leads to every document that lives. A position names the collection by its number, so another
collection of that name is never taken for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from monolite.clock import Clock
from monolite.embedder import Embedder
from monolite.errors import Gone
from monolite.search.engine import SearchEngine
from monolite.search.entries import Draft, entries_of
from monolite.search.index import Index
from monolite.search.source import metadata_of, text_of

log = logging.getLogger("monolite.search")

CHANGES_AT_ONCE = 64
FILLING_FROM = 8
"""After so many full pages of changes a search no longer waits for the rest."""

CAUGHT_UP_WAIT_S = 2.0
LOOK_AGAIN_S = 1.0
_INDEXES_AGAIN_S = 60.0
_START = "0"


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
    """What is followed; the documents' engine is one. A collection has a `number`, never used
    again.
    """

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


@dataclass(frozen=True, slots=True)
class Following:
    """How an index stands to its source; `progress` is the part of the log it has seen."""

    state: Literal["waiting", "filling", "live", "failing"]
    progress: float | None = None
    detail: str | None = None


@dataclass(slots=True)
class _Follower:
    task: asyncio.Task[None] | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    begun_at: int | None = None
    full_pages: int = 0
    failure: str | None = None


class Followers:
    """The tasks, one for each index that has a source."""

    def __init__(
        self, engine: SearchEngine, embedder: Embedder, collections: Collections, clock: Clock
    ) -> None:
        self._engine = engine
        self._embedder = embedder
        self._collections = collections
        self._clock = clock
        self._followers: dict[int, _Follower] = {}
        self._look = asyncio.Event()
        self._moved = asyncio.Event()
        self.changes_total = 0
        engine.on_news(self.look)

    def look(self) -> None:
        """An index was defined or deleted."""
        self._look.set()

    async def run(self) -> None:
        """Keep a task for each index while no other server does; until cancelled."""
        while True:
            try:
                async with self._engine.following_alone() as lost:
                    await self._keep_followers(lost)
            except Exception:
                log.exception("indexes can't be followed; it is tried again")
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _keep_followers(self, lost: asyncio.Event) -> None:
        followers = self._followers
        try:
            while not lost.is_set():
                self._look.clear()
                wanted = {index.number: (t, index) for t, index in await self._engine.following()}
                for number in followers.keys() - wanted.keys():
                    gone = followers.pop(number).task
                    if gone is not None:
                        gone.cancel()
                for number, (tenant_id, index) in wanted.items():
                    known = followers.get(number)
                    if known is None or known.task is None or known.task.done():
                        follower = followers[number] = _Follower()
                        work = self._follow_forever(tenant_id, index.name, number, follower)
                        follower.task = asyncio.create_task(work)
                look = asyncio.create_task(self._look.wait())
                end = asyncio.create_task(lost.wait())
                await asyncio.wait(
                    (look, end), timeout=_INDEXES_AGAIN_S, return_when=asyncio.FIRST_COMPLETED
                )
                look.cancel()
                end.cancel()
        finally:
            tasks = [one.task for one in followers.values() if one.task is not None]
            followers.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ── Asked by a search ──────────────────────────────────────────────────────────────────────

    async def caught_up(self, tenant_id: int, index: Index) -> None:
        """Wait until the index has seen what is committed now: two seconds at most, and not at all
        while it is filled.
        """
        until = asyncio.get_running_loop().time() + CAUGHT_UP_WAIT_S
        while (await self._behind(tenant_id, index)) is not None:
            follower = self._followers.get(index.number)
            if follower is not None and follower.full_pages >= FILLING_FROM:
                return
            if follower is not None and follower.failure is None:
                # The collection may have come since it was looked for.
                follower.wake.set()
            left = until - asyncio.get_running_loop().time()
            if left <= 0:
                return
            self._moved.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), min(left, 0.05))
            now = await self._engine.index(tenant_id, index.name)
            if now is None or now.source is None:
                return
            index = now

    async def state(self, tenant_id: int, index: Index) -> Following:
        """How an index stands to its source."""
        assert index.source is not None
        follower = self._followers.get(index.number)
        if follower is not None and follower.failure is not None:
            return Following("failing", None, follower.failure)
        collection = await self._collections.collection(tenant_id, index.source.collection)
        if collection is None:
            return Following("waiting", None, f"there is no collection {index.source.collection}")
        behind = await self._behind(tenant_id, index)
        if behind is None:
            return Following("live", 1.0)
        progress = None
        if follower is not None and follower.begun_at is not None:
            newest = _ordinal(await self._collections.last_change(tenant_id, collection))
            reached = _ordinal(behind) - follower.begun_at
            progress = max(0.0, min(1.0, reached / max(1, newest - follower.begun_at)))
        return Following("filling", progress)

    async def _behind(self, tenant_id: int, index: Index) -> str | None:
        """The first change that the index has not seen; None where it has seen them all."""
        assert index.source is not None
        collection = await self._collections.collection(tenant_id, index.source.collection)
        if collection is None:
            return None if index.position is None else _START
        try:
            after = _place(index, collection) or _START
            found = await self._collections.changes(tenant_id, collection, after, 1)
        except (Gone, ValueError):
            return _START
        return found[0].position if found else None

    # ── The task of one index ──────────────────────────────────────────────────────────────────

    async def _follow_forever(
        self, tenant_id: int, name: str, number: int, follower: _Follower
    ) -> None:
        while True:
            follower.wake.clear()
            try:
                index = await self._engine.index(tenant_id, name)
                if index is None or index.number != number:
                    return
                await self._follow(tenant_id, index, follower)
            except Exception as error:
                log.exception("index %s couldn't follow its collection; it tries again", name)
                follower.failure = f"{type(error).__name__}: {error}"
            with suppress(TimeoutError):
                await asyncio.wait_for(follower.wake.wait(), LOOK_AGAIN_S)

    async def _follow(self, tenant_id: int, index: Index, follower: _Follower) -> None:
        """Follow until the collection or the index is gone, or somebody else moved it on."""
        source = index.source
        assert source is not None
        collection = await self._collections.collection(tenant_id, source.collection)
        if collection is None or _place(index, collection) is None:
            if index.position is not None:
                await self._empty(tenant_id, index)
                return
            if collection is None:
                return
        with self._collections.watch(tenant_id, collection) as changed:
            while True:
                changed.clear()
                after = _place(index, collection) or _START
                try:
                    found = await self._collections.changes(
                        tenant_id, collection, after, CHANGES_AT_ONCE
                    )
                except (Gone, ValueError):
                    await self._empty(tenant_id, index)
                    return
                is_full = len(found) == CHANGES_AT_ONCE
                follower.full_pages = follower.full_pages + 1 if is_full else 0
                if found:
                    if follower.begun_at is None:
                        follower.begun_at = _ordinal(found[0].position)
                    position = f"{collection.number}/{found[-1].position}"
                    if not await self._apply(tenant_id, index, found, position):
                        return
                    index = msgspec.structs.replace(index, position=position)
                if not is_full:
                    follower.failure = None
                    now = await self._collections.collection(tenant_id, source.collection)
                    if now is None or now.number != collection.number:
                        await self._empty(tenant_id, index)
                        return
                    await changed.wait()

    async def _apply(
        self, tenant_id: int, index: Index, changes: Sequence[Change], position: str
    ) -> bool:
        assert index.source is not None
        # Of several changes of one document only the last is seen.
        last = {change.id: change for change in changes}
        drafts, removed = [], []
        for change in last.values():
            data = None if change.data is None else msgspec.json.decode(change.data)
            text = "" if data is None else text_of(data, index.source)
            if text.strip():
                drafts.append(Draft(change.id, text, metadata_of(data, index.source)))
            else:
                removed.append(change.id)
        entries = await entries_of(self._embedder, index.model, drafts)
        done = await self._engine.follow(
            tenant_id, index, entries, removed, position, self._clock.now_ms()
        )
        self.changes_total += len(changes)
        self._moved.set()
        return done

    async def _empty(self, tenant_id: int, index: Index) -> None:
        await self._engine.empty(tenant_id, index, self._clock.now_ms())
        self._moved.set()
        self._look.set()


def _place(index: Index, collection: Any) -> str | None:
    """Where in this collection's log an index is; None where that is nowhere."""
    if index.position is None:
        return None
    number, _, place = index.position.partition("/")
    return place if number == str(collection.number) else None


def _ordinal(position: str) -> int:
    """A position's leading number."""
    number = position.partition("-")[0]
    return int(number) if number.isdigit() else 0
