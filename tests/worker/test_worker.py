"""The worker of `monolite.worker` at a real server: results, failures, cancels, stops and kills."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from monolite.worker import Job, Refused, Retry, Worker
from tests.eventually import eventually
from tests.programs import started
from tests.server_process import ROOT, ServerProcess, Tenant, running_server

LATER = {"run_at": "2100-01-01T00:00:00Z"}


@contextmanager
def working(worker: Worker) -> Iterator[None]:
    """The worker in a thread of its own, stopped and ended at the end."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(worker.work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(30)
    assert not thread.is_alive()
    if failed:
        raise failed[0]


@pytest.fixture
def worker(server: ServerProcess, tenant: Tenant) -> Worker:
    return Worker(server.url, tenant.key, name="w", poll_s=0.3, grace_s=1.0)


def add(client: httpx.Client, payload: Any, **fields: Any) -> str:
    made = client.post("/v1/queues/q/jobs", json={"payload": payload, **fields})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    got: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return got


def reaches(client: httpx.Client, job_id: str, state: str) -> dict[str, Any]:
    eventually(lambda: job(client, job_id)["state"] == state, f"{job_id} is {state}")
    return job(client, job_id)


def test_what_a_function_and_a_coroutine_return_is_the_result(
    worker: Worker, client: httpx.Client
) -> None:
    @worker.on("q")
    def double(given: Job) -> object:
        return {"twice": given.payload["n"] * 2}

    @worker.on("other")
    async def name(given: Job) -> object:
        await asyncio.sleep(0)
        return given.queue

    ids = [add(client, {"n": n}) for n in range(30)]
    made = client.post("/v1/queues/other/jobs", json={"payload": None}).json()["id"]
    with working(worker):
        for n, job_id in enumerate(ids):
            assert reaches(client, job_id, "completed")["result"] == {"twice": n * 2}
        assert reaches(client, made, "completed")["result"] == "other"


def test_what_raises_is_tried_again_with_its_traceback_kept(
    worker: Worker, client: httpx.Client
) -> None:
    attempts: list[int] = []

    @worker.on("q")
    def fails_twice(given: Job) -> None:
        attempts.append(given.attempt)
        if given.attempt == 1:
            raise Retry(0.0, "not yet")
        if given.attempt == 2:
            raise ZeroDivisionError("a part is nothing")

    job_id = add(client, 1)
    with working(worker):
        done = reaches(client, job_id, "completed")
    assert attempts == [1, 2, 3]
    assert [one["attempt"] for one in done["errors"]] == [1, 2]
    assert done["errors"][0]["error"] == "not yet"
    assert "fails_twice" in done["errors"][1]["error"]


@pytest.mark.parametrize("result", [object(), float("nan"), "x" * (2 << 20)])
def test_a_result_that_cannot_be_kept_fails_its_job_alone(
    worker: Worker, client: httpx.Client, result: Any
) -> None:
    @worker.on("q")
    async def some(given: Job) -> object:
        await asyncio.sleep(0.1)
        return result if given.payload else "fine"

    bad = add(client, True, max_attempts=1)
    good = add(client, False)
    with working(worker):
        assert reaches(client, good, "completed")["result"] == "fine"
        assert reaches(client, bad, "discarded")["errors"]


def test_a_cancelled_job_is_heard_of_at_the_next_heartbeat(
    worker: Worker, client: httpx.Client
) -> None:
    ended: dict[Any, str] = {}

    @worker.on("q", lease_s=1.5)
    async def forever(given: Job) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended["coroutine"] = given.state

    @worker.on("threads", lease_s=1.5)
    def until_lost(given: Job) -> None:
        while not given.is_lost:
            threading.Event().wait(0.05)
        ended["function"] = given.state

    ids = [add(client, 1), client.post("/v1/queues/threads/jobs", json={"payload": 1}).json()["id"]]
    with working(worker):
        for job_id in ids:
            reaches(client, job_id, "running")
            assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
        eventually(lambda: len(ended) == 2, "both heard of it")
    assert ended == {"coroutine": "cancelled", "function": "cancelled"}
    assert [job(client, one)["state"] for one in ids] == ["cancelled"] * 2


def test_heartbeats_hold_a_job_longer_than_its_lease(worker: Worker, client: httpx.Client) -> None:
    finish = threading.Event()

    @worker.on("q", lease_s=1.0)
    def long(given: Job) -> int:
        finish.wait(30)
        return given.attempt

    job_id = add(client, 1)
    with working(worker):
        reaches(client, job_id, "running")
        first = job(client, job_id)["lease_expires_at"]
        eventually(lambda: job(client, job_id)["lease_expires_at"] > first + "1", "it was extended")
        finish.set()
        assert reaches(client, job_id, "completed")["result"] == 1


