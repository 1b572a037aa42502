"""Streams in Valkey: several servers on one, a Valkey that goes and comes, whose streams it has."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from monolite.errors import Conflict
from monolite.streams.event import NewEvent, piece
from monolite.streams.event_id import LAST, ZERO, EventId, Wish
from tests.eventually import eventually
from tests.postgres_server import PostgresServer
from tests.server_process import Tenant, monolite, running_server
from tests.streams.stores import FakeClock, ValkeyStore
from tests.valkey_server import ValkeyServer, running_valkey
from tests.webhooks.receiver import running_receiver

S = "/v1/streams/orders"
G = f"{S}/groups/mailer"


@pytest.fixture
def both(
    postgres: PostgresServer, valkey: ValkeyServer, tmp_path: Path
) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A client of one tenant at each of two servers."""
    settings = {
        "MONOLITE_DATABASE_URL": postgres.new_database(),
        "MONOLITE_STREAMS_URL": valkey.new_url(),
        "MONOLITE_ALLOW_PRIVATE_WEBHOOKS": "127.0.0.0/8",
    }
    with running_server(tmp_path / "a", **settings) as first:
        settings["MONOLITE_ROOT_SECRET"] = (tmp_path / "a" / "root.secret").read_text().strip()
        with (
            running_server(tmp_path / "b", **settings) as second,
            Tenant(first) as tenant,
            second.client(tenant.key) as other,
        ):
            yield tenant.client, other


def test_a_reader_at_one_server_is_woken_by_an_append_at_the_other(
    both: tuple[httpx.Client, httpx.Client],
) -> None:
    here, there = both
    here.put(G).raise_for_status()
    got: list[Any] = []

    def read() -> None:
        wish = {"consumer": "ann", "block_ms": 60_000}
        got.extend(here.post(f"{G}/read", json=wish).json()["events"])

    reader = threading.Thread(target=read)
    reader.start()
    eventually(
        lambda: [one["name"] for one in there.get(f"{G}/consumers").json()["data"]] == ["ann"],
        "the reader asked",
    )
    there.post(f"{S}/events", json={"data": 7}).raise_for_status()
    reader.join(20)
    assert [event["data"] for event in got] == [7]
    done = there.post(f"{G}/ack", json={"tokens": [got[0]["token"]]}).json()
    assert done == {"acked": 1, "stale": []}


def test_what_is_given_back_at_one_server_wakes_the_other(
    both: tuple[httpx.Client, httpx.Client],
) -> None:
    here, there = both
    there.post(f"{S}/events", json={"data": 7}).raise_for_status()
    here.put(G).raise_for_status()
    (event,) = there.post(f"{G}/read", json={"consumer": "bob"}).json()["events"]
    got: list[Any] = []

    def read() -> None:
        wish = {"consumer": "ann", "block_ms": 60_000}
        got.extend(here.post(f"{G}/read", json=wish).json()["events"])

    reader = threading.Thread(target=read)
    reader.start()
    eventually(lambda: len(there.get(f"{G}/consumers").json()["data"]) == 2, "the reader asked")
    there.post(f"{G}/nack", json={"tokens": [event["token"]]}).raise_for_status()
    reader.join(20)
    assert [(event["data"], event["delivery"]) for event in got] == [(7, 2)]


def test_a_follower_at_one_server_sees_what_is_appended_at_the_other(
    both: tuple[httpx.Client, httpx.Client],
) -> None:
    here, there = both
    there.post(f"{S}/events", json={"data": 0}).raise_for_status()
    seen: list[Any] = []
    with here.stream("GET", f"{S}/events?live=sse&after=0") as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                seen.append(json.loads(line[5:])["data"])
                if len(seen) == 3:
                    break
                there.post(f"{S}/events", json={"data": len(seen)}).raise_for_status()
    assert seen == [0, 1, 2]


