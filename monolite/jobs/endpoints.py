"""Jobs over HTTP: what producers and workers call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Literal

import msgspec

from monolite.errors import FieldError, Invalid
from monolite.jobs.core import Asked, Jobs
from monolite.jobs.job import Added, Claimed, Held, State
from monolite.jobs.shown import (
    ClaimedShown,
    JobSet,
    JobShown,
    Lease,
    ManyAdded,
    OneOrManyAdded,
    Word,
    added_shown,
    claimed_answer,
    job_shown,
    new_job,
    secret_of,
    text_of,
)
from monolite.names import NAME_PATTERN
from monolite.web.answer import Answer, json_answer
from monolite.web.call import Call
from monolite.web.decoding import JsonBody
from monolite.web.operation import Operation
from monolite.web.timestamps import rfc3339

ENQUEUE, WORK = "jobs:enqueue", "jobs:work"
NDJSON = "application/x-ndjson"
BODY_BYTES_MAX = 16 << 20
COUNT_MAX = 10_000
"""The most jobs in one request."""

WAIT_MS_MAX = 60_000
ERROR_CHARACTERS_KEPT = 8192

Token = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=WAIT_MS_MAX)]


class ClaimAsked(msgspec.Struct, forbid_unknown_fields=True):
    """Who asks, for how many, for how long; `wait_ms` waits where there is nothing."""

    worker: Word
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    lease_s: Lease = 60.0
    wait_ms: Milliseconds = 0


class Completed(msgspec.Struct, forbid_unknown_fields=True):
    """The token of the delivery, and what came of it."""

    token: Token
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class CompletedOne(Completed, forbid_unknown_fields=True, kw_only=True):
    """One of several."""

    id: Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}$")]


class CompletedMany(msgspec.Struct, forbid_unknown_fields=True):
    """Deliveries that ended well, each under its own token."""

    jobs: Annotated[list[CompletedOne], msgspec.Meta(min_length=1, max_length=COUNT_MAX)]


class CompletedShown(msgspec.Struct):
    """The job, completed."""

    id: str
    state: Literal["completed"]


class StaleShown(msgspec.Struct):
    """A delivery that was over; `state` is the job's now, null where there is no such job."""

    id: str
    state: State | None


class ManyCompleted(msgspec.Struct):
    """How many were completed, and which changed nothing."""

    completed: int
    stale: list[StaleShown]


class Failed(msgspec.Struct, forbid_unknown_fields=True):
    """Why an attempt failed; `retry_in_s` in place of the growing delay."""

    token: Token
    error: Annotated[str, msgspec.Meta(max_length=65_536)]
    retry_in_s: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] | None = None


class Extended(msgspec.Struct, forbid_unknown_fields=True):
    """A heartbeat: the lease from now on."""

    token: Token
    lease_s: Lease = 60.0


class ExtendedShown(msgspec.Struct):
    """When the lease ends."""

    lease_expires_at: str


_JOB = {"payload": {"to": "ada@example.com"}, "priority": 1}
_TOKEN = "0123456789abcdef"  # noqa: S105  # an example


CheckUrl = Callable[[str, str], Awaitable[None]]
"""Raise Invalid, naming the pointer, for a URL that can't be called."""


class SecretShown(msgspec.Struct):
    """What the server's calls for this tenant are signed with."""

    secret: str


