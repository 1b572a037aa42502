"""Queues over HTTP: their settings, their counts, their jobs."""

from __future__ import annotations

import msgspec

from monolite.jobs.core import Jobs
from monolite.jobs.engine import Position
from monolite.jobs.job import State
from monolite.jobs.shown import (
    JobShown,
    QueueSet,
    QueueShown,
    job_shown,
    queue_settings,
    queue_shown,
)
from monolite.web.answer import Answer, json_answer, page_answer
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.operation import Operation
from monolite.web.pages import Page, PageQuery

ENQUEUE, WORK = "jobs:enqueue", "jobs:work"


class JobsQuery(PageQuery):
    """`?state=&limit=&cursor=`."""

    state: State | None = None


def operations(jobs: Jobs, cursors: Cursors) -> list[Operation]:
    """The route table."""
    e = _Endpoints(jobs, cursors)
    queue = "/v1/queues/{queue}"
    return [
        Operation(
            "queues.list",
            "GET",
            "/v1/queues",
            ENQUEUE,
            "The caller's queues, with their counts",
            e.list_queues,
            {200: Page[QueueShown]},
            query=PageQuery,
            description="Counts are kept as jobs move, so they cost the same however many there"
            " are.",
        ),
        Operation("queues.get", "GET", queue, ENQUEUE, "One queue", e.get, {200: QueueShown}),
        Operation(
            "queues.put",
            "PUT",
            queue,
            ENQUEUE,
            "Set a queue's rate and retention",
            e.put,
            {201: QueueShown, 200: QueueShown},
            body=QueueSet,
            example={"rate": {"count": 100, "per_s": 1}, "retention_s": 86400},
        ),
        Operation(
            "queues.jobs",
            "GET",
            queue + "/jobs",
            ENQUEUE,
            "A queue's jobs, of one state or of all",
            e.jobs,
            {200: Page[JobShown]},
            query=JobsQuery,
        ),
        Operation(
            "queues.pause",
            "POST",
            queue + "/pause",
            WORK,
            "Stop giving out jobs",
            e.pause,
            {200: QueueShown},
            description="Jobs that run go on, and jobs are still added.",
        ),
        Operation(
            "queues.resume",
            "POST",
            queue + "/resume",
            WORK,
            "Give out jobs again",
            e.resume,
            {200: QueueShown},
        ),
    ]


class _Endpoints:
    def __init__(self, jobs: Jobs, cursors: Cursors) -> None:
        self._jobs = jobs
        self._cursors = cursors

    async def list_queues(self, call: Call) -> Answer:
        limit = call.query.limit
        after = self._cursors.after(call, call.query.cursor)
        found = await self._jobs.queues(call.tenant_id, after, limit + 1)
        cursor = None
        if len(found) > limit:
            cursor = self._cursors.encode(call, [found[limit - 1].name])
        return page_answer([queue_shown(one) for one in found[:limit]], cursor)

    async def get(self, call: Call) -> Answer:
        return json_answer(
            queue_shown(await self._jobs.queue(call.tenant_id, call.params["queue"]))
        )

    async def put(self, call: Call) -> Answer:
        queue, is_new = await self._jobs.define_queue(
            call.tenant_id, call.params["queue"], queue_settings(call.body)
        )
        return json_answer(queue_shown(queue), 201 if is_new else 200)

    async def jobs(self, call: Call) -> Answer:
        query: JobsQuery = call.query
        position = self._cursors.decode(call, query.cursor)
        after = None
        if position is not None:
            state = msgspec.convert(position[0], State)
            after = Position(state, (int(position[1]), int(position[2])))
        found = await self._jobs.jobs(
            call.tenant_id, call.params["queue"], query.state, after, query.limit + 1
        )
        cursor = None
        if len(found) > query.limit:
            last = found[query.limit - 1][1]
            cursor = self._cursors.encode(call, [last.state, *last.order])
        return page_answer([job_shown(job) for job, _ in found[: query.limit]], cursor)

    async def pause(self, call: Call) -> Answer:
        return await self._pause(call, True)

    async def resume(self, call: Call) -> Answer:
        return await self._pause(call, False)

    async def _pause(self, call: Call, paused: bool) -> Answer:
        queue = await self._jobs.pause(call.tenant_id, call.params["queue"], paused)
        return json_answer(queue_shown(queue))
