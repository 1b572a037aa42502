"""Locks over HTTP: one owner at a time, in the order of asking."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.conformance.engine import Engine
from tests.eventually import eventually
from tests.server_process import Tenant, running_server

L = "/v1/locks/orders/42"


def acquire(client: httpx.Client, owner: str, lock: str = L, **fields: Any) -> httpx.Response:
    return client.put(lock, json={"owner": owner, "ttl_ms": 30_000, **fields})


def token(client: httpx.Client, owner: str, lock: str = L, **fields: Any) -> int:
    answer = acquire(client, owner, lock, **fields)
    assert answer.status_code == 200, answer.text
    found: int = answer.json()["token"]
    return found


def release(client: httpx.Client, owner: str, number: int, lock: str = L) -> httpx.Response:
    return client.delete(lock, params={"owner": owner, "token": number})


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    problem: dict[str, Any] = answer.json()
    return problem


def test_a_lock_has_one_owner_and_its_number_only_grows(client: httpx.Client) -> None:
    made = acquire(client, "a")
    assert made.status_code == 200
    assert made.json().keys() == {"token", "expires_at"}
    assert refused(acquire(client, "b"), 409, "lock_held")["owner"] == "a"
    first = made.json()["token"]
    assert release(client, "a", first).status_code == 204
    second = token(client, "b")
    assert second > first
    refused(release(client, "a", first), 409, "lock_lost")
    refused(release(client, "a", second), 409, "lock_lost")
    refused(release(client, "b", second + 1), 409, "lock_lost")
    assert release(client, "b", second).status_code == 204
    refused(release(client, "b", second), 409, "lock_lost")


def test_the_owner_asking_again_holds_it_under_the_same_number(client: httpx.Client) -> None:
    first = acquire(client, "a", ttl_ms=1000).json()
    again = acquire(client, "a", ttl_ms=60_000).json()
    assert again["token"] == first["token"]
    assert again["expires_at"] > first["expires_at"]


def test_a_lock_is_free_when_its_time_is_over(client: httpx.Client) -> None:
    first = token(client, "a", ttl_ms=100)
    second = token(client, "b", wait_ms=5000)
    assert second > first
    late = client.post(f"{L}/renew", json={"owner": "a", "token": first, "ttl_ms": 1000})
    refused(late, 409, "lock_lost")


def test_renewing_holds_a_lock(client: httpx.Client) -> None:
    number = token(client, "a", ttl_ms=300)
    given = {"owner": "a", "token": number, "ttl_ms": 30_000}
    renewed = client.post(f"{L}/renew", json=given)
    assert (renewed.status_code, renewed.json()["token"]) == (200, number)
    refused(acquire(client, "b", wait_ms=600), 409, "lock_held")
    for wrong in ({"owner": "b"}, {"token": number + 1}):
        refused(client.post(f"{L}/renew", json={**given, **wrong}), 409, "lock_lost")


def test_an_expired_lock_that_nobody_took_is_not_renewed(client: httpx.Client) -> None:
    number = token(client, "a", ttl_ms=1)
    time.sleep(0.05)
    given = {"owner": "a", "token": number, "ttl_ms": 1000}
    refused(client.post(f"{L}/renew", json=given), 409, "lock_lost")
    assert token(client, "a") > number


def test_names_are_compared_whole(client: httpx.Client) -> None:
    names = ["1/2", "1/3", "12/3", "1/23", "a/b", "a/" + quote("b c", safe="").replace("%20", "_")]
    names += ["a/" + quote(key, safe="") for key in ("ü", "order:7", "x" * 255, "B")]
    numbers = [token(client, "w", f"/v1/locks/{name}") for name in names]
    assert len(set(numbers)) == len(names)
    for name, number in zip(names, numbers, strict=True):
        assert release(client, "w", number, f"/v1/locks/{name}").status_code == 204


def test_who_waits_goes_before_who_comes_and_in_order(client: httpx.Client) -> None:
    number = token(client, "holder")
    order: list[str] = []

    def wait(owner: str) -> None:
        got = token(client, owner, wait_ms=30_000)
        order.append(owner)
        assert release(client, owner, got).status_code == 204

    def waiting() -> list[str]:
        (lock,) = client.get("/v1/locks").json()["data"]
        return [waiter["owner"] for waiter in lock["waiters"]]

    owners = [f"w{n}" for n in range(5)]
    threads = []
    for count, owner in enumerate(owners, 1):
        threads.append(threading.Thread(target=wait, args=(owner,)))
        threads[-1].start()
        eventually(lambda count=count: len(waiting()) == count, "it stands in line")  # type: ignore[misc]
    assert waiting() == owners
    assert release(client, "holder", number).status_code == 204
    for thread in threads:
        thread.join(20)
    assert order == owners


def test_a_thousand_waiters_on_one_lock_each_get_it(tenant: Tenant, engine_name: str) -> None:
    # PostgreSQL needs half a minute for a thousand.
    count = 1000 if engine_name == "sqlite" else 200
    number = token(tenant.client, "holder")
    held: list[int] = []

    async def call(line: str, body: bytes) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", tenant.server.port)
        head = f"{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        answer = await reader.read()
        writer.close()
        status, _, rest = answer.partition(b"\r\n\r\n")
        return int(status.split()[1]), rest

    async def wait(owner: str) -> None:
        body = json.dumps({"owner": owner, "ttl_ms": 60_000, "wait_ms": 60_000}).encode()
        status, answer = await call(f"PUT {L}", body)
        assert status == 200, answer
        held.append(json.loads(answer)["token"])
        status, answer = await call(f"DELETE {L}?owner={owner}&token={held[-1]}", b"")
        assert status == 204, answer

    async def all_of_them() -> None:
        waiting = [asyncio.create_task(wait(f"w{n}")) for n in range(count)]
        deadline = time.monotonic() + 60
        while len(tenant.client.get("/v1/locks").json()["data"][0]["waiters"]) < count:
            assert time.monotonic() < deadline, "not all stand in line"
            await asyncio.sleep(0.1)
        assert release(tenant.client, "holder", number).status_code == 204
        await asyncio.gather(*waiting)

    asyncio.run(all_of_them())
    assert held == sorted(held)
    assert len(set(held)) == count


def test_of_many_that_ask_at_once_one_holds(client: httpx.Client) -> None:
    answers: list[int] = []

    def ask(owner: str) -> None:
        answers.append(acquire(client, owner).status_code)

    threads = [threading.Thread(target=ask, args=(f"w{n}",)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [409] * 9


def test_a_counter_under_a_lock_loses_nothing(client: httpx.Client) -> None:
    counted = {"n": 0}
    numbers: list[int] = []

    def work(owner: str) -> None:
        for _ in range(5):
            number = token(client, owner, wait_ms=30_000)
            seen = counted["n"]
            time.sleep(0.001)
            counted["n"] = seen + 1
            numbers.append(number)
            release(client, owner, number)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted["n"] == 30
    assert numbers == sorted(set(numbers))


def test_who_went_while_it_waited_does_not_hold_the_lock(tenant: Tenant) -> None:
    number = token(tenant.client, "holder")
    with tenant.server.client(tenant.key) as gone, pytest.raises(httpx.ReadTimeout):
        gone.put(L, json={"owner": "gone", "ttl_ms": 60_000, "wait_ms": 60_000}, timeout=0.3)

    def waiters() -> list[Any]:
        found: list[Any] = tenant.client.get("/v1/locks").json()["data"][0]["waiters"]
        return found

    eventually(lambda: waiters() == [], "its place is given up")
    release(tenant.client, "holder", number)
    token(tenant.client, "next")


def test_locks_are_listed_by_namespace_with_who_waits(
    client: httpx.Client, other: httpx.Client
) -> None:
    for name in ("a/2", "a/1", "b/1"):
        token(client, "holder", f"/v1/locks/{name}")
    page = client.get("/v1/locks", params={"namespace": "a"}).json()
    assert [(one["namespace"], one["key"]) for one in page["data"]] == [("a", "1"), ("a", "2")]
    assert page["data"][0]["owner"] == "holder"
    assert page["data"][0]["held_ms"] >= 0
    assert "token" not in page["data"][0]
    first = client.get("/v1/locks", params={"limit": 2}).json()
    params = {"limit": 2, "cursor": first["next_cursor"]}
    rest = client.get("/v1/locks", params=params).json()
    assert [one["namespace"] for one in rest["data"]] == ["b"]
    assert other.get("/v1/locks").json()["data"] == []
    assert token(other, "x", "/v1/locks/a/1")


def test_a_lock_and_its_numbers_outlive_a_restart(engine: Engine) -> None:
    with running_server(engine.data, **engine.settings) as server, Tenant(server) as tenant:
        held = token(tenant.client, "a", ttl_ms=60_000)
        gone = token(tenant.client, "a", "/v1/locks/n/gone")
        release(tenant.client, "a", gone, "/v1/locks/n/gone")
    running = running_server(engine.data, **engine.settings)
    with running as server, server.client(tenant.key) as client:
        assert refused(acquire(client, "b"), 409, "lock_held")["owner"] == "a"
        assert token(client, "b", "/v1/locks/n/gone") > max(held, gone)
        assert release(client, "a", held).status_code == 204


def test_a_stop_answers_those_who_wait(engine: Engine) -> None:
    with running_server(engine.data, **engine.settings) as server, Tenant(server) as tenant:
        token(tenant.client, "holder")
        answers: list[int] = []

        def wait() -> None:
            answers.append(acquire(tenant.client, "w", wait_ms=60_000).status_code)

        def claim() -> None:
            asked = {"worker": "w", "wait_ms": 60_000}
            answers.append(tenant.client.post("/v1/queues/q/claim", json=asked).status_code)

        threads = [threading.Thread(target=target) for target in (wait, claim)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        assert server.stop() == 0
        for thread in threads:
            thread.join(10)
        assert sorted(answers) == [200, 409]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"ttl_ms": 0}, "#/ttl_ms"),
        ({"ttl_ms": 31_536_000_000}, "#/ttl_ms"),
        ({"owner": ""}, "#/owner"),
        ({"owner": "a\0"}, "#/owner"),
        ({"wait_ms": 10_000_000}, "#/wait_ms"),
    ],
)
def test_a_bad_wish_is_refused_by_name(
    client: httpx.Client, fields: dict[str, Any], pointer: str
) -> None:
    answer = client.put(L, json={"owner": "a", "ttl_ms": 1000, **fields})
    assert refused(answer, 422, "invalid")["errors"][0]["pointer"] == pointer


def test_releasing_needs_owner_and_token(client: httpx.Client) -> None:
    number = token(client, "a")
    for params in ({}, {"owner": "a"}, {"token": number}):
        assert client.delete(L, params=params).status_code == 422
    assert release(client, "a", number).status_code == 204
