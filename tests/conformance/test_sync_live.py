"""Following a document: long polls, streams and WebSockets, which hear the same."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from monolite.sync.frames import PRESENCE, STATE, UPDATE, frame
from tests.eventually import eventually
from tests.relay_socket import relay_socket
from tests.server_process import ServerProcess, Tenant

D = "/v1/sync/doc-7"
OCTETS = {"Content-Type": "application/octet-stream"}


def append(client: httpx.Client, blob: bytes, path: str = D) -> int:
    answer = client.post(f"{path}/updates", content=blob, headers=OCTETS)
    assert answer.status_code in (200, 201), answer.text
    seq: int = answer.json()["seq"]
    return seq


def now(client: httpx.Client) -> str:
    found: str = client.get(f"{D}/entries?limit=1000").json()["next_cursor"]
    return found


def later(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


class Events:
    """A stream's events as (event, id, data), read as they come."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def until_up_to_date(self) -> list[dict[str, Any]]:
        found = []
        for line in self._lines:
            if line == ": up to date":
                return found
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
        raise AssertionError("the stream ended")

    def next(self) -> tuple[str, str, dict[str, Any]]:
        event, event_id = "message", ""
        for line in self._lines:
            if line.startswith("event: "):
                event = line[7:]
            elif line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                return event, event_id, json.loads(line[6:])
        raise AssertionError("the stream ended")

    def ends(self) -> bool:
        return list(self._lines)[-1:] in ([], [""])


