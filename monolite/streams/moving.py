"""All streams from SQLite to Redis, and back, with what their groups hold.

Nobody serves meanwhile. Streams are copied one by one, read again and compared; which store counts
changes in one commit when all of them are there, and only then the old ones go. A move that was cut
off begins anew: until that commit nothing of the old store has changed.

Places keep their numbers and deliveries their fences, so a token that a consumer has at the time of
the move still acknowledges its event afterwards.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import apsw

from monolite.storage.sqlite.writer import Writer
from monolite.streams import sqlite_leases as leases
from monolite.streams import sqlite_segments as segments
from monolite.streams.event import Run
from monolite.streams.event_id import LAST, ZERO, EventId, after
from monolite.streams.redis import RedisStreamEngine
from monolite.streams.redis_archive import letter_bytes
from monolite.streams.redis_groups import RedisGroupEngine, unburied
from monolite.streams.redis_store import RedisStore, event_id
from monolite.streams.sqlite_leases import Held
from monolite.streams.sqlite_state import (
    SEQ_MAX,
    GroupState,
    StreamState,
    free_number,
    load,
)
from monolite.streams.stream import Retention

AT_ONCE = 500
TOLD_EVERY = 100_000
NUMBERS_KEPT_MS = 30 * 86_400_000
"""How long the tokens that SQLite gave out find their events in Redis."""

Say = Callable[[str], None]

_NAMES = "SELECT tenant_id, name FROM streams WHERE deleted_at IS NULL ORDER BY tenant_id, name"
_CONSUMERS = "SELECT id, name, seen_at, active_at FROM stream_consumers WHERE group_id = ?"
_DEAD = (
    "SELECT seq, ms, n, event, deliveries, reason, consumer, dead_at FROM stream_dead_letters"
    " WHERE tenant_id = ? AND group_id = ? ORDER BY seq"
)
_HIDE = "UPDATE streams SET deleted_at = ? WHERE tenant_id = ? AND name = ? AND deleted_at IS NULL"
_MAKE = (
    "INSERT INTO streams (id, tenant_id, name, first_seq, last_seq, last_ms, last_n, max_length,"
    " max_age_ms, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_MAKE_GROUP = (
    "INSERT INTO stream_groups (id, tenant_id, stream_id, name, position, position_ms, position_n,"
    " fence, pending, max_deliveries, claim_idle_ms, max_pending, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, ?)"
)
_MAKE_CONSUMER = (
    "INSERT INTO stream_consumers (tenant_id, group_id, name, seen_at, active_at)"
    " VALUES (?, ?, ?, ?, ?) RETURNING id"
)
_BURY = (
    "INSERT INTO stream_dead_letters (tenant_id, group_id, seq, ms, n, event, deliveries, reason,"
    " consumer, dead_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_SETTLE = (
    "INSERT INTO installation (name, value) VALUES ('streams_in', ?)"
    " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)


class NotMoved(Exception):
    """What was copied is not what was there; the old store still counts."""


class Counts(NamedTuple):
    """What was moved."""

    streams: int = 0
    events: int = 0
    groups: int = 0
    pending: int = 0
    dead: int = 0

    def __add__(self, other: tuple[int, ...]) -> Counts:  # type: ignore[override]
        return Counts(*(one + more for one, more in zip(self, other, strict=True)))


class _Digest:
    """Events with their ids, as they pass."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0

    def add(self, run: Run) -> None:
        for at, piece in enumerate(run.pieces):
            self._hash.update(b"%d-%d %d " % (run.ms, run.n + at, len(piece)))
            self._hash.update(piece)
        self.count += len(run.pieces)

    def value(self) -> tuple[int, str]:
        return self.count, self._hash.hexdigest()