def operations(jobs: Jobs, check_url: CheckUrl, secret_of: Callable[[int], str]) -> list[Operation]:
    """The route table."""
    e = _Endpoints(jobs, check_url, secret_of)
    queue = "/v1/queues/{queue}"
    job = "/v1/jobs/{job}"
    return [
        Operation(
            "jobs.add",
            "POST",
            queue + "/jobs",
            ENQUEUE,
            "Add a job, or many",
            e.add,
            {201: OneOrManyAdded, 200: OneOrManyAdded},
            joins=True,
            body=JobSet | Annotated[list[JobSet], msgspec.Meta(min_length=1, max_length=COUNT_MAX)],
            body_bytes_max=BODY_BYTES_MAX,
            streams=(NDJSON,),
            stream_bytes_max=BODY_BYTES_MAX,
            creates=True,
            hot=True,
            example=_JOB,
            description="An array, or NDJSON, adds all of them or none. 200 where a live job has"
            " the `unique_key` already: the answer is that job's.",
        ),
        Operation(
            "jobs.claim",
            "POST",
            queue + "/claim",
            WORK,
            "Take jobs, and hold them for a while",
            e.claim,
            {200: ClaimedShown},
            body=ClaimAsked,
            hot=True,
            example={"worker": "mailer-1", "limit": 50, "lease_s": 60, "wait_ms": 20},
            description="By priority, then `run_at`; never one job to two workers. With `wait_ms`"
            " it is answered as soon as there is a job.",
        ),
        Operation(
            "jobs.complete_many",
            "POST",
            "/v1/jobs/complete",
            WORK,
            "Complete many jobs",
            e.complete_many,
            {200: ManyCompleted},
            body=CompletedMany,
            body_bytes_max=BODY_BYTES_MAX,
            hot=True,
            example={"jobs": [{"id": "0190", "token": _TOKEN, "result": {"sent": True}}]},
            description="Those whose lease was lost change nothing, and are named in `stale`.",
        ),
        Operation(
            "jobs.complete",
            "POST",
            job + "/complete",
            WORK,
            "Complete a job",
            e.complete,
            {200: CompletedShown},
            body=Completed,
            body_bytes_max=BODY_BYTES_MAX,
            hot=True,
            example={"token": _TOKEN, "result": {"sent": True}},
        ),
        Operation(
            "jobs.fail",
            "POST",
            job + "/fail",
            WORK,
            "Say that an attempt failed",
            e.fail,
            {200: JobShown},
            body=Failed,
            hot=True,
            example={"token": _TOKEN, "error": "connection refused", "retry_in_s": 30},
            description="It is retried later and later, and discarded after its last attempt.",
        ),
        Operation(
            "jobs.extend",
            "POST",
            job + "/extend",
            WORK,
            "Hold a job for longer",
            e.extend,
            {200: ExtendedShown},
            body=Extended,
            hot=True,
            example={"token": _TOKEN, "lease_s": 60},
            description="409 `lease_lost` says by `state` why to stop: `cancelled`, or `running`"
            " with another worker.",
        ),
        Operation(
            "jobs.cancel",
            "POST",
            job + "/cancel",
            ENQUEUE,
            "Cancel a job, a running one too",
            e.cancel,
            {200: JobShown},
        ),
        Operation(
            "jobs.retry",
            "POST",
            job + "/retry",
            ENQUEUE,
            "Make a job available now",
            e.retry,
            {200: JobShown},
            description="A finished one gets an attempt more; one that waits is due at once.",
        ),
        Operation(
            "jobs.secret",
            "GET",
            "/v1/job-calls/secret",
            WORK,
            "What calls of jobs with a url are signed with",
            e.secret,
            {200: SecretShown},
            description="As Standard Webhooks 1.0 says; the same for all queues of the tenant.",
        ),
        Operation("jobs.get", "GET", job, ENQUEUE, "One job", e.get, {200: JobShown}, hot=True),
    ]


_read_line = JsonBody(JobSet)


