"""A schedule: a job to add at each tick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """`job` is the job to add, as the JSON text of what a producer would post. Times in ms;
    `next_at` is None while paused.
    """

    name: str
    cron: str
    timezone: str
    queue: str
    job: str
    paused: bool
    next_at: int | None
    last_at: int | None
    last_job_id: str | None
    created_at: int
    updated_at: int
