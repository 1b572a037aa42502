"""What jobs refuse, in their users' words."""

from __future__ import annotations

from monolite.errors import Conflict, NotFound
from monolite.jobs.job import State


def no_job() -> NotFound:
    """No such job for this tenant."""
    return NotFound("There is no such job.")


def lease_lost(state: State) -> Conflict:
    """The token is of a delivery that is over."""
    told = {
        "cancelled": "The job was cancelled: stop working on it.",
        "completed": "The job is completed.",
        "discarded": "The job was discarded after its last attempt.",
        "running": "The lease ended, and another worker has the job: drop what you did.",
    }
    error = Conflict(
        told.get(state, "The lease ended, and the job waits for another worker."), code="lease_lost"
    )
    error.members = {"state": state}
    return error


def job_finished(state: State) -> Conflict:
    """A finished job can't be cancelled."""
    error = Conflict(f"The job is {state} already.", code="job_finished")
    error.members = {"state": state}
    return error


def job_running() -> Conflict:
    """A running job can't be retried."""
    return Conflict(
        "A worker has the job: let it end, or cancel it, and then retry.", code="job_running"
    )


def unique_key_taken(job_id: str) -> Conflict:
    """Another live job has the unique key by now."""
    error = Conflict(
        f"The job {job_id} is live and has the same unique key.", code="unique_key_taken"
    )
    error.members = {"job": job_id}
    return error
