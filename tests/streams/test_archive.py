"""A tenant that moves takes its streams along: events, groups, what is pending, dead letters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server_process import ServerProcess, Tenant, running_server

S = "/v1/streams/orders"
G = f"{S}/groups/mailer"


@pytest.fixture(scope="module", params=["sqlite", "valkey"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    settings = {}
    if request.param == "valkey":
        settings["MONOLITE_STREAMS_URL"] = request.getfixturevalue("valkey").new_url()
    with running_server(tmp_path_factory.mktemp(request.param) / "data", **settings) as running:
        yield running


def moved(server: ServerProcess, operator: httpx.Client, tenant: Tenant, name: str) -> httpx.Client:
    exported = operator.get(f"/v1/tenants/{tenant.name}/export")
    assert exported.status_code == 200, exported.text
    made = operator.post(
        f"/v1/tenants/{name}/import",
        content=exported.content,
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert made.status_code == 201, made.text
    return server.client(made.json()["key"])


def test_streams_move_with_their_tenant(
    server: ServerProcess, operator: httpx.Client, tenant: Tenant
) -> None:
    client = tenant.client
    client.put(S, json={"max_length": 1000}).raise_for_status()
    events = [{"type": "order.created", "data": {"n": n}} for n in range(300)]
    client.post(f"{S}/events", json=events).raise_for_status()
    client.put(G, json={"start": "0", "max_deliveries": 1}).raise_for_status()
    read = client.post(f"{G}/read", json={"consumer": "one", "count": 10}).json()["events"]
    tokens = [event["token"] for event in read]
    client.post(f"{G}/ack", json={"tokens": tokens[:4]}).raise_for_status()
    nack = {"tokens": tokens[4:6], "reason": "no"}
    assert client.post(f"{G}/nack", json=nack).json()["dead"] == 2
    with moved(server, operator, tenant, f"{tenant.name}-moved") as copy:
        page = copy.get(f"{S}/events?count=1000").json()["data"]
        assert page == client.get(f"{S}/events?count=1000").json()["data"]
        group = copy.get(G).json()
        assert (group["pending"], group["lag"]) == (4, 290)
        assert [one["id"] for one in copy.get(f"{G}/dead").json()["data"]] == [
            event["id"] for event in read[4:6]
        ]
        copy.put(G, json={"max_deliveries": 3}).raise_for_status()
        again = copy.post(f"{G}/read", json={"consumer": "two", "count": 6}).json()["events"]
        assert [one["id"] for one in again[:4]] == [event["id"] for event in read[6:]]
        assert [one["data"]["n"] for one in again[4:]] == [10, 11]
        (new,) = copy.post(f"{S}/events", json={"data": 1}).json()["ids"]
        assert tuple(map(int, new.split("-"))) > tuple(map(int, page[-1]["id"].split("-")))


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "stream_events", "stream": "none", "first_id": "1-0", "events": "YQ=="},
        {"kind": "stream", "name": "x", "last_id": "nonsense"},
        {"kind": "stream_group", "stream": "none", "name": "g"},
    ],
)
def test_records_that_do_not_fit_leave_no_tenant(
    operator: httpx.Client, tenant: Tenant, record: dict[str, Any]
) -> None:
    exported = operator.get(f"/v1/tenants/{tenant.name}/export").content
    head, _, rest = exported.partition(b"\n")
    changed = head + b"\n" + json.dumps(record).encode() + b"\n" + rest
    answer = operator.post(
        f"/v1/tenants/{tenant.name}-bad/import",
        content=changed,
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 422, answer.text
    assert operator.get(f"/v1/tenants/{tenant.name}-bad").status_code == 404