def test_no_more_is_claimed_than_can_start(worker: Worker, client: httpx.Client) -> None:
    finish = threading.Event()
    most, now, lock = [0], [0], threading.Lock()

    @worker.on("q", concurrency=2)
    def counted(_: Job) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        finish.wait(30)
        with lock:
            now[0] -= 1

    ids = [add(client, n) for n in range(6)]
    with working(worker):
        eventually(lambda: now[0] == 2, "two run")
        counts = client.get("/v1/queues/q").json()["counts"]
        assert (counts["running"], counts["available"]) == (2, 4)
        finish.set()
        for one in ids:
            reaches(client, one, "completed")
    assert most[0] == 2


def test_a_stop_lets_handlers_finish_and_gives_back_what_takes_too_long(
    worker: Worker, client: httpx.Client
) -> None:
    @worker.on("q")
    async def some(given: Job) -> str:
        await asyncio.sleep(given.payload)
        return "done"

    short, long = add(client, 0.5), add(client, 3600)
    with working(worker):
        reaches(client, short, "running")
        reaches(client, long, "running")
    assert job(client, short)["state"] == "completed"
    given_back = job(client, long)
    assert given_back["state"] == "available"
    assert given_back["errors"][0]["error"] == "the worker stopped"


def test_a_key_that_may_not_work_is_said_at_once(server: ServerProcess, tenant: Tenant) -> None:
    worker = Worker(server.url, tenant.key_with("jobs:enqueue")[1])
    worker.on("q")(lambda _: None)
    with pytest.raises(Refused) as refused:
        asyncio.run(worker.work())
    assert refused.value.status == 403


def test_nonsense_is_refused_before_any_request() -> None:
    worker = Worker("http://127.0.0.1:1", "k")
    with pytest.raises(ValueError):
        worker.on("q", concurrency=0)
    with pytest.raises(ValueError):
        asyncio.run(worker.work())
    with pytest.raises(ValueError):
        Worker("ftp://here", "k")


def test_a_server_that_goes_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    started, finish = threading.Event(), threading.Event()
    with running_server(tmp_path / "data") as first, Tenant(first) as tenant:
        key, port = tenant.key, first.port
        worker = Worker(first.url, key, poll_s=0.3)

        @worker.on("q")
        def hold(given: Job) -> int:
            started.set()
            finish.wait(60)
            return given.attempt

        job_id = add(tenant.client, 1)
        with working(worker):
            assert started.wait(30)
            first.stop(signal.SIGKILL)
            finish.set()
            with running_server(tmp_path / "data", port) as again, again.client(key) as client:
                assert reaches(client, job_id, "completed")["result"] == 1


PROGRAM = """
import os, sys, threading
from monolite.worker import Worker
worker = Worker(sys.argv[1], sys.argv[2], name=sys.argv[3], poll_s=0.3)

@worker.on("q", lease_s=5)
def effect(job):
    os.write(1, job.id.encode() + b"\\n")  # whole, where the lines of print in threads mix
    if sys.argv[3] == "first":
        threading.Event().wait(60)
    return sys.argv[3]

worker.run()
"""


def program(
    server: ServerProcess, key: str, name: str
) -> AbstractContextManager[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PROGRAM, server.url, key, name]
    return started(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_the_jobs_of_a_killed_worker_go_to_the_next(
    server: ServerProcess, tenant: Tenant, client: httpx.Client
) -> None:
    ids = {add(client, n) for n in range(5)}
    with program(server, tenant.key, "first") as first:
        assert first.stdout is not None
        assert {first.stdout.readline().strip() for _ in ids} == ids
        first.send_signal(signal.SIGKILL)
    with program(server, tenant.key, "second") as second:
        for one in ids:
            done = reaches(client, one, "completed")
            assert (done["result"], done["attempt"]) == ("second", 2)
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0


def test_the_page_on_jobs_has_a_worker_that_works(
    server: ServerProcess, tenant: Tenant, client: httpx.Client
) -> None:
    page = (ROOT / "docs" / "jobs.md").read_text()
    [example] = re.findall(r"```python\n(.+?)```", page, re.DOTALL)
    made = client.post("/v1/queues/mail/jobs", json={"payload": {"to": "ada@example.com"}})
    command = [sys.executable, "-c", example.replace("http://127.0.0.1:8080", server.url)]
    with started(command, env=os.environ | {"KEY": tenant.key}, cwd=ROOT) as process:
        assert reaches(client, made.json()["id"], "completed")["result"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
