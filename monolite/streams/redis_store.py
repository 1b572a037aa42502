"""What the two Redis engines share: the connection, who waits, and appends that are joined."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from monolite.errors import Conflict, NotFound
from monolite.storage.errors import StorageUnavailable
from monolite.streams.event import DeliveredRun, NewEvent, Run
from monolite.streams.event_id import EventId
from monolite.streams.redis_connection import Argument, Command, RedisConnection, script
from monolite.streams.tokens import Tokens
from monolite.streams.waiting import Key, Place, Waiting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from monolite.streams.redis_news import RedisNews

JOINED_COUNT_MAX = 1024
JOINED_BYTES_MAX = 256 * 1024
NO_STREAM = "There is no such stream."
NO_GROUP = "There is no such group, or no such stream."

Ids = list[tuple[EventId, int]]


class Joined:
    """Appends to one stream that are sent together."""

    __slots__ = ("counts", "futures", "pieces", "size")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.counts: list[int] = []
        self.futures: list[asyncio.Future[Ids]] = []
        self.size = 0


class RedisStore:
    """Streams in one Redis or Valkey.

    `times` gives the wall time (ms) and the steady time (µs), as two texts; empty ones let Redis's
    own clock count, which is one for all servers. `news` is None where no other server is heard.
    """

    def __init__(
        self,
        connection: RedisConnection,
        waiting: Waiting,
        news: RedisNews | None,
        *,
        server: str = "",
        times: Callable[[], tuple[str, str]] = lambda: ("", ""),
    ) -> None:
        self.connection = connection
        self.waiting = waiting
        self.server = server
        self.times = times
        self.appended_count = 0
        self.dead_count = 0
        self._news = news
        self._gathering: dict[Key, Joined] = {}
        self._loop = asyncio.get_running_loop()

    def call(self, verb: str, tenant_id: int, stream: str, *arguments: Argument) -> Awaitable[Any]:
        """A Lua verb for a stream."""
        return self.connection.run(verb, tenant_id, stream, *arguments)

    async def existing(
        self, verb: str, tenant_id: int, stream: str, group: str, *arguments: Argument
    ) -> Any:
        """A Lua verb for a group; NotFound where there is none."""
        reply = await self.connection.run(verb, tenant_id, stream, group, *arguments)
        if reply is None:
            raise NotFound(NO_GROUP)
        return reply

    # ── Waiting ────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def follow(self, key: Key) -> Iterator[asyncio.Event]:
        """An event that is set with each append, by whichever server."""
        with self.waiting.follow(key) as event:
            if self._news is None:
                yield event
                return
            with self._news.wanted(key):
                yield event

    @contextmanager
    def stand(self, key: Key, group: str) -> Iterator[Place]:
        """A place in a group's line."""
        with self.waiting.stand(key, group) as place:
            if self._news is None:
                yield place
                return
            with self._news.wanted(key):
                yield place

    # ── Appends ────────────────────────────────────────────────────────────────────────────────

    async def append(
        self,
        tenant_id: int,
        stream: str,
        events: Sequence[NewEvent],
        *how: Argument,
    ) -> Any:
        """Append under ids that may be wished; `how` is once, maxlen, minid and approximate."""
        wishes: list[str] = []
        if any(event.wish is not None for event in events):
            wishes = [_wish(event) for event in events]
        reply = await self.call(
            "append",
            tenant_id,
            stream,
            self.server,
            *self.times(),
            *how,
            len(events),
            *[event.piece for event in events],
            *wishes,
        )
        if isinstance(reply, bytes):
            self.appended((tenant_id, stream), len(events))
        return reply

    def appended(self, key: Key, count: int) -> None:
        """There are new events, by this server."""
        self.appended_count += count
        self.waiting.appended(key)

    def append_joined(
        self, tenant_id: int, stream: str, events: Sequence[NewEvent]
    ) -> Awaitable[Ids]:
        """Append events without ids of their own, together with what else is sent next."""
        key = (tenant_id, stream)
        size = sum([len(event.piece) for event in events])
        joined = self._gathering.get(key)
        if (
            joined is None
            or len(joined.pieces) + len(events) > JOINED_COUNT_MAX
            or joined.size + size > JOINED_BYTES_MAX
        ):
            joined = Joined()
            self._begin(key, joined)
            self._gathering[key] = joined
        joined.pieces += [event.piece for event in events]
        joined.counts.append(len(events))
        joined.size += size
        future: asyncio.Future[Ids] = self._loop.create_future()
        joined.futures.append(future)
        return future

    def _begin(self, key: Key, joined: Joined) -> None:
        def command() -> Command:
            if self._gathering.get(key) is joined:
                del self._gathering[key]
            head: list[Argument] = ["EVALSHA", script()[1], 0, "append", *key, self.server]
            return [*head, *self.times(), "", "", "", 0, len(joined.pieces), *joined.pieces]

        def settle(sent: asyncio.Future[Any]) -> None:
            if self._gathering.get(key) is joined:
                del self._gathering[key]
            error = None if sent.cancelled() else sent.exception()
            reply = None if error is not None or sent.cancelled() else sent.result()
            self._settle(key, joined, reply, error)

        self.connection.send(command).add_done_callback(settle)

    def _settle(self, key: Key, joined: Joined, reply: Any, error: BaseException | None) -> None:
        if error is None and isinstance(reply, list):
            error = refused(reply)
        if error is not None or reply is None:
            for future in joined.futures:
                if not future.done():
                    future.set_exception(error or StorageUnavailable("the server is stopping"))
            return
        self.appended(key, len(joined.pieces))
        runs = ids_of(reply)
        for future, count in zip(joined.futures, joined.counts, strict=True):
            taken, runs = _take(runs, count)
            if not future.done():
                future.set_result(taken)