@contextmanager
def stream(
    client: httpx.Client, last_event_id: str | None = None, **params: Any
) -> Iterator[Events]:
    headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
    given = {"live": "sse", **params}
    with client.stream("GET", f"{D}/entries", params=given, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Events(answer.iter_lines())


# ── Long polls ─────────────────────────────────────────────────────────────────────────────────


def test_a_long_poll_answers_with_what_comes(client: httpx.Client) -> None:
    append(client, b"before")
    since = now(client)
    writer = later(lambda: append(client, b"after"))
    params = {"since": since, "live": "long-poll", "timeout_ms": 20_000, "blobs": "inline"}
    answer = client.get(f"{D}/entries", params=params)
    writer.join()
    assert answer.status_code == 200, answer.text
    (entry,) = answer.json()["data"]
    assert (entry["seq"], base64.b64decode(entry["blob"])) == (2, b"after")


def test_a_long_poll_is_204_when_nothing_came(client: httpx.Client) -> None:
    append(client, b"before")
    params = {"since": now(client), "live": "long-poll", "timeout_ms": 50}
    answer = client.get(f"{D}/entries", params=params)
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["x-epoch"] == "1"


def test_a_long_poll_hears_of_deletion(client: httpx.Client) -> None:
    append(client, b"before")
    params = {"since": now(client), "live": "long-poll", "timeout_ms": 20_000}
    deleter = later(lambda: client.delete(D))
    answer = client.get(f"{D}/entries", params=params)
    deleter.join()
    assert (answer.status_code, answer.json()["code"]) == (410, "epoch_ended")


# ── Streams ────────────────────────────────────────────────────────────────────────────────────


def test_a_stream_brings_what_is_there_and_then_what_comes(client: httpx.Client) -> None:
    append(client, b"one")
    client.put(f"{D}/states/phone", content=b"state", headers=OCTETS)
    with stream(client, blobs="inline") as events:
        there = events.until_up_to_date()
        assert [(e["seq"], e["kind"]) for e in there] == [(1, "update"), (2, "state")]
        append(client, b"three")
        event, event_id, data = events.next()
        assert (event, data["seq"], base64.b64decode(data["blob"])) == ("message", 3, b"three")
        append(client, b"three")
        append(client, b"four")
        assert events.next()[2]["seq"] == 4, "a resend is no news"
    with stream(client, last_event_id=event_id) as events:
        (entry,) = events.until_up_to_date()
        assert entry["seq"] == 4
        assert "blob" not in entry


def test_a_stream_pages_through_a_long_backlog_in_order(client: httpx.Client) -> None:
    for n in range(700):
        append(client, b"%d" % n)
    with stream(client) as events:
        assert [e["seq"] for e in events.until_up_to_date()] == list(range(1, 701))


def test_every_listener_hears_every_entry_once_and_in_order(
    tenant: Tenant, server: ServerProcess
) -> None:
    """Listeners that come at any moment, while others write."""
    count, heard = 60, []
    append(tenant.client, b"first")

    def listen() -> None:
        with server.client(tenant.key) as client, stream(client) as events:
            found: list[int] = [e["seq"] for e in events.until_up_to_date()]
            while found[-1:] != [count + 1]:
                found.append(events.next()[2]["seq"])
            heard.append(found)

    def listen_by_socket() -> None:
        with relay_socket(server, "doc-7", tenant.key) as socket:
            heard.append([e["seq"] for e in socket.entries(count + 1)])

    listeners = []
    for n in range(count):
        if n % 8 == 0:
            listeners += [later(listen), later(listen_by_socket)]
        append(tenant.client, b"%d" % n)
    for listener in listeners:
        listener.join(30)
    assert heard == [list(range(1, count + 2))] * len(listeners)


def test_presence_reaches_listeners_and_is_stored_nowhere(client: httpx.Client) -> None:
    append(client, b"one")
    with stream(client) as events:
        events.until_up_to_date()
        answer = client.post(f"{D}/ephemeral", content=b"\x00here", headers=OCTETS)
        assert answer.status_code == 204
        event, event_id, data = events.next()
        assert (event, event_id, base64.b64decode(data["blob"])) == ("ephemeral", "", b"\x00here")
    assert client.get(D).json()["seq"] == 1
    with stream(client) as events:
        assert [e["seq"] for e in events.until_up_to_date()] == [1]


def test_presence_over_its_cap_is_413(client: httpx.Client) -> None:
    largest = client.post(f"{D}/ephemeral", content=b"x" * 16_384, headers=OCTETS)
    over = client.post(f"{D}/ephemeral", content=b"x" * 16_385, headers=OCTETS)
    assert (largest.status_code, over.status_code) == (204, 413)


def test_a_stream_tells_of_deletion_and_ends(client: httpx.Client) -> None:
    append(client, b"one")
    with stream(client) as events:
        events.until_up_to_date()
        client.delete(D)
        assert events.next()[::2] == ("deleted", {"epoch": 2})
        assert events.ends()


def test_a_stream_from_a_place_that_is_gone_is_410(client: httpx.Client) -> None:
    for n in range(3):
        append(client, b"%d" % n)
    early = client.get(f"{D}/entries?limit=1").json()["next_cursor"]
    client.post(f"{D}/snapshots", content=b"s", headers={**OCTETS, "X-Supersedes": "1-3"})
    with client.stream("GET", f"{D}/entries?live=sse", headers={"Last-Event-ID": early}) as answer:
        answer.read()
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (410, "cursor_compacted")
    with stream(client, since=problem["cursor"]) as events:
        assert [e["seq"] for e in events.until_up_to_date()] == [4]


def test_listeners_are_counted_and_limited(tenant: Tenant) -> None:
    client = tenant.client
    client.put("/v1/settings/sync", json={"listener_count_max": 2})
    append(client, b"one")
    with stream(client) as first, stream(client) as second:
        first.until_up_to_date()
        second.until_up_to_date()
        answer = client.get(f"{D}/entries?live=sse")
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_listeners")
        assert answer.headers["retry-after"]
        with relay_socket(tenant.server, "doc-7", tenant.key) as socket:
            assert socket.closed() == (4429, "too_many_listeners")

    def is_free() -> bool:
        with client.stream("GET", f"{D}/entries?live=sse") as answer:
            return answer.status_code == 200

    eventually(is_free, "their places are given back")


# ── WebSockets ─────────────────────────────────────────────────────────────────────────────────


def test_a_socket_writes_and_hears(tenant: Tenant) -> None:
    append(tenant.client, b"before")
    with relay_socket(tenant.server, "doc-7", tenant.key) as socket:
        assert socket.next() == {"type": "ready", "epoch": 1}
        (there,) = socket.next("entries")["data"]
        assert base64.b64decode(there["blob"]) == b"before"
        cursor = socket.next("up_to_date")["next_cursor"]
        socket.send(type="update", id="a", blob=b"mine")
        ack = socket.next("ack")
        assert (ack["id"], ack["seq"], ack["epoch"], ack["created"]) == ("a", 2, 1, True)
        assert socket.entries(1)[0]["etag"] == ack["etag"]
        socket.send(type="update", id="b", blob=b"mine")
        assert socket.next("ack", "entries")["created"] is False
        socket.send(type="state", id=3, replica="phone", blob=b"state")
        assert socket.next("ack")["seq"] == 3
        socket.send(type="snapshot", id=4, supersedes="1-2", blob=b"merged")
        assert socket.next("ack")["seq"] == 4
    found = tenant.client.get(f"{D}/entries", params={"since": cursor})
    assert found.json()["code"] == "cursor_compacted", "its cursor is good over HTTP"
    with relay_socket(tenant.server, "doc-7", tenant.key, blobs=False) as socket:
        assert [(e["seq"], "blob" in e) for e in socket.entries(2)] == [(3, False), (4, False)]


def test_a_socket_speaks_frames(tenant: Tenant) -> None:
    append(tenant.client, b"before")
    with relay_socket(tenant.server, "doc-7", tenant.key, frames="binary") as socket:
        there = socket.next_frame()
        assert (there.kind, there.number, there.blob) == (UPDATE, 1, b"before")
        message = frame(UPDATE, 70, None, "", b"u") + frame(STATE, 71, "phone", "", b"s")
        socket.connection.send(message)
        acks = [socket.next("ack") for _ in range(2)]
        assert [(a["id"], a["seq"]) for a in acks] == [(70, 2), (71, 3)]
        with relay_socket(tenant.server, "doc-7", tenant.key, since=there.cursor) as other:
            assert [e["seq"] for e in other.entries(2)] == [2, 3]
            other.next("up_to_date")
            other.send(type="ephemeral", blob=b"here", id=1)
            assert other.next("ack", "ephemeral") == {"type": "ack", "id": 1}, "not its own"
            # Presence is in no order with entries.
            heard = sorted((f.kind, f.number, f.blob) for f in (socket.next_frame() for _ in "abc"))
            assert heard == [(STATE, 3, b"s"), (UPDATE, 2, b"u"), (PRESENCE, 0, b"here")]


def test_a_document_that_is_not_there_yet_is_waited_for(tenant: Tenant) -> None:
    with relay_socket(tenant.server, "doc-7", tenant.key) as first:
        first.next("up_to_date")
        with relay_socket(tenant.server, "doc-7", tenant.key) as second:
            second.next("up_to_date")
            first.send(type="update", id=1, blob=b"begun")
            assert first.next("ack")["seq"] == 1
            assert second.entries(1)[0]["seq"] == 1


def test_a_refused_message_leaves_the_connection_open(tenant: Tenant) -> None:
    with relay_socket(tenant.server, "doc-7", tenant.key) as socket:
        for message, status, code in (
            ({"type": "update", "blob": b""}, 422, "empty_blob"),
            ({"type": "update", "blob": b"x" * ((8 << 20) + 1)}, 413, "body_too_large"),
            ({"type": "snapshot", "blob": b"s", "supersedes": "9"}, 422, "unknown_entries"),
            ({"type": "snapshot", "blob": b"s", "supersedes": "x"}, 422, "invalid"),
            ({"type": "state", "blob": b"s", "replica": "../x"}, 422, "invalid"),
            (
                {"type": "state", "blob": b"s", "replica": "a", "if_match": '"x"'},
                412,
                "precondition_failed",
            ),
            (
                {"type": "state", "blob": b"s", "replica": "a", "if_match": "x"},
                400,
                "malformed",
            ),
        ):
            socket.send(id=7, **message)
            error = socket.next("error")
            assert (error["id"], error["status"], error["code"]) == (7, status, code)
        socket.send(type="update", id=8, blob=b"good")
        assert socket.next("ack")["seq"] == 1


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("garbage", 4400),
        ("[]", 4422),
        ("{}", 4422),
        ('{"type": "nonsense"}', 4422),
        ('{"type": "update"}', 4422),
        ('{"type": "update", "blob": 5}', 4422),
        ('{"type": "update", "blob": "!"}', 4422),
        ('{"type": "hello"}', 4422),
        (b"", None),
        (b"x", 4422),
        (frame(3, 1, None, "", b"a snapshot"), 4422),
        (frame(2, 1, None, "", b"cut")[:-1], 4422),
        (b"\xff" * 40, 4422),
    ],
)
def test_garbage_closes_the_connection_and_stores_nothing(
    tenant: Tenant, message: str | bytes, code: int | None
) -> None:
    with relay_socket(tenant.server, "doc-7", tenant.key) as socket:
        socket.next("up_to_date")
        socket.connection.send(message)
        if code is None:
            socket.send(type="update", id=1, blob=b"still here")
            assert socket.next("ack")["seq"] == 1
        else:
            assert socket.closed()[0] == code
            assert tenant.client.get(D).status_code == 404


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ("garbage", 4400),
        (b"binary", 4400),
        ('{"type": "update", "blob": "eA=="}', 4400),
        ('{"type": "hello"}', 4401),
        ('{"type": "hello", "token": "nope"}', 4401),
        ('{"type": "hello", "token": 5}', 4422),
    ],
)
def test_a_connection_that_does_not_say_who_it_is_is_closed(
    server: ServerProcess, first: str | bytes, code: int
) -> None:
    with relay_socket(server, "doc-7") as socket:
        socket.connection.send(first)
        assert socket.closed()[0] == code