class Mover:
    """One installation's streams between its two stores."""

    def __init__(self, writer: Writer, store: RedisStore, now_ms: int, say: Say) -> None:
        self._writer = writer
        self._store = store
        self._log = RedisStreamEngine(store)
        self._groups = RedisGroupEngine(store)
        self._now_ms = now_ms
        self._say = say

    # ── To Redis ───────────────────────────────────────────────────────────────────────────────

    async def to_redis(self) -> Counts:
        """Move all; raises NotMoved, StorageError."""
        await self.empty_redis()
        names: list[Any] = await self._read(lambda c: c.execute(_NAMES).fetchall())
        moved = Counts()
        for tenant, name in names:
            moved += await self._stream_to_redis(tenant, name)

        def settle(connection: apsw.Connection) -> None:
            connection.execute("UPDATE streams SET deleted_at = ?", (self._now_ms,))
            connection.execute(_SETTLE, ("redis",))

        await self._writer.submit(settle)
        return moved

    async def empty_redis(self) -> None:
        """Remove every stream from Redis."""
        for tenant, name in await self._redis_names():
            await self._store.call("delete_stream", tenant, name, "")

    async def _stream_to_redis(self, tenant: int, name: str) -> Counts:
        state = await self._read(lambda c: load(c, tenant, name))
        assert state is not None  # nobody else writes
        bounds = ["" if most is None else most for most in state.retention]
        await self._done(
            *("restore_stream", tenant, name, *state.last_id, *bounds, state.created_at),
            state.first - 1,
        )
        digest = _Digest()
        async for pieces in self._segments(state):
            for piece in pieces:
                run = Run(piece.ms, piece.n, piece.pieces)
                await self._done("restore_events", tenant, name, run.ms, run.n, *run.pieces)
                digest.add(run)
                self._tell(name, digest.count, len(run.pieces), state.length)
        if (await self._redis_digest(tenant, name)).value() != digest.value():
            raise NotMoved(f"the events of {name} are not the same in Redis")
        moved = Counts(1, digest.count)
        for group in state.groups.values():
            moved += await self._group_to_redis(state, group)
        self._say(f"{name} of tenant {tenant}: {_told(moved)}")
        return moved

    async def _group_to_redis(self, state: StreamState, group: GroupState) -> Counts:
        place = (state.tenant_id, state.name, group.name)
        await self._done(
            *("restore_group", *place, str(group.position_id), *group.settings),
            *(group.created_at, group.fence),
        )
        known: list[Any] = await self._read(
            lambda c: c.execute(_CONSUMERS, (group.number,)).fetchall()
        )
        for _, consumer, seen_at, active_at in known:
            seen = f"{seen_at} {active_at}" if active_at else str(seen_at)
            await self._done("restore_consumer", *place, consumer, seen)
        names = {number: consumer for number, consumer, _, _ in known}
        pending = await self._pending_to_redis(state, group, names)
        letters: list[Any] = await self._read(
            lambda c: c.execute(_DEAD, (state.tenant_id, group.number)).fetchall()
        )
        for seq, ms, n, event, deliveries, reason, consumer, dead_at in letters:
            letter = letter_bytes(dead_at, reason, deliveries, consumer, event, seq)
            await self._done("restore_dead", *place, f"{ms}-{n}", letter)
        shown = await self._groups.group(*place)
        if shown is None or (shown.pending, shown.dead) != (pending, len(letters)):
            raise NotMoved(f"what {group.name} of {state.name} holds is not the same in Redis")
        if shown.lag != state.last - max(group.position, state.first - 1):
            raise NotMoved(f"the position of {group.name} of {state.name} is not the same in Redis")
        return Counts(groups=1, pending=pending, dead=len(letters))

    async def _pending_to_redis(
        self, state: StreamState, group: GroupState, names: dict[int, str]
    ) -> int:
        place = (state.tenant_id, state.name, group.name)
        held = await self._read(lambda c: list(leases.between(c, group.number, 0, SEQ_MAX)))
        count = 0
        for lease in held:
            seqs = [seq for seq in lease.places() if seq >= state.first]
            ids = await self._read(partial(_ids, number=state.number, seqs=seqs))
            if not ids:
                continue
            holder = "" if lease.consumer is None else names.get(lease.consumer, "")
            placed = await self._done(
                "restore_pending", *place, holder, lease.at, lease.deliveries, *ids
            )
            if placed != len(ids):
                raise NotMoved(f"Redis took {placed} of {len(ids)} pending events of {group.name}")
            if holder:
                numbers = [part for pair in zip(seqs, ids, strict=True) for part in pair]
                await self._done("restore_numbers", *place, NUMBERS_KEPT_MS, *numbers)
            count += len(ids)
        return count

    async def _segments(self, state: StreamState) -> AsyncIterator[Sequence[segments.Piece]]:
        at = state.first
        while at <= state.last:
            found = await self._read(partial(_pieces, state=state, at=at))
            if not found:
                raise NotMoved(f"{state.name} has no event at place {at}")
            yield found
            at = found[-1].seq + len(found[-1].pieces)

    # ── To SQLite ──────────────────────────────────────────────────────────────────────────────

    async def to_sqlite(self) -> Counts:
        """Move all; raises NotMoved, StorageError. Redis keeps its own until `empty_redis`."""
        moved = Counts()
        # What a move that was cut off left.
        await self._writer.submit(
            lambda c: c.execute("UPDATE streams SET deleted_at = ?", (self._now_ms,)).fetchall()
        )
        for tenant, name in await self._redis_names():
            moved += await self._stream_to_sqlite(tenant, name)
        await self._writer.submit(lambda c: c.execute(_SETTLE, ("embedded",)).fetchall())
        return moved

    async def _stream_to_sqlite(self, tenant: int, name: str) -> Counts:
        shown = await self._log.stream(tenant, name)
        assert shown is not None  # nobody else writes
        (last,) = await self._store.connection.send(
            ("HMGET", f"monolite:{tenant}:{name}:stream", "last")
        )
        first = int(last) - shown.length + 1

        def make(connection: apsw.Connection) -> StreamState:
            number = free_number(connection, "streams")
            connection.execute(
                _MAKE,
                (
                    *(number, tenant, name, first, first - 1, *shown.last_id),
                    *(*shown.retention, shown.created_at),
                ),
            )
            # The id before the first: what follows is greater.
            return StreamState(
                *(tenant, number, name, first, first - 1, ZERO),
                Retention(*shown.retention),
                shown.created_at,
            )

        state = await self._writer.submit(make)
        digest, copied = _Digest(), _Digest()
        async for run in self._runs(tenant, name):
            digest.add(run)
            await self._writer.submit(partial(_restore, state=state, run=run), is_long=True)
            self._tell(name, digest.count, len(run.pieces), shown.length)
        async for pieces in self._segments(state):
            for piece in pieces:
                copied.add(Run(piece.ms, piece.n, piece.pieces))
        if digest.value() != copied.value():
            raise NotMoved(f"the events of {name} are not the same in SQLite")
        moved = Counts(1, digest.count)
        for group in await self._groups.groups(tenant, name) or ():
            moved += await self._group_to_sqlite(state, group.name)
        self._say(f"{name} of tenant {tenant}: {_told(moved)}")
        return moved

    async def _group_to_sqlite(self, state: StreamState, name: str) -> Counts:
        place = (state.tenant_id, state.name, name)
        shown = await self._groups.group(*place)
        consumers = await self._groups.consumers(*place)
        assert shown is not None
        assert consumers is not None
        base = f"monolite:{state.tenant_id}:{state.name}:group:{name}"
        position, fence = await self._store.connection.send(("HMGET", base, "pos", "fence"))

        def make(connection: apsw.Connection) -> tuple[GroupState, dict[str, int]]:
            number = free_number(connection, "stream_groups")
            at, id = int(position), shown.last_delivered_id
            connection.execute(
                _MAKE_GROUP,
                (
                    *(number, state.tenant_id, state.number, name, at, *id, int(fence)),
                    *(*shown.settings, shown.created_at),
                ),
            )
            who = {}
            for one in consumers:
                values = (state.tenant_id, number, one.name, one.seen_at, one.active_at)
                who[one.name] = connection.execute(_MAKE_CONSUMER, values).get
            made = GroupState(number, name, at, id, int(fence), 0, shown.settings, shown.created_at)
            return made, who

        group, who = await self._writer.submit(make)
        await self._pending_to_sqlite(state, group, who)
        dead = await self._dead_to_sqlite(state, group)
        if (group.pending, dead) != (await self._pending_count(place), shown.dead):
            raise NotMoved(f"what {name} of {state.name} holds is not the same in SQLite")
        return Counts(groups=1, pending=group.pending, dead=dead)

    async def _pending_count(self, place: tuple[int, str, str]) -> int:
        """How many events of a group are pending that the stream still has."""
        count, first = 0, ZERO
        while listed := await self._groups.pending(*place, first, LAST, 1000):
            count += len(listed)
            first = after(listed[-1].id)
        return count

    async def _pending_to_sqlite(
        self, state: StreamState, group: GroupState, who: dict[str, int]
    ) -> None:
        behind = str(ZERO)
        while True:
            _, page = await self._store.call(
                "holdings", state.tenant_id, state.name, group.name, behind
            )
            if not page:
                return

            def put(connection: apsw.Connection, page: Sequence[Any] = page) -> None:
                alike: dict[Held, list[int]] = {}
                for text, holder, at, deliveries in page:
                    id = event_id(text)
                    seq = segments.seek(connection, state.number, state.first, state.last, id)
                    if seq <= state.last and segments.id_at(connection, state.number, seq) == id:
                        held = Held(int(at), who.get(holder.decode()), deliveries)
                        alike.setdefault(held, []).append(seq)
                for held, seqs in alike.items():
                    group.pending += leases.put(connection, group.number, seqs, held)
                group.save(connection)

            await self._writer.submit(put, is_long=True)
            behind = page[-1][0].decode()

    async def _dead_to_sqlite(self, state: StreamState, group: GroupState) -> int:
        behind, count = ZERO, 0
        while page := await self._store.call(
            "dead", state.tenant_id, state.name, group.name, str(behind), AT_ONCE
        ):

            def bury(
                connection: apsw.Connection, page: Sequence[Any] = page, count: int = count
            ) -> None:
                for at, (text, stored) in enumerate(page, count + 1):
                    how, event = unburied(stored)
                    # One whose number is not known was trimmed, and lies before all that are there.
                    seq = -at if how.seq is None else how.seq
                    connection.execute(
                        _BURY,
                        (
                            *(state.tenant_id, group.number, seq, *event_id(text), event),
                            *(how.deliveries, how.reason, how.consumer, how.dead_at),
                        ),
                    )

            await self._writer.submit(bury, is_long=True)
            count += len(page)
            behind = event_id(page[-1][0])
        return count

    # ── Both ───────────────────────────────────────────────────────────────────────────────────

    async def _redis_names(self) -> list[tuple[int, str]]:
        listed = await self._store.connection.send(
            ("ZRANGE", "monolite:streams", "-", "+", "BYLEX")
        )
        known = [one.decode().partition("/") for one in listed]
        return [(int(tenant, 16), name) for tenant, _, name in known]

    async def _runs(self, tenant: int, name: str) -> AsyncIterator[Run]:
        first = ZERO
        while runs := await self._log.range(tenant, name, first, LAST, AT_ONCE):
            for run in runs:
                yield run
            if runs[-1].last == LAST:
                return
            first = after(runs[-1].last)

    async def _redis_digest(self, tenant: int, name: str) -> _Digest:
        digest = _Digest()
        async for run in self._runs(tenant, name):
            digest.add(run)
        return digest

    async def _read(self, look: Callable[[apsw.Connection], Any]) -> Any:
        return await self._writer.submit(look, is_long=True)

    async def _done(self, verb: str, tenant: int, stream: str, *arguments: Any) -> Any:
        reply = await self._store.call(verb, tenant, stream, *arguments)
        if reply is None or isinstance(reply, list):
            raise NotMoved(f"Redis did not take {verb.removeprefix('restore_')} of {stream}")
        return reply

    def _tell(self, name: str, count: int, added: int, length: int) -> None:
        if count // TOLD_EVERY > (count - added) // TOLD_EVERY:
            self._say(f"{name}: {count} of {length} events")


def _ids(connection: apsw.Connection, *, number: int, seqs: Sequence[int]) -> list[str]:
    return [str(segments.id_at(connection, number, seq)) for seq in seqs]


def _pieces(
    connection: apsw.Connection, *, state: StreamState, at: int
) -> Sequence[segments.Piece]:
    return segments.read(connection, state.number, at, state.last, AT_ONCE)


def _restore(connection: apsw.Connection, *, state: StreamState, run: Run) -> None:
    segments.restore(connection, state, EventId(run.ms, run.n), run.pieces)


def _told(moved: Counts) -> str:
    return (
        f"{moved.events} events, {moved.groups} groups, {moved.pending} pending, "
        f"{moved.dead} dead letters"
    )
