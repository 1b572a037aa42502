"""Streams move between the database and Redis by the command line, and consumers go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.eventually import eventually
from tests.programs import started
from tests.server_process import ROOT, Tenant, environment, monolite, running_server
from tests.valkey_server import ValkeyServer

S = "/v1/streams/orders"
G = f"{S}/groups/mailer"


def moved(data: Path, *arguments: str) -> str:
    done = monolite("migrate", "--data", data, *arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def seen(client: httpx.Client) -> dict[str, Any]:
    """All that a client can see of a tenant's streams, but for what time changes."""
    found: dict[str, Any] = {}
    for stream in client.get("/v1/streams?limit=1000").json()["data"]:
        url = f"/v1/streams/{stream['name']}"
        found[url] = stream
        found[f"{url}/events"] = client.get(f"{url}/events?count=1000").json()
        for group in client.get(f"{url}/groups").json()["data"]:
            place = f"{url}/groups/{group['name']}"
            found[place] = group
            pending = client.get(f"{place}/pending?count=1000").json()
            for one in pending["data"]:
                del one["idle_ms"]
            found[f"{place}/pending"] = pending
            found[f"{place}/dead"] = client.get(f"{place}/dead?limit=1000").json()
            consumers = client.get(f"{place}/consumers").json()["data"]
            found[f"{place}/consumers"] = [(one["name"], one["pending"]) for one in consumers]
    return found


def read(client: httpx.Client, consumer: str, count: int) -> list[Any]:
    wish = {"consumer": consumer, "count": count}
    events: list[Any] = client.post(f"{G}/read", json=wish).raise_for_status().json()["events"]
    return events


def make_state(client: httpx.Client) -> tuple[list[Any], list[Any]]:
    """Streams in every state; what ann and bob hold of the first."""
    client.put(S, json={"max_age_ms": 10**12}).raise_for_status()
    for begin in range(0, 300, 100):
        events = [
            {"type": "t", "data": {"n": n, "text": "über\t"}} for n in range(begin, begin + 100)
        ]
        client.post(f"{S}/events", json=events).raise_for_status()
    client.put(G, json={"start": "0", "max_deliveries": 2}).raise_for_status()
    early = read(client, "ann", 30)
    tokens = [event["token"] for event in early]
    client.post(f"{G}/ack", json={"tokens": tokens[:23]}).raise_for_status()
    client.post(f"{S}/trim", json={"maxlen": 280}).raise_for_status()
    nack = {"tokens": tokens[23:25], "delay_ms": 600_000_000, "reason": "later"}
    client.post(f"{G}/nack", json=nack).raise_for_status()
    held = read(client, "bob", 10)
    client.post(f"{G}/nack", json={"tokens": [held[0]["token"]]}).raise_for_status()
    (again,) = read(client, "bob", 1)
    assert again["delivery"] == 2
    client.post(f"{G}/nack", json={"tokens": [again["token"]], "reason": "no"}).raise_for_status()
    client.put(f"{S}/groups/late", json={"start": "$"}).raise_for_status()
    client.post("/v1/streams/empty/events", json={"data": 1}).raise_for_status()
    client.post("/v1/streams/empty/trim", json={"maxlen": 0}).raise_for_status()
    client.put("/v1/streams/new", json={}).raise_for_status()
    return early[25:], held[1:]