def test_a_token_may_be_the_header_or_a_subprotocol_but_not_in_the_address(
    tenant: Tenant,
) -> None:
    url = f"ws://127.0.0.1:{tenant.server.port}{D}/ws"
    token = tenant.token("sync:read", resource="sync/doc-7")
    offered: list[Any] = ["monolite.sync.v1", f"bearer.{token}"]
    with connect(url, subprotocols=offered) as connection:
        assert connection.subprotocol == "monolite.sync.v1"
        connection.send('{"type": "hello"}')
        assert json.loads(connection.recv(timeout=10))["type"] == "ready"
    with connect(url, additional_headers={"Authorization": f"Bearer {token}"}) as connection:
        connection.send('{"type": "hello"}')
        assert json.loads(connection.recv(timeout=10))["type"] == "ready"
    for address, headers, status in (
        (f"{url}?token={token}", {}, 422),
        (url, {"Authorization": "Bearer nope"}, 401),
        (url.replace("doc-7", "doc-70"), {"Authorization": f"Bearer {token}"}, 403),
        (url.replace("/ws", "/socket"), {"Authorization": f"Bearer {token}"}, 404),
    ):
        with pytest.raises(InvalidStatus) as refused, connect(address, additional_headers=headers):
            pass
        assert refused.value.response.status_code == status, address
        assert refused.value.response.headers["content-type"] == "application/problem+json"


