"""The rules of streams as logs: appending, reading, following, trimming."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from monolite.errors import FieldError, Invalid, NotFound
from monolite.streams import event_id
from monolite.streams.engine import Also, Ids, StreamEngine
from monolite.streams.event import NewEvent, Run
from monolite.streams.event_id import LAST, ZERO, EventId
from monolite.streams.stream import (
    NEWS_SUFFIX,
    Retention,
    Stream,
    Trim,
    dead_letters_of,
    is_system,
)

FOLLOWED_AT_ONCE = 100
NO_STREAM = "There is no such stream."


class Streams:
    """Streams of every tenant. `deleted` is told of each that was deleted."""

    def __init__(self, engine: StreamEngine) -> None:
        self._engine = engine
        self.deleted: list[Callable[[int, str], Awaitable[None]]] = []

    def append(
        self,
        tenant_id: int,
        stream: str,
        events: Sequence[NewEvent],
        trim: Trim | None = None,
        also: Also = None,
        once: str | None = None,
    ) -> Awaitable[Ids]:
        """Append events, all or none; raises as the engine's verb does."""
        return self._engine.append(tenant_id, stream, events, trim=trim, also=also, once=once)

    async def events(
        self,
        tenant_id: int,
        stream: str,
        after: EventId | None,
        until: EventId | None,
        count: int,
        *,
        backwards: bool = False,
    ) -> tuple[Sequence[Run], EventId | None]:
        """Events beyond `after`, up to `until`, in order or backwards, and where a next page goes
        on, None on the last. NotFound where there is no stream.
        """
        low, high = (until, after) if backwards else (after, until)
        first, last = low or ZERO, high or LAST
        if after is not None:
            if backwards:
                last = _before(after)
            else:
                first = _behind(after)
        runs = await self._range(tenant_id, stream, first, last, count + 1, backwards=backwards)
        taken: list[Run] = []
        left = count
        for run in runs:
            if left <= 0:
                return taken, taken[-1].last
            part = Run(run.ms, run.n, run.pieces[:left])
            left -= len(part.pieces)
            taken.append(part)
            if len(part.pieces) < len(run.pieces):
                return taken, part.last
        if not taken or left <= 0:
            return taken, None
        reached = taken[-1].last
        # A page of large events ends early.
        rest = (first, _before(reached)) if backwards else (_behind(reached), last)
        more = await self._range(tenant_id, stream, *rest, 1, backwards=backwards)
        return taken, reached if more else None

    async def _range(
        self,
        tenant_id: int,
        stream: str,
        first: EventId,
        last: EventId,
        count: int,
        *,
        backwards: bool,
    ) -> Sequence[Run]:
        runs = await self._engine.range(tenant_id, stream, first, last, count, backwards=backwards)
        if runs is None:
            raise NotFound(NO_STREAM)
        return runs

    async def follow(
        self, tenant_id: int, stream: str, after: EventId | None
    ) -> AsyncGenerator[Run, None]:
        """The events behind an id, then each new one as it is appended; from now on where `after`
        is None. NotFound where there is no stream; ends when it is deleted.
        """
        shown = await self.stream(tenant_id, stream)
        return self._followed(tenant_id, stream, shown.last_id if after is None else after)

    async def _followed(
        self, tenant_id: int, stream: str, position: EventId
    ) -> AsyncGenerator[Run, None]:
        with self._engine.watch(tenant_id, stream) as appended:
            while True:
                appended.clear()
                runs = await self._engine.range(
                    tenant_id, stream, _behind(position), LAST, FOLLOWED_AT_ONCE
                )
                if runs is None:
                    return
                for run in runs:
                    yield run
                    position = run.last
                if not runs:
                    await appended.wait()

    async def stream(self, tenant_id: int, name: str) -> Stream:
        """One stream; NotFound where there is none."""
        found = await self._engine.stream(tenant_id, name)
        if found is None:
            raise NotFound(NO_STREAM)
        return found

    async def streams(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Stream]:
        """Streams by name."""
        return await self._engine.streams(tenant_id, after, limit)

    async def configure(
        self, tenant_id: int, name: str, retention: Retention
    ) -> tuple[Stream, bool]:
        """Set what is kept of a stream, or make it."""
        return await self._engine.configure(tenant_id, name, retention)

    async def trim(self, tenant_id: int, name: str, trim: Trim) -> int:
        """Drop the oldest events; returns how many."""
        return await self._engine.trim(tenant_id, name, trim)

    async def delete(self, tenant_id: int, name: str) -> None:
        """Remove a stream, its groups and its dead letters; NotFound where there is none."""
        existed = await self._engine.delete_stream(tenant_id, name)
        if not is_system(name):
            for each in (dead_letters_of(name), name + NEWS_SUFFIX):
                await self._engine.delete_stream(tenant_id, str(each))
            for tell in self.deleted:
                await tell(tenant_id, name)
        if not existed:
            raise NotFound(NO_STREAM)


def event_id_at(text: str, pointer: str, *, n: int = 0) -> EventId:
    """An id as a caller gives one, or its milliseconds alone with `n` for the rest; raises Invalid
    at `pointer`.
    """
    try:
        return event_id.parse(text, n=n)
    except ValueError:
        why = "not an event id; they are like 1763871234567-0"
        raise Invalid(f"{pointer}: {why}", [FieldError(pointer, why)]) from None


def position(text: str | None, pointer: str) -> EventId | None:
    """An id, or None for the end of the stream: `$`, or nothing given."""
    return None if text is None or text == "$" else event_id_at(text, pointer)


def _behind(id: EventId) -> EventId:
    return LAST if id == LAST else event_id.after(id)


def _before(id: EventId) -> EventId:
    if id.n > 0:
        return EventId(id.ms, id.n - 1)
    return EventId(id.ms - 1, event_id.PART_MAX) if id.ms else ZERO