def test_streams_move_to_redis_and_back_and_nothing_is_lost_or_doubled(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    data, url = tmp_path / "data", valkey.new_url()
    with running_server(data) as server, Tenant(server) as tenant:
        anns, bobs = make_state(tenant.client)
        before = seen(tenant.client)
        key = tenant.key
        refused = monolite("migrate", "--data", data, "--streams", url)
        assert refused.returncode != 0
        assert b"is in use" in refused.stderr
    told = moved(data, "--streams", url)
    assert "orders of tenant" in told
    assert "2 groups, 16 pending, 1 dead" in told
    with (
        running_server(data, MONOLITE_STREAMS_URL=url) as server,
        server.client(key) as client,
    ):
        assert seen(client) == before
        # Tokens from before the move are still good, once.
        tokens = [event["token"] for event in anns[:3]]
        assert client.post(f"{G}/ack", json={"tokens": tokens}).json()["acked"] == 3
        assert client.post(f"{G}/ack", json={"tokens": tokens}).json()["acked"] == 0
        fresh = read(client, "cid", 5)
        assert [event["data"]["n"] for event in fresh] == [40, 41, 42, 43, 44]
        during = seen(client)
    told = moved(data, "--streams-from", url)
    assert "Moved and compared" in told
    with running_server(data) as server, server.client(key) as client:
        assert seen(client) == during
        tokens = [event["token"] for event in [*anns[3:], *bobs, *fresh]]
        done = client.post(f"{G}/ack", json={"tokens": tokens}).json()
        assert done == {"acked": len(tokens), "stale": []}
        assert [event["data"]["n"] for event in read(client, "cid", 1)] == [45]
        (id,) = client.post(f"{S}/events", json={"data": 1}).json()["ids"]
        assert tuple(map(int, id.split("-"))) > tuple(map(int, before[S]["last_id"].split("-")))
    with valkey.client(url) as redis:
        assert redis.keys() == []


def cut_off(data: Path, *arguments: str) -> None:
    """Kill a move between its first stream and its last."""
    command = [sys.executable, ROOT / "server.py", "migrate", "--data", data, *arguments]
    with started(command, stdout=subprocess.PIPE, env=environment()) as move:
        assert b"of tenant" in move.stdout.readline()


def test_a_move_that_was_cut_off_begins_anew(valkey: ValkeyServer, tmp_path: Path) -> None:
    data, url = tmp_path / "data", valkey.new_url()
    with running_server(data) as server, Tenant(server) as tenant:
        make_state(tenant.client)
        for n in range(100):
            path = f"/v1/streams/z-{n}"
            events = [{"data": {"n": n}}] * 500
            tenant.client.post(f"{path}/events", json=events).raise_for_status()
            tenant.client.put(f"{path}/groups/g").raise_for_status()
        key = tenant.key
    cut_off(data, "--streams", url)
    with running_server(data) as server, server.client(key) as client:
        before = seen(client)
    moved(data, "--streams", url)
    with running_server(data, MONOLITE_STREAMS_URL=url) as server, server.client(key) as client:
        there = seen(client)
    assert there == before
    cut_off(data, "--streams-from", url)
    with running_server(data, MONOLITE_STREAMS_URL=url) as server, server.client(key) as client:
        assert seen(client) == there
    moved(data, "--streams-from", url)
    with running_server(data) as server, server.client(key) as client:
        assert seen(client) == there


def test_webhooks_go_on_after_a_move(valkey: ValkeyServer, tmp_path: Path) -> None:
    from tests.webhooks.receiver import running_receiver

    data, url = tmp_path / "data", valkey.new_url()
    allowed = {"MONOLITE_ALLOW_PRIVATE_WEBHOOKS": "127.0.0.0/8"}
    with running_receiver() as receiver:
        with running_server(data, **allowed) as server, Tenant(server) as tenant:
            hook = {"url": receiver.url + "/in"}
            tenant.client.put(f"{S}/webhooks/ours", json=hook).raise_for_status()
            tenant.client.post(f"{S}/events", json={"data": 1}).raise_for_status()
            eventually(lambda: receiver.data("/in") == [1], "the first")
            shown = f"{S}/groups/webhook:ours"
            eventually(lambda: tenant.client.get(shown).json()["pending"] == 0, "its ack")
            key = tenant.key
        moved(data, "--streams", url)
        settings = {**allowed, "MONOLITE_STREAMS_URL": url}
        with running_server(data, **settings) as server, server.client(key) as client:
            client.post(f"{S}/events", json={"data": 2}).raise_for_status()
            eventually(lambda: receiver.data("/in") == [1, 2], "the second, and no other")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "name --streams"),
        (("--streams", "redis://a/0", "--streams-from", "redis://b/0"), "name --streams"),
        (("--streams", "redis://127.0.0.1:1/0"), "Redis does not answer"),
        (("--streams", "nonsense"), "can't be read"),
    ],
)
def test_a_move_that_can_not_be_made_says_why(
    tmp_path: Path, arguments: tuple[str, ...], why: str
) -> None:
    with running_server(tmp_path / "data"):
        pass
    refused = monolite("migrate", "--data", tmp_path / "data", *arguments)
    assert refused.returncode != 0
    assert why in refused.stderr.decode()