def test_a_socket_does_what_its_token_may(tenant: Tenant) -> None:
    reader = tenant.token("sync:read", resource="sync/doc-7")
    with relay_socket(tenant.server, "doc-7", reader) as socket:
        socket.send(type="update", id=1, blob=b"x")
        assert socket.next("error")["code"] == "missing_scope"
    writer = tenant.token("sync:read", "sync:write", resource="sync/doc-7")
    with relay_socket(tenant.server, "doc-7", writer) as socket:
        socket.send(type="update", id=1, blob=b"x")
        assert socket.next("ack")["seq"] == 1
        socket.send(type="snapshot", id=2, supersedes="1", blob=b"x")
        assert socket.next("error")["code"] == "missing_scope"
    with relay_socket(tenant.server, "doc-70", writer) as socket:
        assert socket.closed() == (4403, "outside_resource")
    _, key = tenant.key_with("documents:read")
    with relay_socket(tenant.server, "doc-7", key) as socket:
        assert socket.closed() == (4403, "missing_scope")


def test_messages_count_against_the_keys_rate(
    server: ServerProcess, tenant: Tenant, operator: httpx.Client
) -> None:
    operator.patch(f"/v1/tenants/{tenant.name}", json={"requests_per_minute_max": 5})
    with relay_socket(server, "doc-7", tenant.key) as socket:
        socket.next("up_to_date")
        for n in range(5):
            socket.send(type="update", id=n, blob=b"%d" % n)
        error = socket.next("error")
        assert (error["id"], error["status"], error["code"]) == (4, 429, "rate_limited")
        assert error["retry_after_s"] > 0


def test_a_socket_of_an_ended_epoch_is_closed_and_brings_nothing_back(tenant: Tenant) -> None:
    append(tenant.client, b"one")
    with relay_socket(tenant.server, "doc-7", tenant.key) as socket:
        cursor = socket.next("up_to_date")["next_cursor"]
        tenant.client.delete(D)
        assert socket.next("deleted") == {"type": "deleted", "epoch": 2}
        assert socket.closed() == (4410, "epoch_ended")
    for hello in ({"epoch": 1}, {"since": cursor}):
        with relay_socket(tenant.server, "doc-7", tenant.key, **hello) as socket:
            assert socket.closed() == (4410, "epoch_ended")
    with relay_socket(tenant.server, "doc-7", tenant.key, since="nonsense") as socket:
        assert socket.closed() == (4422, "invalid")
    assert tenant.client.get(D).status_code == 404


def test_a_connection_ends_with_the_key_that_minted_its_token(tenant: Tenant) -> None:
    key_id, key = tenant.key_with("sync:read", "sync:write")
    token = tenant.token("sync:read", key=key, resource="sync/doc-7")
    with (
        relay_socket(tenant.server, "doc-7", token) as by_token,
        relay_socket(tenant.server, "doc-7", key) as by_key,
        relay_socket(tenant.server, "doc-7", tenant.key) as another,
    ):
        for socket in (by_token, by_key, another):
            socket.next("ready")
        assert tenant.client.delete(f"/v1/keys/{key_id}").status_code == 204
        assert by_token.closed() == (4401, "unauthenticated")
        assert by_key.closed() == (4401, "unauthenticated")
        another.send(type="update", id="still", blob=b"here")
        assert another.next("ack", "entries")
