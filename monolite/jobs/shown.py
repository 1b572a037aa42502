"""Jobs as JSON, and JSON as jobs."""

from __future__ import annotations

from typing import Annotated

import msgspec

from monolite.errors import FieldError, Invalid, Malformed
from monolite.jobs.job import (
    TIMEOUT_MS,
    Added,
    Claimed,
    Job,
    NewJob,
    Queue,
    QueueSettings,
    Rate,
    State,
)
from monolite.web.answer import JSON_TYPE, Answer
from monolite.web.timestamps import parse_rfc3339, rfc3339

_LINE = r"^[^\x00-\x1f\x7f]+$"
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=_LINE)]
LEASE_S_MAX = 86_400.0
Lease = Annotated[float, msgspec.Meta(ge=0.1, le=LEASE_S_MAX)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=LEASE_S_MAX)]
TEN_YEARS_S = 315_360_000


class JobSet(msgspec.Struct, forbid_unknown_fields=True):
    """A job to add. `concurrency_limit` jobs of one `concurrency_key` run at a time. The server
    itself calls a `url`, with the payload as body.
    """

    payload: msgspec.Raw
    priority: Annotated[int, msgspec.Meta(ge=-32768, le=32767)] = 0
    run_at: Annotated[str, msgspec.Meta(max_length=40)] | None = None
    unique_key: Word | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    timeout_s: Seconds | None = TIMEOUT_MS / 1000
    concurrency_key: Word | None = None
    concurrency_limit: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)] | None = None


class ErrorShown(msgspec.Struct):
    """Why an attempt failed."""

    attempt: int
    at: str
    error: str


class JobShown(msgspec.Struct):
    """A job as it stands; `worker` and `lease_expires_at` while it runs."""

    id: str
    queue: str
    state: State
    payload: msgspec.Raw
    url: str | None
    priority: int
    run_at: str
    attempt: int
    max_attempts: int
    timeout_s: float | None
    unique_key: str | None
    concurrency_key: str | None
    concurrency_limit: int
    created_at: str
    finished_at: str | None
    worker: str | None
    lease_expires_at: str | None
    result: msgspec.Raw
    errors: list[ErrorShown]


class OneAdded(msgspec.Struct):
    """The job that was added, or the live one with its unique key."""

    id: str
    queue: str
    state: State


class AddedShown(msgspec.Struct):
    """What became of one job of several; `is_new` false where a live one had its unique key."""

    id: str
    state: State
    is_new: bool


class ManyAdded(msgspec.Struct):
    """What became of several jobs, in their order."""

    jobs: list[AddedShown]


class OneOrManyAdded(msgspec.Struct, omit_defaults=True):
    """The job's members, or `jobs` where an array or NDJSON was posted."""

    id: str | None = None
    queue: str | None = None
    state: State | None = None
    jobs: list[AddedShown] | None = None


class DeliveryShown(msgspec.Struct):
    """A job in a worker's hands. The token is of this one delivery."""

    id: str
    payload: msgspec.Raw
    attempt: int
    token: str
    lease_expires_at: str


class ClaimedShown(msgspec.Struct):
    """What a claim gave; nothing where there was nothing."""

    jobs: list[DeliveryShown]


class RateSet(msgspec.Struct, forbid_unknown_fields=True):
    """At most `count` jobs start in `per_s` seconds."""

    count: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    per_s: Annotated[float, msgspec.Meta(ge=0.1, le=LEASE_S_MAX)] = 1.0


class QueueSet(msgspec.Struct, forbid_unknown_fields=True):
    """A queue's settings; null is no rate, and the installation's retention."""

    rate: RateSet | None = None
    retention_s: Annotated[int, msgspec.Meta(ge=0, le=TEN_YEARS_S)] | None = None


class QueueShown(msgspec.Struct):
    """A queue, and how many of its jobs are in which state."""

    name: str
    paused: bool
    rate: RateSet | None
    retention_s: int | None
    counts: dict[State, int]
    created_at: str
    updated_at: str


_decode_errors = msgspec.json.Decoder(list[tuple[int, int, str]]).decode


