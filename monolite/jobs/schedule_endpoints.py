"""Schedules over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from monolite.jobs.core import Jobs
from monolite.jobs.job import TIMEOUT_MS, Added
from monolite.jobs.schedule import Schedule
from monolite.jobs.schedules import Schedules
from monolite.jobs.shown import JobSet, OneAdded, Word, new_job
from monolite.names import NAME_PATTERN
from monolite.web.answer import Answer, json_answer, page_answer
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.operation import Operation
from monolite.web.pages import Page, PageQuery
from monolite.web.timestamps import rfc3339

ENQUEUE = "jobs:enqueue"


class ScheduleSet(msgspec.Struct, forbid_unknown_fields=True):
    """A cron expression of five fields, or six from seconds, and the job to add at each tick."""

    cron: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    queue: Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}$")]
    payload: msgspec.Raw
    timezone: Word = "UTC"
    paused: bool = False
    priority: Annotated[int, msgspec.Meta(ge=-32768, le=32767)] = 0
    unique_key: Word | None = None
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = TIMEOUT_MS / 1000
    concurrency_key: Word | None = None
    concurrency_limit: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1


class ScheduleShown(msgspec.Struct):
    """A schedule, its next ticks, and the last one with the job it added."""

    name: str
    cron: str
    timezone: str
    queue: str
    payload: msgspec.Raw
    paused: bool
    priority: int
    unique_key: str | None
    max_attempts: int
    timeout_s: float | None
    concurrency_key: str | None
    concurrency_limit: int
    next_run_at: str | None
    next_runs: list[str]
    last_run_at: str | None
    last_job_id: str | None
    created_at: str
    updated_at: str


def operations(schedules: Schedules, jobs: Jobs, cursors: Cursors) -> list[Operation]:
    """The route table."""
    e = _Endpoints(schedules, jobs, cursors)
    schedule = "/v1/schedules/{schedule}"
    return [
        Operation(
            "schedules.list",
            "GET",
            "/v1/schedules",
            ENQUEUE,
            "The caller's schedules",
            e.list_schedules,
            {200: Page[ScheduleShown]},
            query=PageQuery,
        ),
        Operation(
            "schedules.put",
            "PUT",
            schedule,
            ENQUEUE,
            "Add a job at each tick of a clock",
            e.put,
            {201: ScheduleShown, 200: ScheduleShown},
            body=ScheduleSet,
            body_bytes_max=16 << 20,
            example={
                "cron": "*/5 * * * *",
                "timezone": "Europe/Berlin",
                "queue": "reports",
                "payload": {"report": "sales"},
            },
            description="Once per tick, however many servers run. Ticks that were missed collapse"
            " to one.",
        ),
        Operation(
            "schedules.get",
            "GET",
            schedule,
            ENQUEUE,
            "One schedule with its next runs",
            e.get,
            {200: ScheduleShown},
        ),
        Operation(
            "schedules.delete",
            "DELETE",
            schedule,
            ENQUEUE,
            "Remove a schedule; jobs it added stay",
            e.delete,
            {204: None},
        ),
        Operation(
            "schedules.pause",
            "POST",
            schedule + "/pause",
            ENQUEUE,
            "Stop its ticks",
            e.pause,
            {200: ScheduleShown},
        ),
        Operation(
            "schedules.resume",
            "POST",
            schedule + "/resume",
            ENQUEUE,
            "Let it tick again, from now on",
            e.resume,
            {200: ScheduleShown},
        ),
        Operation(
            "schedules.run",
            "POST",
            schedule + "/run",
            ENQUEUE,
            "Add its job now, beside its ticks",
            e.run,
            {201: OneAdded},
            creates=True,
        ),
    ]


class _Endpoints:
    def __init__(self, schedules: Schedules, jobs: Jobs, cursors: Cursors) -> None:
        self._schedules = schedules
        self._jobs = jobs
        self._cursors = cursors

    async def list_schedules(self, call: Call) -> Answer:
        limit = call.query.limit
        after = self._cursors.after(call, call.query.cursor)
        found = await self._schedules.find_many(call.tenant_id, after, limit + 1)
        cursor = None
        if len(found) > limit:
            cursor = self._cursors.encode(call, [found[limit - 1].name])
        return page_answer([self._shown(one) for one in found[:limit]], cursor)

    async def put(self, call: Call) -> Answer:
        body: ScheduleSet = call.body
        job = new_job(
            JobSet(
                body.payload,
                body.priority,
                None,
                body.unique_key,
                body.max_attempts,
                body.timeout_s,
                body.concurrency_key,
                body.concurrency_limit,
            )
        )
        self._jobs.check_size(job.payload, "payload")
        schedule, is_new = await self._schedules.put(
            call.tenant_id,
            call.params["schedule"],
            expression=body.cron,
            timezone=body.timezone,
            queue=body.queue,
            job=job,
            paused=body.paused,
        )
        return json_answer(self._shown(schedule), 201 if is_new else 200)

    async def get(self, call: Call) -> Answer:
        schedule = await self._schedules.find(call.tenant_id, call.params["schedule"])
        return json_answer(self._shown(schedule))

    async def delete(self, call: Call) -> Answer:
        await self._schedules.delete(call.tenant_id, call.params["schedule"])
        return Answer(204)

    async def pause(self, call: Call) -> Answer:
        return await self._pause(call, True)

    async def resume(self, call: Call) -> Answer:
        return await self._pause(call, False)

    async def _pause(self, call: Call, paused: bool) -> Answer:
        schedule = await self._schedules.pause(call.tenant_id, call.params["schedule"], paused)
        return json_answer(self._shown(schedule))

    async def run(self, call: Call) -> Answer:
        name = call.params["schedule"]
        schedule = await self._schedules.find(call.tenant_id, name)

        def answer(added: Sequence[Added]) -> Answer:
            one = added[0]
            location = (b"location", f"/v1/jobs/{one.id}".encode())
            shown = OneAdded(one.id, schedule.queue, one.state)
            return json_answer(shown, 201, [location])

        return answer(await self._schedules.run_now(call.tenant_id, name, call.companion(answer)))

    def _shown(self, schedule: Schedule) -> ScheduleShown:
        job: dict[str, Any] = msgspec.json.decode(schedule.job)
        timeout_ms = job["timeout_ms"]
        return ScheduleShown(
            schedule.name,
            schedule.cron,
            schedule.timezone,
            schedule.queue,
            msgspec.Raw(job["payload"].encode()),
            schedule.paused,
            job["priority"],
            job["unique_key"],
            job["max_attempts"],
            None if timeout_ms is None else timeout_ms / 1000,
            job["concurrency_key"],
            job["concurrency_limit"],
            None if schedule.next_at is None else rfc3339(schedule.next_at),
            [rfc3339(at) for at in self._schedules.next_runs(schedule)],
            None if schedule.last_at is None else rfc3339(schedule.last_at),
            schedule.last_job_id,
            rfc3339(schedule.created_at),
            rfc3339(schedule.updated_at),
        )
