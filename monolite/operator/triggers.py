"""When one machine is no longer enough: figures beside the thresholds that say so.

The thresholds are the seed's for a move to PostgreSQL and Redis. For writes it names 50 a second;
the box itself is the better judge, so where `monolite doctor` has measured its capacity the
threshold is 60 % of that, sustained for ten minutes, with the seed's shown beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

SEED_WRITES_PER_SECOND = 50.0
CAPACITY_FRACTION = 0.6
NEAR_FRACTION = 0.8
DATABASE_BYTES = 10_000_000_000
READ_P99_MS = 50.0
EVENTS_PER_SECOND = 80_000.0
RETENTION_HOURS = 48.0
GROUP_COUNT = 20.0

NEVER = (
    "SQLite on one machine never serves several regions, nor spreads reads beyond this box. If you "
    "need either, move now: monolite migrate --to postgresql://... --streams redis://..."
)


class Trigger(msgspec.Struct, frozen=True, omit_defaults=True):
    """One figure, its threshold and what to do; `seed_threshold` where another one holds."""

    name: str
    value: float
    threshold: float
    state: Literal["ok", "near", "over"]
    advice: str
    unit: str
    seed_threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """Where a trigger's value comes from. `threshold` is asked each time, as it may be measured."""

    name: str
    unit: str
    value: Callable[[], float]
    threshold: Callable[[], float]
    advice: str
    seed_threshold: float | None = None


def state(value: float, threshold: float) -> Literal["ok", "near", "over"]:
    """`over` from the threshold on, `near` from 80 % of it."""
    if value >= threshold:
        return "over"
    return "near" if value >= NEAR_FRACTION * threshold else "ok"


def read(figures: list[Figure]) -> list[Trigger]:
    """Every trigger as it stands now."""
    triggers = []
    for figure in figures:
        value, threshold = figure.value(), figure.threshold()
        triggers.append(
            Trigger(
                name=figure.name,
                value=round(value, 3),
                threshold=round(threshold, 3),
                state=state(value, threshold),
                advice=figure.advice,
                unit=figure.unit,
                seed_threshold=figure.seed_threshold,
            )
        )
    return triggers


def write_threshold(setting: float | None, capacity: float | None) -> float:
    """The operator's own threshold, else 60 % of the measured capacity, else the seed's."""
    if setting is not None:
        return setting
    return CAPACITY_FRACTION * capacity if capacity is not None else SEED_WRITES_PER_SECOND


def sqlite_figures(
    *,
    writes_per_second: Callable[[], float],
    write_threshold: Callable[[], float],
    database_bytes: Callable[[], float],
    read_p99_ms: Callable[[], float],
) -> list[Figure]:
    """The triggers over SQLite."""
    return [
        Figure(
            "writes_per_second",
            "writes/s, over ten minutes",
            writes_per_second,
            write_threshold,
            "The one writer nears what this disk sustains. Batch writes, or move documents and "
            "jobs to PostgreSQL: monolite migrate --to postgresql://...",
            SEED_WRITES_PER_SECOND,
        ),
        Figure(
            "database_bytes",
            "bytes",
            database_bytes,
            lambda: DATABASE_BYTES,
            "Restores and backups now take minutes. Delete or export old tenants, or move to "
            "PostgreSQL: monolite migrate --to postgresql://...",
        ),
        Figure(
            "read_p99_ms",
            "ms",
            read_p99_ms,
            lambda: READ_P99_MS,
            "Reads wait for scans or for the disk. Look for a missing index, give the box memory, "
            "or move to PostgreSQL with read replicas.",
        ),
    ]


def postgres_figures(
    *,
    connections: Callable[[], float],
    connection_count_max: int,
    read_p99_ms: Callable[[], float],
) -> list[Figure]:
    """The triggers over PostgreSQL: the move that SQLite's advise is made."""
    return [
        Figure(
            "database_connections",
            "connections at work",
            connections,
            lambda: connection_count_max,
            "Requests queue for a connection. Look for slow statements, then raise "
            "MONOLITE_DATABASE_CONNECTIONS, or start another server on the same database.",
        ),
        Figure(
            "read_p99_ms",
            "ms",
            read_p99_ms,
            lambda: READ_P99_MS,
            "Reads wait for scans, for the disk or for the network. Look for a missing index, or "
            "give PostgreSQL more memory.",
        ),
    ]


def stream_figures(
    *,
    events_per_second: Callable[[], float],
    retention_hours: Callable[[], float],
    group_count: Callable[[], float],
) -> list[Figure]:
    """The triggers of streams in the embedded database."""
    return [
        Figure(
            "events_per_second",
            "events/s, over a minute",
            events_per_second,
            lambda: EVENTS_PER_SECOND,
            "Move streams to Redis: monolite migrate --streams redis://...",
        ),
        Figure(
            "event_retention_hours",
            "hours, of the oldest event",
            retention_hours,
            lambda: RETENTION_HOURS,
            "Trim the streams, or set their max_age_ms. Redis keeps them in memory: moving there "
            "is for the rate, not for the retention.",
        ),
        Figure(
            "consumer_groups",
            "groups of one stream, at most",
            group_count,
            lambda: GROUP_COUNT,
            "Many groups read the same events. Merge some, or move streams to Redis: monolite "
            "migrate --streams redis://...",
        ),
    ]


def redis_figures(
    *, memory_bytes: Callable[[], float], memory_bytes_max: Callable[[], float]
) -> list[Figure]:
    """The triggers of streams in Redis: the move that the embedded ones advise is made."""
    return [
        Figure(
            "redis_memory_bytes",
            "bytes",
            memory_bytes,
            memory_bytes_max,
            "Redis keeps every event in memory. Trim the streams, set their max_age_ms, or give "
            "it more.",
        ),
    ]


def shared_figures() -> list[Figure]:
    """Those of subsystems to come, the same over every database."""
    return [
        Figure(
            "lock_waits",
            "waiters",
            lambda: 0.0,
            lambda: GROUP_COUNT,
            "Owners queue for the same lock. Split its key, or hold it for less.",
        ),
    ]
