"""`X-Lock`: a lock that is held for exactly one write, and writes that only a holder can make."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.conformance.engine import Engine
from tests.conformance.test_locks import acquire, refused, release, token
from tests.eventually import eventually
from tests.server_process import Tenant, running_server

JOBS = "/v1/queues/q/jobs"
DOCUMENT = "/v1/collections/c/documents/1"


def add(client: httpx.Client, lock: str, count: int = 2, **headers: str) -> httpx.Response:
    jobs = [{"payload": n} for n in range(count)]
    return client.post(JOBS, json=jobs, headers={"X-Lock": lock, **headers})


def jobs_count(client: httpx.Client) -> int:
    queue = client.get("/v1/queues/q")
    return 0 if queue.status_code == 404 else int(queue.json()["counts"]["available"])


def test_a_free_lock_is_held_for_the_write_and_no_longer(client: httpx.Client) -> None:
    assert add(client, "orders/42").status_code == 201
    assert client.get("/v1/locks").json()["data"] == []
    assert acquire(client, "a").status_code == 200


def test_nothing_is_written_while_someone_holds_the_lock(client: httpx.Client) -> None:
    held = token(client, "a")
    assert refused(add(client, "orders/42"), 409, "lock_held")["owner"] == "a"
    put = client.put(DOCUMENT, json={}, headers={"X-Lock": "orders/42"})
    refused(put, 409, "lock_held")
    assert jobs_count(client) == 0
    assert client.get(DOCUMENT).status_code == 404
    assert add(client, "orders/43").status_code == 201
    assert release(client, "a", held).status_code == 204
    assert add(client, "orders/42").status_code == 201
    assert client.put(DOCUMENT, json={}, headers={"X-Lock": "orders/42"}).is_success
    assert jobs_count(client) == 4


def test_a_holder_writes_and_one_that_was_overtaken_does_not(client: httpx.Client) -> None:
    first = token(client, "a")
    mine = f"orders/42; owner=a; token={first}"
    assert add(client, mine).status_code == 201
    for wrong in (f"orders/42; owner=b; token={first}", f"orders/42; owner=a; token={first + 1}"):
        refused(add(client, wrong), 409, "lock_lost")
    release(client, "a", first)
    refused(add(client, mine), 409, "lock_lost")
    second = token(client, "b")
    refused(add(client, mine), 409, "lock_lost")
    assert add(client, f"orders/42;owner=b;token={second}").status_code == 201
    assert jobs_count(client) == 4


def test_a_lock_goes_with_an_idempotency_key(client: httpx.Client) -> None:
    held = token(client, "a")
    refused(add(client, "orders/42", **{"Idempotency-Key": "k"}), 409, "lock_held")
    release(client, "a", held)
    made = add(client, "orders/42", **{"Idempotency-Key": "k2"})
    assert made.status_code == 201
    assert add(client, "orders/42", **{"Idempotency-Key": "k2"}).json() == made.json()
    assert jobs_count(client) == 2


@pytest.mark.parametrize("lock", ["", "orders", "a/b/c", "orders/42; owner=a", "orders/4;token=1"])
def test_a_header_that_names_no_lock_is_refused(client: httpx.Client, lock: str) -> None:
    problem = refused(add(client, lock), 422, "invalid")
    assert problem["errors"][0]["pointer"] == "X-Lock"
    assert jobs_count(client) == 0


def test_a_write_under_a_lock_needs_the_scope_of_locks(tenant: Tenant) -> None:
    with tenant.server.client(tenant.key_with("jobs:enqueue")[1]) as client:
        refused(add(client, "orders/42"), 403, "missing_scope")


def test_what_is_no_write_takes_no_lock(client: httpx.Client) -> None:
    claimed = client.post(
        "/v1/queues/q/claim", json={"worker": "w"}, headers={"X-Lock": "orders/42"}
    )
    refused(claimed, 400, "nothing_to_join")


def test_writes_and_a_holder_never_overlap(tenant: Tenant) -> None:
    """While one holds the lock no write under it succeeds, whoever races."""
    stopping = threading.Event()
    between: list[int] = []

    def write() -> None:
        with tenant.server.client(tenant.key) as client:
            while not stopping.is_set():
                add(client, "orders/42", count=1)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    try:
        for turn in range(10):
            number = token(tenant.client, f"a{turn}", wait_ms=10_000)
            before = jobs_count(tenant.client)
            refused(add(tenant.client, "orders/42"), 409, "lock_held")
            between.append(jobs_count(tenant.client) - before)
            release(tenant.client, f"a{turn}", number)
    finally:
        stopping.set()
        for writer in writers:
            writer.join()
    assert between == [0] * 10
    assert jobs_count(tenant.client) > 0


def test_a_long_wait_is_an_event_and_counted(
    engine: Engine, engine_name: str, new_engine: Callable[..., Any]
) -> None:
    settings = {**engine.settings, "MONOLITE_LOCK_WAIT_ALERT_S": "1"}
    with running_server(engine.data, **settings) as server, Tenant(server) as tenant:
        client = tenant.client
        held = token(client, "a")
        waiting = threading.Thread(target=token, args=(client, "b"), kwargs={"wait_ms": 30_000})
        waiting.start()
        name = "monolite_lock_long_waits_total"
        with server.client(server.operator_key) as operator:
            eventually(lambda: f"{name} 1" in operator.get("/metrics").text, "it is counted")
        if engine_name == "sqlite":
            path = "/v1/streams/lock-waits/events"
            eventually(lambda: client.get(path).status_code == 200, "it is an event")
            (event,) = client.get(path).json()["data"]
            assert event["type"] == "lock.waited"
            assert event["data"].pop("waited_ms") >= 1000
            expected = {"namespace": "orders", "key": "42", "owner": "b", "holder": "a"}
            assert event["data"] == expected
        release(client, "a", held)
        waiting.join(30)