def test_of_two_servers_one_delivers_a_webhook(both: tuple[httpx.Client, httpx.Client]) -> None:
    here, there = both
    with running_receiver() as receiver:
        hook = {"url": receiver.url + "/in"}
        here.put(f"{S}/webhooks/ours", json=hook).raise_for_status()
        for client in (here, there):
            events = [{"data": n} for n in range(20)]
            client.post(f"{S}/events", json=events).raise_for_status()

        def is_done() -> bool:
            group = here.get(f"{S}/groups/webhook:ours").json()
            return not group["pending"] and not group["lag"]

        eventually(is_done, "all were delivered")
        assert sorted(receiver.data("/in")) == sorted([*range(20), *range(20)])


def test_valkey_that_is_killed_is_503_and_comes_back_with_everything(tmp_path: Path) -> None:
    with running_valkey() as valkey:
        url = valkey.new_url()
        with (
            running_server(tmp_path / "data", MONOLITE_STREAMS_URL=url) as server,
            Tenant(server) as tenant,
        ):
            client = tenant.client
            ids = client.post(f"{S}/events", json=[{"data": n} for n in range(5)]).json()["ids"]
            client.put(G).raise_for_status()
            held = client.post(f"{G}/read", json={"consumer": "ann", "count": 3}).json()["events"]
            valkey.kill()
            refused = client.post(f"{S}/events", json={"data": 5})
            assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
            eventually(lambda: client.get("/readyz").status_code == 503, "it says so")
            assert client.put("/v1/collections/c/documents/d", json={}).status_code == 201
            valkey.start()
            eventually(
                lambda: client.post(f"{S}/events", json={"data": 5}).status_code == 201,
                "it takes events again",
            )
            page = client.get(f"{S}/events").json()["data"]
            assert [event["id"] for event in page][:5] == ids
            tokens = [event["token"] for event in held]
            assert client.post(f"{G}/ack", json={"tokens": tokens}).json()["acked"] == 3
            eventually(lambda: client.get("/readyz").status_code == 200, "it is ready again")


def test_an_append_under_an_idempotency_key_is_made_once(
    valkey: ValkeyServer, tmp_path: Path
) -> None:
    settings = {"MONOLITE_STREAMS_URL": valkey.new_url()}
    with running_server(tmp_path / "data", **settings) as server, Tenant(server) as tenant:
        key = {"Idempotency-Key": "k"}
        first = tenant.client.post(f"{S}/events", json={"data": 1}, headers=key)
        again = tenant.client.post(f"{S}/events", json={"data": 1}, headers=key)
        assert first.json() == again.json()
        assert again.headers["idempotency-replayed"] == "true"
        other = tenant.client.post(f"{S}/events", json={"data": 2}, headers=key)
        assert other.json()["code"] == "idempotency_mismatch"
        assert len(tenant.client.get(f"{S}/events").json()["data"]) == 1


def test_an_append_whose_answer_got_lost_answers_the_same_ids(valkey: ValkeyServer) -> None:
    store = ValkeyStore(valkey.new_url(), FakeClock())
    try:
        events = [NewEvent(piece(None, b"1")), NewEvent(piece(None, b"2"))]

        def append(once: str) -> Any:
            return store.run(store.log.append(1, "orders", events, once=once))

        first = append("ann\0k")
        assert append("ann\0k") == first
        assert append("bob\0k") != first
        stream = store.run(store.log.stream(1, "orders"))
        assert stream is not None
        assert stream.length == 4
    finally:
        store.close()


