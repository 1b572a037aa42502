"""Jobs under kill -9: every job that was answered with 201 is completed, each acknowledged once."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server_process import ServerProcess, Tenant

KILLS = 3


class Load:
    """Producers and workers at one server after the other."""

    def __init__(self) -> None:
        self.added: set[str] = set()
        self.completed: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, server: ServerProcess, key: str) -> None:
        self._stopping.clear()
        self._threads = [threading.Thread(target=self.produce, args=(server, key))]
        self._threads += [
            threading.Thread(target=self.work, args=(server, key, f"w{n}")) for n in range(2)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def produce(self, server: ServerProcess, key: str) -> None:
        with server.client(key) as client:
            while not self._stopping.is_set():
                try:
                    answer = client.post("/v1/queues/q/jobs", json=[{"payload": 1}] * 5)
                except httpx.TransportError:
                    return
                if answer.status_code == 201:
                    self.added |= {job["id"] for job in answer.json()["jobs"]}

    def work(self, server: ServerProcess, key: str, worker: str) -> None:
        asked = {"worker": worker, "limit": 7, "lease_s": 1, "wait_ms": 200}
        with server.client(key) as client:
            while not self._stopping.is_set():
                try:
                    jobs = client.post("/v1/queues/q/claim", json=asked).json()["jobs"]
                    for job in jobs:
                        self._finish(client, job)
                except httpx.TransportError:
                    return

    def work_all(self, client: httpx.Client) -> None:
        """Until nothing is live any more."""
        asked = {"worker": "last", "limit": 100, "lease_s": 60, "wait_ms": 2500}
        while jobs := client.post("/v1/queues/q/claim", json=asked).json()["jobs"]:
            for job in jobs:
                self._finish(client, job)

    def _finish(self, client: httpx.Client, job: dict[str, Any]) -> None:
        self.effects[job["id"]] += 1
        done = client.post(f"/v1/jobs/{job['id']}/complete", json={"token": job["token"]})
        if done.status_code == 200:
            self.completed[job["id"]] += 1
        else:
            assert done.json()["code"] == "lease_lost", done.text


@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_no_answered_job_is_lost_and_none_completes_twice(tmp_path: Path, synchronous: str) -> None:
    settings = {"MONOLITE_SYNCHRONOUS": synchronous}
    load = Load()
    key = ""
    for number in range(KILLS):
        server = ServerProcess(tmp_path / "data", settings)
        server.wait_ready()
        if not key:
            with Tenant(server) as tenant:
                key = tenant.key
        load.start(server, key)
        time.sleep(0.4 + 0.15 * number)
        server.stop(signal.SIGKILL)
        load.stop()
    server = ServerProcess(tmp_path / "data", settings)
    try:
        server.wait_ready()
        with server.client(key) as client:
            load.work_all(client)
            counts = client.get("/v1/queues/q").json()["counts"]
            states = {
                job_id: client.get(f"/v1/jobs/{job_id}").json()["state"] for job_id in load.added
            }
    finally:
        server.stop()
    assert len(load.added) > 20
    assert set(states.values()) == {"completed"}
    assert counts["running"] == counts["available"] == counts["retryable"] == 0
    assert counts["completed"] >= len(load.added)
    assert max(load.completed.values()) == 1
