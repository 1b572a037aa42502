"""A job as a producer gives it, as a worker gets it, and as anyone may look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

State = Literal[
    "scheduled", "available", "running", "retryable", "completed", "discarded", "cancelled"
]
FinalState = Literal["completed", "discarded", "cancelled"]
STATES: tuple[State, ...] = (
    "scheduled",
    "available",
    "running",
    "retryable",
    "completed",
    "discarded",
    "cancelled",
)
LIVE: tuple[State, ...] = STATES[:4]
FINAL: tuple[FinalState, ...] = ("completed", "discarded", "cancelled")

# What a job has beside the ordinary, kept where it waits so that moving it needs no other look.
UNIQUE, LIMITED, TIMED, CALLED = 1, 2, 4, 8

TIMEOUT_MS = 60_000
"""How long an attempt may take where its producer said nothing. What has another time is TIMED."""

ERRORS_KEPT = 20
"""How many of a job's last failures are kept."""


class NewJob(NamedTuple):
    """A job to add. `payload` is JSON text; `timeout_ms` None where only its leases end it."""

    id: str
    payload: str
    priority: int = 0
    run_at: int = 0
    max_attempts: int = 5
    timeout_ms: int | None = TIMEOUT_MS
    url: str | None = None
    unique_key: str | None = None
    concurrency_key: str | None = None
    concurrency_limit: int = 1

    @property
    def flags(self) -> int:
        """Which of the extras it has."""
        return (
            (self.unique_key is not None) * UNIQUE
            + (self.concurrency_key is not None) * LIMITED
            + (self.timeout_ms != TIMEOUT_MS) * TIMED
            + (self.url is not None) * CALLED
        )


class Added(NamedTuple):
    """What became of a job to add: its id and state, or those of a live one with its unique key."""

    id: str
    state: State
    is_new: bool


class Delivery(NamedTuple):
    """A job in a worker's hands. `payload` is JSON text, `lease_expires_at` in ms."""

    id: str
    payload: str
    attempt: int
    lease_expires_at: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim gave, under one secret. `next_at` is when there may be more, or None."""

    jobs: Sequence[Delivery]
    secret: int
    next_at: int | None
    is_more: bool = False


class Held(NamedTuple):
    """A delivery as its worker names it: the job's id and the token's secret."""

    id: str
    secret: int
    result: str | None = None


class Failure(NamedTuple):
    """Why an attempt failed, at a time in ms."""

    attempt: int
    at: int
    error: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands. Times in ms; `payload`, `result` and `errors` are JSON text."""

    id: str
    queue: str
    state: State
    payload: str
    priority: int
    run_at: int
    attempt: int
    max_attempts: int
    timeout_ms: int | None
    url: str | None
    unique_key: str | None
    concurrency_key: str | None
    concurrency_limit: int
    created_at: int
    finished_at: int | None
    result: str | None
    errors: str
    worker: str | None = None
    lease_expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` jobs are claimed in `period_ms`."""

    count: int
    period_ms: int


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue; `counts` are of its jobs by state, `retention_s` None where the installation's."""

    name: str
    paused: bool
    rate: Rate | None
    retention_s: int | None
    counts: Mapping[State, int]
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What PUT sets."""

    rate: Rate | None = None
    retention_s: int | None = None