class _Endpoints:
    def __init__(
        self, jobs: Jobs, check_url: CheckUrl, call_secret_of: Callable[[int], str]
    ) -> None:
        self._jobs = jobs
        self._check_url = check_url
        self._call_secret_of = call_secret_of

    async def secret(self, call: Call) -> Answer:
        return json_answer(SecretShown(self._call_secret_of(call.tenant_id)))

    async def add(self, call: Call) -> Answer:
        if call.is_streamed:
            given: JobSet | list[JobSet] = await _lines(call)
        else:
            given = call.body
        queue = call.params["queue"]
        if isinstance(given, list):
            jobs = [new_job(one, f"#/{index}") for index, one in enumerate(given)]
            for index, one in enumerate(jobs):
                if one.url is not None:
                    await self._check_url(one.url, f"#/{index}/url")
            added = await self._jobs.add(call.tenant_id, queue, jobs, call.companion(_many))
            return _many(added)
        job = new_job(given)
        if job.url is not None:
            await self._check_url(job.url, "#/url")

        def companion(added: Sequence[Added]) -> Answer:
            return _one(queue, added[0])

        found = await self._jobs.add(call.tenant_id, queue, [job], call.companion(companion))
        return companion(found)

    async def claim(self, call: Call) -> Answer:
        body: ClaimAsked = call.body
        asked = Asked(body.worker, body.limit, int(body.lease_s * 1000), body.wait_ms)
        if not body.wait_ms:
            return claimed_answer(
                await self._jobs.claim(call.tenant_id, call.params["queue"], asked)
            )
        return claimed_answer(await self._claim_while_there(call, asked))

    async def _claim_while_there(self, call: Call, asked: Asked) -> Claimed:
        """A claim that is given up when its client goes, so that no job is given to nobody."""
        loop = asyncio.get_running_loop()
        claiming = loop.create_task(self._jobs.claim(call.tenant_id, call.params["queue"], asked))
        gone = call.gone()
        try:
            await asyncio.wait({claiming, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not claiming.done():
                claiming.cancel()
                await asyncio.wait({claiming})
                if claiming.cancelled():
                    return Claimed((), 0, None)
            return claiming.result()
        finally:
            claiming.cancel()

    async def complete(self, call: Call) -> Answer:
        body: Completed = call.body
        job_id = call.params["job"]
        await self._jobs.complete(call.tenant_id, _held(job_id, body))
        return json_answer(CompletedShown(job_id, "completed"))

    async def complete_many(self, call: Call) -> Answer:
        jobs: list[CompletedOne] = call.body.jobs
        held = [_held(one.id, one) for one in jobs]
        if len({one.id for one in held}) < len(held):
            why = "names a job twice"
            raise Invalid(f"#/jobs: {why}.", [FieldError("#/jobs", why)])
        stale = await self._jobs.complete_many(call.tenant_id, held)
        return json_answer(
            ManyCompleted(len(held) - len(stale), [StaleShown(*one) for one in stale])
        )

    async def fail(self, call: Call) -> Answer:
        body: Failed = call.body
        retry_in_ms = None if body.retry_in_s is None else int(body.retry_in_s * 1000)
        error = body.error.replace("\0", "\N{REPLACEMENT CHARACTER}")[:ERROR_CHARACTERS_KEPT]
        held = Held(call.params["job"], secret_of(body.token))
        return json_answer(
            job_shown(await self._jobs.fail(call.tenant_id, held, error, retry_in_ms))
        )

    async def extend(self, call: Call) -> Answer:
        body: Extended = call.body
        held = Held(call.params["job"], secret_of(body.token))
        expires_at = await self._jobs.extend(call.tenant_id, held, int(body.lease_s * 1000))
        return json_answer(ExtendedShown(rfc3339(expires_at)))

    async def cancel(self, call: Call) -> Answer:
        return json_answer(job_shown(await self._jobs.cancel(call.tenant_id, call.params["job"])))

    async def retry(self, call: Call) -> Answer:
        return json_answer(job_shown(await self._jobs.retry(call.tenant_id, call.params["job"])))

    async def get(self, call: Call) -> Answer:
        return json_answer(job_shown(await self._jobs.job(call.tenant_id, call.params["job"])))


async def _lines(call: Call) -> list[JobSet]:
    text = b"".join([piece async for piece in call.chunks()])
    given: list[JobSet] = []
    for index, line in enumerate(text.split(b"\n")):
        if not line.strip():
            continue
        if len(given) >= COUNT_MAX:
            why = f"at most {COUNT_MAX} jobs go in one request"
            raise Invalid(f"#/{index}: {why}.", [FieldError(f"#/{index}", why)])
        try:
            given.append(_read_line(line))
        except Invalid as error:
            fields = [
                FieldError(f"#/{index}{one.pointer.removeprefix('#')}", one.detail)
                for one in error.errors
            ]
            raise Invalid(f"Line {index + 1}: {error.detail}", fields) from None
    if not given:
        raise Invalid("#: at least one job.", [FieldError("#", "at least one job")])
    return given


def _held(job_id: str, given: Completed) -> Held:
    result = None if given.result is msgspec.UNSET else text_of(given.result)
    return Held(job_id, secret_of(given.token), result)


def _one(queue: str, added: Added) -> Answer:
    location = (b"location", f"/v1/jobs/{added.id}".encode())
    body = f'{{"id":"{added.id}","queue":"{queue}","state":"{added.state}"}}'
    status = 201 if added.is_new else 200
    return Answer(status, body.encode(), [(b"content-type", b"application/json"), location])


def _many(added: Sequence[Added]) -> Answer:
    status = 201 if any(one.is_new for one in added) else 200
    return json_answer(ManyAdded([added_shown(one) for one in added]), status)
