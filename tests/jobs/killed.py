"""Server and workers killed at random among jobs: what was answered is done, each effect once."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.eventually import eventually
from tests.server_process import ROOT, ServerProcess, Tenant, free_port

WORKERS = 2
LIVE = ("scheduled", "available", "running", "retryable")

# Its effect is a document under the job's id as Idempotency-Key: made once, however often it runs.
PROGRAM = """
import http.client, json, sys
from monolite.worker import Retry, Worker

port, key, name = int(sys.argv[1]), sys.argv[2], sys.argv[3]
worker = Worker(f"http://127.0.0.1:{port}", key, name=name, poll_s=0.5)

@worker.on("q", concurrency=8, lease_s=2)
def effect(job):
    headers = {
        "Authorization": f"Bearer {key}",
        "Content-Type": "application/json",
        "Idempotency-Key": job.id,
    }
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        body = json.dumps({"job": job.id})
        connection.request("POST", "/v1/collections/effects/documents", body, headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Retry(0.2, str(error)) from error
    finally:
        connection.close()
    if status != 201:
        raise Retry(0.2, f"answered {status}")

worker.run()
"""


@dataclass
class Ledger:
    """What the producer was answered, and how often something was killed."""

    added: set[str] = field(default_factory=set)
    kills: dict[str, int] = field(default_factory=lambda: {"server": 0, "worker": 0})


def survive(data: Path, seed: int, kills: int) -> Ledger:
    """Kill server or workers so often; raises AssertionError for what was lost or done twice."""
    chance = random.Random(seed)
    ledger = Ledger()
    port = free_port()
    server = _start(data, port)
    with Tenant(server) as tenant:
        key = tenant.key
    workers = [_worker(port, key, n) for n in range(WORKERS)]
    stopping = threading.Event()
    producer = threading.Thread(target=_produce, args=(server.url, key, ledger, stopping))
    producer.start()
    try:
        for turn in range(kills):
            time.sleep(chance.uniform(0.05, 0.6))
            # The first two are one of each, so that a short run has both.
            if turn == 0 or (turn > 1 and chance.random() < 0.5):
                ledger.kills["server"] += 1
                server.stop(signal.SIGKILL)
                server = _start(data, port)
            else:
                ledger.kills["worker"] += 1
                number = chance.randrange(WORKERS)
                workers[number].kill()
                workers[number].wait()
                workers[number] = _worker(port, key, number)
        stopping.set()
        producer.join()
        with server.client(key) as client:
            eventually(lambda: not _live(client), "nothing is live", seconds_max=120)
            _check(client, ledger)
    finally:
        stopping.set()
        producer.join()
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.wait(30)
        server.stop()
    return ledger


def _start(data: Path, port: int) -> ServerProcess:
    server = ServerProcess(data, {}, port)
    server.wait_ready()
    return server


def _worker(port: int, key: str, number: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", PROGRAM, str(port), key, f"worker-{number}"]
    return subprocess.Popen(arguments, cwd=ROOT)


def _produce(url: str, key: str, ledger: Ledger, stopping: threading.Event) -> None:
    jobs = [{"payload": n, "max_attempts": 1000} for n in range(5)]
    headers = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=10) as client:
        while not stopping.is_set():
            try:
                answer = client.post("/v1/queues/q/jobs", json=jobs)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if answer.status_code == 201:
                ledger.added |= {job["id"] for job in answer.json()["jobs"]}
            time.sleep(0.02)


def _live(client: httpx.Client) -> int:
    counts = client.get("/v1/queues/q").json()["counts"]
    return sum(counts[state] for state in LIVE)


def _check(client: httpx.Client, ledger: Ledger) -> None:
    jobs = _all(client, "/v1/queues/q/jobs")
    completed = {job["id"] for job in jobs if job["state"] == "completed"}
    assert len(completed) == len(jobs), "a job ended without being completed"
    assert ledger.added <= completed, "a job that was answered is lost"
    effects = [one["data"]["job"] for one in _all(client, "/v1/collections/effects/documents")]
    assert len(effects) == len(set(effects)), "an effect was made twice"
    assert set(effects) == completed, "a job is completed without its effect"


def _all(client: httpx.Client, path: str) -> list[Any]:
    found: list[Any] = []
    cursor: str | None = None
    while True:
        params = {"limit": "500", **({} if cursor is None else {"cursor": cursor})}
        answer = client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["data"]
        cursor = page.get("next_cursor")
        if cursor is None:
            return found