def marks(tokens: Tokens, ids: Sequence[EventId] = ()) -> list[Argument]:
    """Tokens and ids as the Lua verbs take them: a fence, how many places, the places."""
    found: list[Argument] = []
    for fence, places in tokens.items():
        distinct = dict.fromkeys(map(str, places))
        found += [fence, len(distinct), *distinct]
    if ids:
        distinct = dict.fromkeys(map(str, ids))
        found += ["ids", len(distinct), *distinct]
    return found


def event_id(text: bytes) -> EventId:
    """An id as Redis gives it."""
    ms, _, n = text.partition(b"-")
    return EventId(int(ms), int(n))


def texts(joined: bytes) -> list[str]:
    """A list that Lua joined by commas."""
    return joined.decode().split(",") if joined else []


def ids_of(reply: bytes) -> Ids:
    """Ids, joined by commas, as runs."""
    ids = reply.split(b",")
    first, last = event_id(ids[0]), event_id(ids[-1])
    if first.ms == last.ms and last.n - first.n == len(ids) - 1:
        return [(first, len(ids))]
    runs: Ids = []
    for id in map(event_id, ids):
        if runs and _follows(runs[-1], id):
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((id, 1))
    return runs


def refused(reply: Sequence[Any]) -> Conflict:
    """Why an append was not made."""
    why, at, last = reply
    if why == b"full":
        return Conflict(
            "The stream has no greater id left: go on in a new one.", code="stream_full"
        )
    return Conflict(
        f"Event {at - 1}: its id is not greater than {last.decode()}, the id before it. Ids of a"
        " stream only grow; leave the id out to have one made.",
        code="id_not_increasing",
    )


def runs_of(ids: bytes, body: bytes, *, singly: bool = False) -> list[Run]:
    """Events as runs, or each by itself."""
    if not ids:
        return []
    pieces = body.split(b"\n")
    if singly:
        known = map(event_id, ids.split(b","))
        return [Run(*id, [piece]) for id, piece in zip(known, pieces, strict=True)]
    runs = []
    at = 0
    for first, count in ids_of(ids):
        runs.append(Run(*first, pieces[at : at + count]))
        at += count
    return runs


def delivered_again(
    ids: bytes, counts: bytes, pieces: Sequence[bytes], fence: int
) -> list[DeliveredRun]:
    """What was delivered before, run by run of the same count."""
    runs: list[DeliveredRun] = []
    if not ids:
        return runs
    for text, count, piece in zip(ids.split(b","), counts.split(b","), pieces, strict=True):
        id, delivery = event_id(text), int(count)
        last = runs[-1] if runs else None
        if last is not None and last.delivery == delivery and _is_next(last, id):
            runs[-1] = DeliveredRun(last.ms, last.n, [*last.pieces, piece], delivery, fence, None)
        else:
            runs.append(DeliveredRun(*id, [piece], delivery, fence, None))
    return runs


def _is_next(run: Run, id: EventId) -> bool:
    return id.ms == run.ms and id.n == run.n + len(run.pieces)


def _follows(run: tuple[EventId, int], id: EventId) -> bool:
    return id.ms == run[0].ms and id.n == run[0].n + run[1]


def _take(runs: Ids, count: int) -> tuple[Ids, Ids]:
    """The first `count` ids of runs, and the rest."""
    taken: Ids = []
    while count:
        (first, length), *rest = runs
        part = min(count, length)
        taken.append((first, part))
        count -= part
        runs = rest
        if part < length:
            runs = [(EventId(first.ms, first.n + part), length - part), *rest]
    return taken, runs


def _wish(event: NewEvent) -> str:
    if event.wish is None:
        return ""
    ms, n = event.wish
    return f"{ms}-{'*' if n is None else n}"
