"""Queues, jobs and schedules as records of an export, the same over every engine.

A job that runs is exported as one that waits: its worker holds it in the installation it came from,
and the attempt under way counts for nothing.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from monolite.jobs.job import FINAL, NewJob
from monolite.jobs.schedule import Schedule

KINDS: tuple[str, ...] = ("job_queue", "job", "job_schedule")


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A job at rest: what a producer gave, and what became of it. `state` None while it is live."""

    queue: str
    job: NewJob
    state: str | None
    attempt: int
    created_at: int
    finished_at: int | None
    result: str | None
    errors: str | None


@dataclass(frozen=True, slots=True)
class KeptQueue:
    """A queue's settings at rest."""

    name: str
    paused: bool
    rate_count: int | None
    rate_period_ms: int | None
    retention_s: int | None
    created_at: int
    updated_at: int


def queue_record(queue: KeptQueue) -> dict[str, Any]:
    """A queue without its counts, which its jobs bring along."""
    return {"kind": "job_queue", **asdict(queue)}


def job_record(kept: KeptJob) -> dict[str, Any]:
    """A job. JSON members are text: their numbers are to stay as they are."""
    record = asdict(kept)
    return {"kind": "job", **record, "job": None, **record["job"]._asdict()}


def schedule_record(schedule: Schedule) -> dict[str, Any]:
    """A schedule."""
    return {"kind": "job_schedule", **asdict(schedule)}


def read_queue(record: dict[str, Any]) -> KeptQueue:
    """A queue again; KeyError or TypeError where the record is none's."""
    return KeptQueue(**{name: record[name] for name in KeptQueue.__slots__})


def read_job(record: dict[str, Any]) -> KeptJob:
    """A job again; raises as `read_queue` does."""
    job = NewJob(**{name: record[name] for name in NewJob._fields})
    state = record["state"]
    if state not in (None, *FINAL) or (state is None) != (record["finished_at"] is None):
        raise TypeError("job")
    numbers = (job.priority, job.run_at, job.max_attempts, job.concurrency_limit, record["attempt"])
    if any(type(number) is not int for number in numbers) or job.concurrency_limit < 1:
        raise TypeError("job")
    rest = {name: record[name] for name in KeptJob.__slots__ if name != "job"}
    return KeptJob(job=job, **rest)


def read_schedule(record: dict[str, Any]) -> Schedule:
    """A schedule again; raises as `read_queue` does."""
    return Schedule(**{name: record[name] for name in Schedule.__slots__})
