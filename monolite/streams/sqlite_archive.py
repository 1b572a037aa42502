"""A tenant's streams as records of an export, out of SQLite and into it.

Events keep their ids, groups their positions, and what was pending is to be delivered again: to the
copy nobody holds anything. Webhooks stay behind, since their secrets are sealed here.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import apsw
import msgspec

from monolite.errors import Conflict
from monolite.streams import sqlite_leases as leases
from monolite.streams import sqlite_segments as segments
from monolite.streams.archive import EVENTS_AT_ONCE, KINDS, PENDING_AT_ONCE
from monolite.streams.event_id import EventId, parse
from monolite.streams.group import GroupSettings
from monolite.streams.sqlite_leases import Held
from monolite.streams.sqlite_state import (
    SEQ_MAX,
    GroupState,
    StreamState,
    free_number,
    load,
    load_log,
)

_NAMES = "SELECT name FROM streams WHERE tenant_id = ? AND deleted_at IS NULL ORDER BY name"
_MAKE = (
    "INSERT INTO streams (id, tenant_id, name, first_seq, last_seq, last_ms, last_n, max_length,"
    " max_age_ms, created_at) VALUES (?, ?, ?, 1, 0, ?, ?, ?, ?, ?)"
)
_MAKE_GROUP = (
    "INSERT INTO stream_groups (id, tenant_id, stream_id, name, position, position_ms, position_n,"
    " fence, pending, max_deliveries, claim_idle_ms, max_pending, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?, ?, ?)"
)
_DEAD = (
    "SELECT ms, n, event, deliveries, reason, consumer, dead_at FROM stream_dead_letters"
    " WHERE tenant_id = ? AND group_id = ? ORDER BY seq"
)
_BURY = (
    "INSERT INTO stream_dead_letters (tenant_id, group_id, seq, ms, n, event, deliveries, reason,"
    " consumer, dead_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class SqliteStreamArchive:
    """Streams by name, each with its events and then its groups."""

    kinds = KINDS

    def records(self, connection: apsw.Connection, tenant_id: int) -> Iterator[dict[str, Any]]:
        """Everything, in one snapshot of the reader's connection."""
        names = [name for (name,) in connection.execute(_NAMES, (tenant_id,))]
        for name in names:
            state = load(connection, tenant_id, name)
            assert state is not None  # the same snapshot
            yield {
                "kind": "stream",
                "name": name,
                "last_id": str(state.last_id),
                "max_length": state.retention.max_length,
                "max_age_ms": state.retention.max_age_ms,
                "created_at": state.created_at,
            }
            yield from _events(connection, state)
            for _, group in sorted(state.groups.items()):
                if ":" not in group.name:  # a webhook's
                    yield from _group(connection, state, group)

    def store(self, connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError, TypeError or apsw.Error where it isn't ours."""
        try:
            self._store(connection, tenant_id, record)
        except (ValueError, msgspec.DecodeError, Conflict) as error:
            raise TypeError(str(error)) from None

    @staticmethod
    def _store(connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
        if record["kind"] == "stream":
            _store_stream(connection, tenant_id, record)
            return
        state = load_log(connection, tenant_id, record["stream"])
        if state is None:
            raise KeyError(record["stream"])
        if record["kind"] == "stream_events":
            content = base64.b64decode(record["events"], validate=True)
            first = parse(record["first_id"])
            segments.restore(connection, state, first, content.split(b"\n"))
            return
        if record["kind"] == "stream_group":
            _store_group(connection, state, record)
            return
        whole = load(connection, tenant_id, record["stream"])
        assert whole is not None  # found just now
        group = whole.groups[record["group"]]
        if record["kind"] == "stream_pending":
            seqs = [_place(connection, whole, parse(id)) for id in _ids(record["ids"])]
            held = Held(0, None, int(record["deliveries"]))
            group.pending += leases.put(connection, group.number, seqs, held)
            group.save(connection)
            return
        id = parse(record["id"])
        connection.execute(
            _BURY,
            (
                *(tenant_id, group.number, _place(connection, whole, id), *id),
                base64.b64decode(record["event"], validate=True),
                *(int(record["deliveries"]), record["reason"], record["consumer"]),
                int(record["dead_at"]),
            ),
        )


def _events(connection: apsw.Connection, state: StreamState) -> Iterator[dict[str, Any]]:
    at = state.first
    while at <= state.last:
        found = segments.read(connection, state.number, at, state.last, EVENTS_AT_ONCE)
        if not found:
            return
        for piece in found:
            yield {
                "kind": "stream_events",
                "stream": state.name,
                "first_id": str(EventId(piece.ms, piece.n)),
                "events": b"\n".join(piece.pieces),
            }
            at = piece.seq + len(piece.pieces)


def _group(
    connection: apsw.Connection, state: StreamState, group: GroupState
) -> Iterator[dict[str, Any]]:
    settings = group.settings
    yield {
        "kind": "stream_group",
        "stream": state.name,
        "name": group.name,
        "position": str(group.position_id),
        "max_deliveries": settings.max_deliveries,
        "claim_idle_ms": settings.claim_idle_ms,
        "max_pending": settings.max_pending,
        "created_at": group.created_at,
    }
    for lease in leases.between(connection, group.number, 0, SEQ_MAX):
        places = [place for place in lease.places() if place >= state.first]
        for start in range(0, len(places), PENDING_AT_ONCE):
            part = places[start : start + PENDING_AT_ONCE]
            yield {
                "kind": "stream_pending",
                "stream": state.name,
                "group": group.name,
                "deliveries": lease.deliveries,
                "ids": [str(segments.id_at(connection, state.number, place)) for place in part],
            }
    for ms, n, event, deliveries, reason, consumer, dead_at in connection.execute(
        _DEAD, (state.tenant_id, group.number)
    ):
        yield {
            "kind": "stream_dead_letter",
            "stream": state.name,
            "group": group.name,
            "id": str(EventId(ms, n)),
            "event": event,
            "deliveries": deliveries,
            "reason": reason,
            "consumer": consumer,
            "dead_at": dead_at,
        }


def _store_stream(connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
    last = parse(record["last_id"])
    connection.execute(
        _MAKE,
        (
            *(free_number(connection, "streams"), tenant_id, record["name"], *last),
            *(record["max_length"], record["max_age_ms"], record["created_at"]),
        ),
    )


def _store_group(connection: apsw.Connection, state: StreamState, record: dict[str, Any]) -> None:
    position = parse(record["position"])
    settings = GroupSettings(
        record["max_deliveries"], record["claim_idle_ms"], record["max_pending"]
    )
    place = state.last
    if position < state.last_id:
        place = segments.seek(connection, state.number, state.first, state.last, position)
        if segments.id_at(connection, state.number, place) != position:
            place -= 1
    connection.execute(
        _MAKE_GROUP,
        (
            *(free_number(connection, "stream_groups"), state.tenant_id, state.number),
            *(record["name"], place, *position, *settings, record["created_at"]),
        ),
    )


def _ids(given: bytes) -> list[str]:
    return msgspec.json.decode(given, type=list[str])


def _place(connection: apsw.Connection, state: StreamState, id: EventId) -> int:
    return segments.seek(connection, state.number, state.first, state.last, id)
