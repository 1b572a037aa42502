"""A write and its event, a consumer's effect and its acknowledgement: one commit, or nothing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.eventually import eventually
from tests.server_process import Tenant, running_server
from tests.valkey_server import ValkeyServer

S = "/v1/streams/orders"
G = f"{S}/groups/mailer"
D = "/v1/collections/orders/documents"
EVENT = {"X-Event": "orders; type=order.changed"}


def events(client: httpx.Client) -> list[tuple[str | None, Any]]:
    answer = client.get(f"{S}/events?count=1000")
    if answer.status_code == 404:
        return []
    return [(event["type"], event["data"]) for event in answer.json()["data"]]


def delivered(client: httpx.Client, count: int = 1) -> list[Any]:
    client.put(G).raise_for_status()
    client.post(f"{S}/events", json=[{"data": n} for n in range(count)]).raise_for_status()
    wish = {"consumer": "ann", "count": count}
    found: list[Any] = client.post(f"{G}/read", json=wish).json()["events"]
    return found


def ack_of(*found: Any) -> dict[str, str]:
    return {"X-Ack": "orders/mailer " + ",".join(event["token"] for event in found)}


def test_every_write_of_a_document_takes_its_event_along(client: httpx.Client) -> None:
    made = client.post(D, json={"n": 1}, headers=EVENT)
    put = client.put(f"{D}/x", content=b'{"n":\n 2}', headers=EVENT)
    changed = client.patch(f"{D}/x", json={"m": 3}, headers={"X-Event": "orders"})
    removed = client.delete(f"{D}/x", headers=EVENT)
    assert [one.status_code for one in (made, put, changed, removed)] == [201, 201, 200, 204]
    assert events(client) == [
        ("order.changed", made.json()),
        ("order.changed", put.json()),
        (None, changed.json()),
        ("order.changed", {"id": "x"}),
    ]


def test_a_job_and_its_event(client: httpx.Client) -> None:
    added = client.post("/v1/queues/mail/jobs", json={"payload": 1}, headers=EVENT)
    assert added.status_code == 201, added.text
    assert events(client) == [("order.changed", added.json())]


def test_a_write_that_is_refused_has_no_event(client: httpx.Client) -> None:
    first = client.put(f"{D}/x", json={"n": 1})
    headers = {**EVENT, "If-Match": '"nonsense"'}
    assert client.put(f"{D}/x", json={"n": 2}, headers=headers).status_code == 412
    assert client.patch(f"{D}/none", json={}, headers=EVENT).status_code == 404
    assert client.delete(f"{D}/none", headers=EVENT).status_code == 404
    assert events(client) == []
    good = client.put(f"{D}/x", json={"n": 2}, headers={**EVENT, "If-Match": first.headers["etag"]})
    assert events(client) == [("order.changed", good.json())]


def test_a_repeated_write_has_one_event(client: httpx.Client) -> None:
    headers = {**EVENT, "Idempotency-Key": "k"}
    first = client.post(D, json={"n": 1}, headers=headers)
    again = client.post(D, json={"n": 1}, headers=headers)
    assert first.json() == again.json()
    assert events(client) == [("order.changed", first.json())]


def test_a_reader_is_woken_by_the_event_of_a_write(client: httpx.Client) -> None:
    client.put(G).raise_for_status()
    got: list[Any] = []

    def read() -> None:
        wish = {"consumer": "ann", "block_ms": 60_000}
        got.extend(client.post(f"{G}/read", json=wish).json()["events"])

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: len(client.get(f"{G}/consumers").json()["data"]) == 1, "the reader asked")
    client.put(f"{D}/x", json={"n": 1}, headers=EVENT).raise_for_status()
    reader.join(20)
    assert [event["data"]["data"] for event in got] == [{"n": 1}]


def test_an_effect_and_its_acknowledgement_are_one_commit(client: httpx.Client) -> None:
    one, two, three = delivered(client, 3)
    done = client.put(f"{D}/x", json={"n": 1}, headers=ack_of(one, two))
    assert done.status_code == 201, done.text
    assert client.get(G).json()["pending"] == 1
    again = client.put(f"{D}/x", json={"n": 2}, headers=ack_of(three, one))
    assert (again.status_code, again.json()["code"]) == (409, "delivery_lost")
    assert client.get(f"{D}/x").json()["data"] == {"n": 1}
    assert client.get(G).json()["pending"] == 1, "the good one of two is not acknowledged either"
    assert client.put(f"{D}/x", json={"n": 3}, headers=ack_of(three)).status_code == 200
    assert client.get(G).json()["pending"] == 0


def test_of_two_consumers_of_one_event_one_has_an_effect(client: httpx.Client) -> None:
    (early,) = delivered(client)
    claim = {"consumer": "bob", "min_idle_ms": 0}
    (late,) = client.post(f"{G}/claim", json=claim).json()["events"]
    refused = client.post(D, json={"by": "ann"}, headers=ack_of(early))
    assert refused.json()["code"] == "delivery_lost"
    assert client.post(D, json={"by": "bob"}, headers=ack_of(late)).status_code == 201
    assert [one["data"] for one in client.get(D).json()["data"]] == [{"by": "bob"}]


def test_an_event_that_follows_from_another_acknowledges_it(client: httpx.Client) -> None:
    (event,) = delivered(client)
    out = "/v1/streams/invoices/events"
    answer = client.post(out, json={"data": "due"}, headers=ack_of(event))
    assert answer.status_code == 201, answer.text
    assert client.get(G).json()["pending"] == 0
    assert client.post(out, json={"data": "due"}, headers=ack_of(event)).status_code == 409
    assert [one["data"] for one in client.get(out).json()["data"]] == ["due"]


def test_what_failed_behind_the_acknowledgement_takes_it_back(tmp_path: Path) -> None:
    settings = {"MONOLITE_EVENT_BYTES_MAX": "1000"}
    with running_server(tmp_path / "data", **settings) as server, Tenant(server) as tenant:
        client = tenant.client
        (event,) = delivered(client)
        headers = {**ack_of(event), "X-Event": "orders"}
        large = client.put(f"{D}/x", json={"text": "x" * 1000}, headers=headers)
        assert (large.status_code, large.json()["code"]) == (413, "event_too_large")
        assert client.get(f"{D}/x").status_code == 404
        assert client.get(G).json()["pending"] == 1
        assert client.put(f"{D}/x", json={"n": 1}, headers=headers).status_code == 201
        assert client.get(G).json()["pending"] == 0
        assert len(events(client)) == 2


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Event": ""},
        {"X-Event": "orders:dlq"},
        {"X-Event": "orders; type="},
        {"X-Event": "orders; kind=x"},
        {"X-Ack": "orders/mailer"},
        {"X-Ack": "orders 1.1"},
        {"X-Ack": "orders/mailer x"},
        {"X-Ack": "orders/mailer 1.1,"},
        {"X-Ack": "orders/mailer " + ",".join(["1.1"] * 1001)},
    ],
)
def test_a_header_that_can_not_be_read_is_422(
    client: httpx.Client, headers: dict[str, str]
) -> None:
    answer = client.put(f"{D}/x", json={}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["errors"][0]["pointer"] == next(iter(headers))
    assert client.get(f"{D}/x").status_code == 404


def test_a_group_that_is_not_there_is_404(client: httpx.Client) -> None:
    assert client.put(f"{D}/x", json={}, headers={"X-Ack": "no/no 1.1"}).status_code == 404
    assert client.get(f"{D}/x").status_code == 404


def test_what_is_not_one_write_takes_nothing_along(client: httpx.Client) -> None:
    lines = {**EVENT, "Content-Type": "application/x-ndjson"}
    for answer in (
        client.put("/v1/collections/orders", json={}, headers=EVENT),
        client.get(D, headers=EVENT),
        client.post(D, content=b"{}\n", headers=lines),
    ):
        assert (answer.status_code, answer.json()["code"]) == (400, "nothing_to_join")


def test_what_is_taken_along_needs_its_own_scope(tenant: Tenant) -> None:
    _, key = tenant.key_with("documents:write")
    narrow = tenant.token("documents:write", "streams:write", resource="collections/orders")
    with tenant.server.client(key) as client:
        assert client.put(f"{D}/x", json={}, headers=EVENT).json()["code"] == "missing_scope"
        ack = {"X-Ack": "orders/mailer 1.1"}
        assert client.put(f"{D}/x", json={}, headers=ack).json()["code"] == "missing_scope"
    with tenant.server.client(narrow) as client:
        assert client.put(f"{D}/x", json={}, headers=EVENT).json()["code"] == "outside_resource"
        assert client.put(f"{D}/x", json={}).status_code == 201


def test_streams_in_redis_are_not_in_one_commit_with_a_document(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    settings = {"MONOLITE_STREAMS_URL": valkey.new_url()}
    with running_server(tmp_path / "data", **settings) as server, Tenant(server) as tenant:
        answer = tenant.client.put(f"{D}/x", json={}, headers=EVENT)
        assert (answer.status_code, answer.json()["code"]) == (400, "events_elsewhere")
        assert tenant.client.get(f"{D}/x").status_code == 404