def text_of(raw: msgspec.Raw) -> str:
    """JSON as it came; raises Malformed where it is not UTF-8."""
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        raise Malformed("The body is not UTF-8.") from None


def moment(text: str, pointer: str) -> int:
    """An RFC 3339 time in ms; raises Invalid."""
    try:
        return parse_rfc3339(text)
    except (ValueError, OverflowError):
        why = "takes a time such as 2026-11-23T08:00:00Z"
        raise Invalid(f"{pointer}: {why}.", [FieldError(pointer, why)]) from None


def new_job(given: JobSet, pointer: str = "#") -> NewJob:
    """What a producer posted; raises Invalid naming the field under `pointer`."""
    if given.concurrency_limit != 1 and given.concurrency_key is None:
        why = "is of a concurrency_key, and there is none"
        where = f"{pointer}/concurrency_limit"
        raise Invalid(f"{where}: {why}.", [FieldError(where, why)])
    return NewJob(
        "",
        text_of(given.payload),
        given.priority,
        # The year 1970 is as good as any that is over; 0 itself would be now.
        0 if given.run_at is None else moment(given.run_at, f"{pointer}/run_at") or 1,
        given.max_attempts,
        None if given.timeout_s is None else max(1, int(given.timeout_s * 1000)),
        given.url,
        given.unique_key,
        given.concurrency_key,
        given.concurrency_limit,
    )


def added_shown(added: Added) -> AddedShown:
    """One of several."""
    return AddedShown(added.id, added.state, added.is_new)


def job_shown(job: Job) -> JobShown:
    """A job as JSON."""
    return JobShown(
        job.id,
        job.queue,
        job.state,
        msgspec.Raw(job.payload.encode()),
        job.url,
        job.priority,
        rfc3339(job.run_at),
        job.attempt,
        job.max_attempts,
        None if job.timeout_ms is None else job.timeout_ms / 1000,
        job.unique_key,
        job.concurrency_key,
        job.concurrency_limit,
        rfc3339(job.created_at),
        _time(job.finished_at),
        job.worker,
        _time(job.lease_expires_at),
        msgspec.Raw(b"null" if job.result is None else job.result.encode()),
        [ErrorShown(attempt, rfc3339(at), why) for attempt, at, why in _decode_errors(job.errors)],
    )


def claimed_answer(claimed: Claimed) -> Answer:
    """`{"jobs": [...]}`, by hand: the hottest answer there is."""
    if not claimed.jobs:
        return Answer(200, b'{"jobs":[]}', [JSON_TYPE])
    token = token_text(claimed.secret)
    known: dict[int, str] = {}
    parts: list[str] = []
    for job_id, payload, attempt, expires_at in claimed.jobs:
        expires = known.get(expires_at)
        if expires is None:
            expires = known[expires_at] = rfc3339(expires_at)
        parts.append(
            f'{{"id":"{job_id}","payload":{payload},"attempt":{attempt},"token":"{token}",'
            f'"lease_expires_at":"{expires}"}}'
        )
    return Answer(200, f'{{"jobs":[{",".join(parts)}]}}'.encode(), [JSON_TYPE])


def token_text(secret: int) -> str:
    """A token as a worker has it: 16 hexadecimal digits."""
    return f"{secret:016x}"


def secret_of(token: str) -> int:
    """The secret again; -1, which is none's, for any other text."""
    try:
        return int(token, 16) if len(token) == 16 and token.isalnum() else -1
    except ValueError:
        return -1


def queue_settings(given: QueueSet) -> QueueSettings:
    """What PUT sets."""
    rate = given.rate
    return QueueSettings(
        None if rate is None else Rate(rate.count, int(rate.per_s * 1000)), given.retention_s
    )


def queue_shown(queue: Queue) -> QueueShown:
    """A queue as JSON."""
    rate = queue.rate
    return QueueShown(
        queue.name,
        queue.paused,
        None if rate is None else RateSet(rate.count, rate.period_ms / 1000),
        queue.retention_s,
        dict(queue.counts),
        rfc3339(queue.created_at),
        rfc3339(queue.updated_at),
    )


def _time(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)
