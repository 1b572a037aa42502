"""The consumer and the worker of the TypeScript client, killed in the middle of their work."""

from __future__ import annotations

import signal
from collections import Counter

import httpx

from tests.clients.node import CLIENT, Program, run, script
from tests.eventually import eventually
from tests.server_process import ROOT, Tenant

CONSUMER = ROOT / "examples/streams/consumer.mjs"
WORKER = ROOT / "examples/jobs/worker.mjs"
GROUP = "/v1/streams/orders/groups/mailer"


def consumer(tenant: Tenant, name: str) -> Program:
    return script(CONSUMER, name, URL=tenant.server.url, KEY=tenant.key)


def worker(tenant: Tenant, name: str) -> Program:
    return script(WORKER, name, "1", URL=tenant.server.url, KEY=tenant.key)


def append(client: httpx.Client, count: int) -> None:
    events = [{"data": {"id": number}} for number in range(count)]
    client.post("/v1/streams/orders/events", json=events).raise_for_status()


def pending(client: httpx.Client) -> tuple[int, int]:
    group = client.get(GROUP).raise_for_status().json()
    return group["pending"], group["lag"]


def test_a_consumer_that_is_killed_loses_no_event(tenant: Tenant, client: httpx.Client) -> None:
    append(client, 200)
    client.put(GROUP, json={"claim_idle_ms": 300}).raise_for_status()
    with consumer(tenant, "one") as first:
        lines = [first.hear() for _ in range(70)]
        lines += first.kill()
    handled = [line.split()[1] for line in lines]
    with consumer(tenant, "two") as second:
        while len(set(handled)) < 200:
            handled.append(second.hear().split()[1])
        eventually(lambda: pending(client) == (0, 0), "all is acknowledged")
    assert set(handled) == {str(number) for number in range(200)}


def test_a_consumer_that_is_told_to_stop_acknowledges_first(
    tenant: Tenant, client: httpx.Client
) -> None:
    append(client, 1)
    with consumer(tenant, "one") as first:
        first.hear()
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(20) == 0
    assert pending(client) == (0, 0)


def add(client: httpx.Client, count: int, taking_ms: int) -> set[str]:
    jobs = [{"payload": {"to": f"{n}@x", "taking_ms": taking_ms}} for n in range(count)]
    answer = client.post("/v1/queues/mail/jobs", json=jobs).raise_for_status()
    return {job["id"] for job in answer.json()["jobs"]}


def counts(client: httpx.Client) -> Counter[str]:
    return Counter(client.get("/v1/queues/mail").raise_for_status().json()["counts"])


def test_a_worker_that_is_killed_loses_no_job(tenant: Tenant, client: httpx.Client) -> None:
    ids = add(client, 40, taking_ms=20)
    lines: list[str] = []

    def sent() -> list[str]:
        return [line.split()[1] for line in lines if line.startswith("sent")]

    with worker(tenant, "one") as first:
        while len(sent()) < 10:
            lines.append(first.hear())
        lines += first.kill()
    with worker(tenant, "two") as second:
        while set(sent()) != ids:
            lines.append(second.hear())
        eventually(lambda: counts(client)["completed"] == 40, "all is completed")
    # What the first one had in hand when it died, and no more, was done twice.
    assert len(sent()) - len(ids) <= 4


def test_heartbeats_keep_a_job_that_takes_longer_than_its_lease(
    tenant: Tenant, client: httpx.Client
) -> None:
    add(client, 1, taking_ms=2500)
    with worker(tenant, "one") as only:
        assert only.hear().split()[0] == "begin"
        assert only.hear().split()[0] == "sent"
        eventually(lambda: counts(client)["completed"] == 1, "all is completed")
    job = client.get("/v1/queues/mail/jobs").json()["data"][0]
    assert (job["attempt"], job["state"]) == (1, "completed")


def test_what_a_handler_throws_fails_the_attempt_or_gives_the_event_back(tenant: Tenant) -> None:
    run(CLIENT / "test/throwing.ts", URL=tenant.server.url, KEY=tenant.key)
