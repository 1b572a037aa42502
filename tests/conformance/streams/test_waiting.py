"""Waiting for events: blocked reads and live streams, woken at once."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import msgspec
import pytest

from tests.conformance.streams.conftest import GroupClient, StreamClient
from tests.eventually import eventually
from tests.server_process import Tenant


class Reader(threading.Thread):
    """A consumer that reads once, with a connection of its own."""

    def __init__(self, tenant: Tenant, group: GroupClient, name: str, **wish: Any) -> None:
        super().__init__()
        self._tenant = tenant
        self._wish = {"consumer": name, "block_ms": 20_000, **wish}
        self._url = f"{group.url}/read"
        self.events: list[dict[str, Any]] = []
        self.status = 0
        self.start()

    def run(self) -> None:
        with self._tenant.server.client(self._tenant.key) as client:
            answer = client.post(self._url, json=self._wish)
        self.status = answer.status_code
        self.events = answer.json().get("events", [])


def all_wait(tenant: Tenant, count: int) -> None:
    """Until so many consumers stand in line at the server."""
    name = "monolite_stream_waiting_consumers"

    def waiting() -> int:
        text = httpx.get(f"{tenant.server.url}/metrics").text
        return next(
            int(float(line.split()[1])) for line in text.splitlines() if line.startswith(name)
        )

    eventually(lambda: waiting() == count, f"{count} consumers that wait")


def test_a_blocked_read_is_answered_by_the_next_append(
    stream: StreamClient, tenant: Tenant
) -> None:
    group = stream.group()
    reader = Reader(tenant, group, "ann")
    all_wait(tenant, 1)
    stream.append("wake")
    reader.join(10)
    assert [event["data"] for event in reader.events] == ["wake"]


def test_a_read_that_waits_in_vain_is_answered_empty(stream: StreamClient) -> None:
    group = stream.group()
    began = time.monotonic()
    assert group.read(block_ms=200) == []
    assert time.monotonic() - began >= 0.2


def test_of_many_that_wait_each_event_wakes_one(stream: StreamClient, tenant: Tenant) -> None:
    group = stream.group()
    readers = [Reader(tenant, group, f"c{n}", count=1) for n in range(8)]
    all_wait(tenant, 8)
    stream.append(*range(5))
    stream.append(5)
    stream.append(6, 7)
    for reader in readers:
        reader.join(10)
    got = [event["data"] for reader in readers for event in reader.events]
    assert sorted(got) == list(range(8))


def test_every_group_that_waits_gets_the_event(stream: StreamClient, tenant: Tenant) -> None:
    readers = [Reader(tenant, stream.group(f"g{n}"), "ann") for n in range(5)]
    all_wait(tenant, 5)
    stream.append("for all")
    for reader in readers:
        reader.join(10)
        assert [event["data"] for event in reader.events] == ["for all"]


def test_who_waits_is_woken_by_what_is_given_back(stream: StreamClient, tenant: Tenant) -> None:
    group = stream.group()
    stream.append("again")
    (event,) = group.read("ann")
    reader = Reader(tenant, group, "bob")
    all_wait(tenant, 1)
    group.post("nack", tokens=[event["token"]], delay_ms=100)
    reader.join(10)
    assert [(e["data"], e["delivery"]) for e in reader.events] == [("again", 2)]


def test_who_waits_is_woken_when_a_delivery_falls_due(stream: StreamClient, tenant: Tenant) -> None:
    group = stream.group(claim_idle_ms=500)
    stream.append("lost")
    group.read("ann")
    reader = Reader(tenant, group, "bob")
    reader.join(10)
    assert [(e["data"], e["delivery"]) for e in reader.events] == [("lost", 2)]


def test_a_consumer_that_hung_up_gets_nothing(stream: StreamClient, tenant: Tenant) -> None:
    group = stream.group()
    body = b'{"consumer":"gone","block_ms":20000}'
    request = (
        f"POST {group.url}/read HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", tenant.server.port)) as connection:
        connection.sendall(request + body)
        all_wait(tenant, 1)
    all_wait(tenant, 0)
    stream.append(1)
    (event,) = group.read("ann")
    assert event["delivery"] == 1


def test_a_blocked_read_ends_with_its_stream(stream: StreamClient, tenant: Tenant) -> None:
    group = stream.group()
    reader = Reader(tenant, group, "ann")
    all_wait(tenant, 1)
    stream.client.delete(stream.url)
    reader.join(10)
    assert reader.status == 404


def test_a_blocked_read_ends_with_its_key(stream: StreamClient, tenant: Tenant) -> None:
    group = stream.group()
    key_id, key = tenant.key_with("streams:consume")
    answers: list[httpx.Response] = []

    def wait() -> None:
        with tenant.server.client(key) as client:
            answers.append(
                client.post(f"{group.url}/read", json={"consumer": "a", "block_ms": 20_000})
            )

    thread = threading.Thread(target=wait)
    thread.start()
    all_wait(tenant, 1)
    tenant.client.delete(f"/v1/keys/{key_id}")
    thread.join(10)
    assert answers[0].json() == {"events": []}


# ── Live streams ───────────────────────────────────────────────────────────────────────────────


def live(
    stream: StreamClient,
    started: threading.Event | None = None,
    last: str | None = None,
    **query: Any,
) -> Iterator[dict[str, Any]]:
    headers = {} if last is None else {"last-event-id": last}
    with stream.client.stream(
        "GET", f"{stream.url}/events", params={"live": "sse", **query}, headers=headers
    ) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        id = ""
        for line in answer.iter_lines():
            if line.startswith(":") and started is not None:
                started.set()
            elif line.startswith("id: "):
                id = line[4:]
            elif line.startswith("data: "):
                event = msgspec.json.decode(line[6:])
                assert event["id"] == id
                yield event


def test_a_live_stream_begins_where_it_is_told_and_goes_on(stream: StreamClient) -> None:
    ids = stream.append(*range(5))
    with closing(live(stream, after="0")) as feed:
        assert [event["data"] for event in itertools.islice(feed, 5)] == list(range(5))
    with closing(live(stream, last=ids[2])) as feed:
        assert next(feed)["data"] == 3
    with closing(live(stream, after=ids[0], last=ids[3])) as feed:
        assert next(feed)["data"] == 4, "Last-Event-ID wins: it is where the client is"


def test_a_live_stream_shows_each_append_as_it_comes(stream: StreamClient, tenant: Tenant) -> None:
    stream.append("before")
    started = threading.Event()
    got: list[Any] = []

    def follow() -> None:
        with (
            tenant.server.client(tenant.key) as client,
            closing(live(StreamClient(client, stream.name), started)) as feed,
        ):
            got.extend(event["data"] for event in itertools.islice(feed, 250))

    thread = threading.Thread(target=follow)
    thread.start()
    assert started.wait(10)
    for n in range(50):
        stream.append(*range(5 * n, 5 * n + 5))
    thread.join(20)
    assert got == list(range(250))


def test_a_live_stream_ends_with_its_stream(stream: StreamClient) -> None:
    stream.append(1)
    feed = live(stream, after="0")
    next(feed)
    stream.client.delete(stream.url)
    assert list(feed) == []


@pytest.mark.parametrize(
    ("query", "headers"),
    [({"after": "x"}, {}), ({}, {"last-event-id": "x"}), ({"order": "desc"}, {})],
)
def test_a_bad_live_stream_is_422(
    stream: StreamClient, query: dict[str, str], headers: dict[str, str]
) -> None:
    stream.append(1)
    answer = stream.client.get(
        f"{stream.url}/events", params={"live": "sse", **query}, headers=headers
    )
    assert answer.status_code == 422
