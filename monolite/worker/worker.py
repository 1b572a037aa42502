"""Queues, their handlers, and the loop between them."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import signal
import socket
import time
import traceback
import urllib.parse
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from monolite.worker.job import Job, Retry
from monolite.worker.requests import Refused, Requests, Unanswered

REPORTERS = 4
ERROR_CHARACTERS = 4000

Handler = Callable[[Job], Any]
H = TypeVar("H", bound=Handler)

log = logging.getLogger("monolite.worker")


@dataclass
class _Queue:
    name: str
    handler: Handler
    concurrency: int
    lease_s: float
    running: set[asyncio.Task[None]] = field(default_factory=set)
    room: asyncio.Event = field(default_factory=asyncio.Event)


class Worker:
    """Claims jobs and runs their handlers until it is told to stop. `name` is what the server shows
    as the worker of a running job; `poll_s` is how long a claim waits for a job, which a stop waits
    for in turn, and `grace_s` how long a stop waits for coroutines.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        name: str | None = None,
        poll_s: float = 5.0,
        grace_s: float = 30.0,
    ) -> None:
        self._requests = Requests(url, key)
        self._name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._poll_s = poll_s
        self._grace_s = grace_s
        self._queues: dict[str, _Queue] = {}
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._coroutines: set[asyncio.Task[Any]] = set()
        self._done: list[tuple[Job, Any, asyncio.Future[None]]] = []
        self._some_done = asyncio.Event()

    def on(self, queue: str, *, concurrency: int = 10, lease_s: float = 60.0) -> Callable[[H], H]:
        """The decorated function handles a queue's jobs, at most `concurrency` (1 to 1000) at once.

        What it returns is the job's result, and has to be JSON. A lease of `lease_s` is extended
        for as long as it runs.
        """
        if not 1 <= concurrency <= 1000:
            raise ValueError("concurrency is 1 to 1000")

        def register(handler: H) -> H:
            if queue in self._queues:
                raise ValueError(f"the queue {queue} has a handler already")
            self._queues[queue] = _Queue(queue, handler, concurrency, lease_s)
            return handler

        return register

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; then finish what is running."""
        asyncio.run(self._run_here())

    async def _run_here(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        await self.work()

    def stop(self) -> None:
        """Claim nothing more, and end once what runs is over. May be called from any thread."""
        self._stopping = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for queue in self._queues.values():
            queue.room.set()

    async def work(self) -> None:
        """Work within a running loop until `stop`. Raises Refused where the server will not give
        jobs to this worker, such as for a key without the scope `jobs:work`.
        """
        queues = list(self._queues.values())
        if not queues:
            raise ValueError("no queue has a handler")
        self._loop = asyncio.get_running_loop()
        functions = [one for one in queues if not inspect.iscoroutinefunction(one.handler)]
        with (
            closing(self._requests),
            ThreadPoolExecutor(len(queues), "claims") as self._claims,
            ThreadPoolExecutor(REPORTERS, "reports") as self._reports,
            ThreadPoolExecutor(sum(one.concurrency for one in functions) or 1, "jobs") as threads,
        ):
            self._threads = threads
            reporting = asyncio.create_task(self._report_done())
            claiming = [asyncio.create_task(self._claim(one)) for one in queues]
            try:
                await asyncio.gather(*claiming)
            finally:
                self.stop()
                await asyncio.gather(*claiming, return_exceptions=True)
                await self._finish([task for one in queues for task in one.running])
                reporting.cancel()
                with suppress(asyncio.CancelledError):
                    await reporting

    async def _finish(self, running: Iterable[asyncio.Task[None]]) -> None:
        tasks = set(running)
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._grace_s)
        if late:
            log.warning("handlers are still running: %d", len(late))
            for at_work in list(self._coroutines):
                at_work.cancel()
            # A function in a thread goes on, with its heartbeat: Python can't end before it anyway.
            await asyncio.wait(late)

    # ── Claims ─────────────────────────────────────────────────────────────────────────────────

    async def _claim(self, queue: _Queue) -> None:
        loop = asyncio.get_running_loop()
        path = f"/v1/queues/{urllib.parse.quote(queue.name, safe='')}/claim"
        while not self._stopping:
            free = queue.concurrency - len(queue.running)
            if free <= 0:
                queue.room.clear()
                await queue.room.wait()
                continue
            asked = {
                "worker": self._name,
                "limit": free,
                "lease_s": queue.lease_s,
                "wait_ms": int(self._poll_s * 1000),
            }
            post = partial(
                self._requests.post, path, asked, until=lambda: self._stopping, wait_s=self._poll_s
            )
            try:
                given = await loop.run_in_executor(self._claims, post)
            except Unanswered:
                return
            # What comes with the last claim is done too: it is this worker's by now.
            for one in given["jobs"]:
                task = loop.create_task(self._handle(queue, Job(queue.name, one, queue.lease_s)))
                queue.running.add(task)
                task.add_done_callback(partial(self._leave, queue))

    def _leave(self, queue: _Queue, task: asyncio.Task[None]) -> None:
        queue.running.discard(task)
        queue.room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a job's end was not reported", exc_info=error)

    # ── One job ────────────────────────────────────────────────────────────────────────────────

    async def _handle(self, queue: _Queue, job: Job) -> None:
        loop = asyncio.get_running_loop()
        at_work: asyncio.Future[Any]
        if inspect.iscoroutinefunction(queue.handler):
            at_work = coroutine = loop.create_task(queue.handler(job))
            self._coroutines.add(coroutine)
            coroutine.add_done_callback(self._coroutines.discard)
        else:
            at_work = loop.run_in_executor(self._threads, queue.handler, job)
        beating = loop.create_task(self._beat(job, at_work))
        try:
            result = await at_work
            json.dumps(result, allow_nan=False)
        except asyncio.CancelledError:
            if not job.is_lost:  # it is the worker that stops: another may begin at once
                await self._fail(job, "the worker stopped", 0.0)
        except Retry as wish:
            await self._fail(job, str(wish), wish.in_s)
        except Exception as error:
            text = "".join(traceback.format_exception(error))[-ERROR_CHARACTERS:]
            await self._fail(job, text, None)
        else:
            await self._complete(job, result)
        finally:
            beating.cancel()

    async def _beat(self, job: Job, at_work: asyncio.Future[Any]) -> None:
        """Extend the lease while the handler runs and its end is reported; break it off where the
        job is lost.
        """
        path, body = f"/v1/jobs/{job.id}/extend", {"token": job.token(), "lease_s": job.lease_s}
        while not job.is_lost:
            await asyncio.sleep(job.heartbeat_s)
            began = time.monotonic()
            try:
                await self._post(path, body, job)
            except Refused as answer:
                job.lose(str(answer.problem.get("state", "unknown")))
            except Unanswered:
                job.lose("unknown")
            else:
                job.hold(began)
        if isinstance(at_work, asyncio.Task):
            at_work.cancel()

    # ── What came of it ────────────────────────────────────────────────────────────────────────

    async def _complete(self, job: Job, result: Any) -> None:
        if job.is_lost:
            return
        reported: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done.append((job, result, reported))
        self._some_done.set()
        await reported

    async def _report_done(self) -> None:
        """Complete what was done since the last request by one request."""
        while True:
            await self._some_done.wait()
            self._some_done.clear()
            done, self._done = self._done[:1000], self._done[1000:]
            if self._done:
                self._some_done.set()
            if len(done) > 1:
                named = [{"id": j.id, "token": j.token(), "result": r} for j, r, _ in done]
                last = max((job for job, _, _ in done), key=lambda job: job.held_until)
                # Refused as a whole, such as for the size of one result: each says it by itself.
                with suppress(Refused, Unanswered):
                    answer = await self._post("/v1/jobs/complete", {"jobs": named}, last)
                    for one in answer["stale"]:
                        log.info("a job was no longer this worker's", extra=one)
                    _answer(done)
                    continue
            await asyncio.gather(*(self._complete_one(job, result) for job, result, _ in done))
            _answer(done)

    async def _complete_one(self, job: Job, result: Any) -> None:
        body = {"token": job.token(), "result": result}
        try:
            await self._post(f"/v1/jobs/{job.id}/complete", body, job)
        except Unanswered:
            log.warning("the server was not told of a job that is done: %s", job.id)
        except Refused as answer:
            if answer.code not in ("lease_lost", "not_found"):
                await self._fail(job, f"its result was refused: {answer}", None)

    async def _fail(self, job: Job, error: str, retry_in_s: float | None) -> None:
        error = error.encode("utf-8", "replace").decode()
        body = {"token": job.token(), "error": error, "retry_in_s": retry_in_s}
        with suppress(Refused, Unanswered):
            await self._post(f"/v1/jobs/{job.id}/fail", body, job)

    def _post(self, path: str, body: Any, job: Job) -> Awaitable[dict[str, Any]]:
        post = partial(self._requests.post, path, body, until=lambda: job.is_lost)
        return asyncio.get_running_loop().run_in_executor(self._reports, post)


def _answer(done: Iterable[tuple[Job, Any, asyncio.Future[None]]]) -> None:
    for _, _, reported in done:
        if not reported.done():
            reported.set_result(None)