def test_a_stream_with_its_greatest_id_takes_no_more(valkey: ValkeyServer) -> None:
    store = ValkeyStore(valkey.new_url(), FakeClock())
    try:

        async def append(*events: NewEvent) -> Any:
            return await store.log.append(1, "orders", events)

        near = EventId(LAST.ms, LAST.n - 1)
        store.run(append(NewEvent(b"\t1", Wish(*near))))
        ids = store.run(append(NewEvent(b"\t2")))
        assert ids == [(LAST, 1)]
        for events in ([NewEvent(b"\t3")], [NewEvent(b"\t3", Wish(LAST.ms, None))]):
            with pytest.raises(Conflict) as refused:
                store.run(append(*events))
            assert refused.value.code in ("stream_full", "id_not_increasing")
        runs = store.run(store.log.range(1, "orders", ZERO, LAST, 10))
        assert [event.data for run in runs for event in run] == [b"1", b"2"]
        assert store.run(store.log.stream(1, "orders")).last_id == LAST
    finally:
        store.close()


def test_a_unix_socket_does_as_well(valkey: ValkeyServer, tmp_path: Path) -> None:
    database = valkey.new_url().rpartition("/")[2]
    settings = {"MONOLITE_STREAMS_URL": f"unix://{valkey.socket}?db={database}"}
    with running_server(tmp_path / "data", **settings) as server, Tenant(server) as tenant:
        tenant.client.post(f"{S}/events", json={"data": 1}).raise_for_status()
        tenant.client.put(G).raise_for_status()
        wish = {"consumer": "ann", "block_ms": 10}
        assert len(tenant.client.post(f"{G}/read", json=wish).json()["events"]) == 1
        assert tenant.client.post(f"{G}/read", json=wish).json()["events"] == []


def test_a_deleted_tenant_leaves_nothing(valkey: ValkeyServer, tmp_path: Path) -> None:
    url = valkey.new_url()
    with (
        running_server(tmp_path / "data", MONOLITE_STREAMS_URL=url) as server,
        Tenant(server) as tenant,
        Tenant(server) as other,
        server.client(server.operator_key) as operator,
        valkey.client(url) as redis,
    ):
        other.client.post(f"{S}/events", json={"data": 1}).raise_for_status()
        before = set(redis.keys())
        tenant.client.post(f"{S}/events", json=[{"data": 1}] * 3).raise_for_status()
        tenant.client.put(G, json={"max_deliveries": 1}).raise_for_status()
        (one, _, _) = tenant.client.post(f"{G}/read", json={"consumer": "ann"}).json()["events"]
        dead = tenant.client.post(f"{G}/nack", json={"tokens": [one["token"]]}).json()["dead"]
        assert dead == 1
        assert operator.delete(f"/v1/tenants/{tenant.name}").status_code == 204
        assert set(redis.keys()) - {b"monolite:due"} == before - {b"monolite:due"}


def test_a_server_says_where_its_streams_are(valkey: ValkeyServer, tmp_path: Path) -> None:
    url, data = valkey.new_url(), tmp_path / "data"
    with running_server(data) as server, Tenant(server) as tenant:
        tenant.client.post(f"{S}/events", json={"data": 1}).raise_for_status()
    refused = monolite("serve", MONOLITE_DATA=str(data), MONOLITE_STREAMS_URL=url)
    assert refused.returncode != 0
    assert b"there are streams in the database" in refused.stderr
    # A fresh installation takes to Redis, and then needs it.
    with running_server(tmp_path / "fresh", MONOLITE_STREAMS_URL=url):
        pass
    refused = monolite("serve", MONOLITE_DATA=str(tmp_path / "fresh"))
    assert refused.returncode != 0
    assert b"streams lie in Redis" in refused.stderr
    refused = monolite("serve", MONOLITE_DATA=str(tmp_path / "third"), MONOLITE_STREAMS_URL=url)
    assert refused.returncode != 0
    assert b"another installation" in refused.stderr


def test_a_redis_that_does_not_answer_is_told(tmp_path: Path) -> None:
    url = "redis://127.0.0.1:1/0"
    refused = monolite("serve", MONOLITE_DATA=str(tmp_path / "data"), MONOLITE_STREAMS_URL=url)
    assert refused.returncode != 0
    assert b"Redis does not answer" in refused.stderr
