"""The change feed: every commit once, in order, across restarts."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import msgspec
import pytest

from tests.conformance.engine import Engine
from tests.server_process import Tenant, running_server

C = "/v1/collections/notes"


def events(
    client: httpx.Client, since: str | None = None, last_event_id: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The feed's events as (id, data), until the stream ends."""
    headers = {} if last_event_id is None else {"last-event-id": last_event_id}
    params = {} if since is None else {"since": since}
    with client.stream("GET", f"{C}/changes", params=params, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        event_id = ""
        for line in answer.iter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            elif line.startswith("data: "):
                yield event_id, msgspec.json.decode(line[6:])


def take(client: httpx.Client, count: int, **where: Any) -> list[tuple[str, dict[str, Any]]]:
    """The first events of a feed, which is then closed."""
    with closing(events(client, **where)) as feed:
        return list(itertools.islice(feed, count))


def test_every_kind_of_change_comes_with_its_document_as_it_was(client: httpx.Client) -> None:
    made = client.post(f"{C}/documents", json={"n": 1}).json()
    path = f"{C}/documents/{made['id']}"
    client.patch(path, json={"n": 2})
    client.put(path, json={"m": 3})
    client.delete(path)
    client.put(path, json={"again": True})
    seen = [event for _, event in take(client, 5, since="0")]
    assert [(e["type"], e["revision"], e["data"]) for e in seen] == [
        ("created", 1, {"n": 1}),
        ("updated", 2, {"n": 2}),
        ("updated", 3, {"m": 3}),
        ("deleted", 3, None),
        ("created", 1, {"again": True}),
    ]
    assert {e["id"] for e in seen} == {made["id"]}


def test_a_feed_begins_now_and_goes_on_behind_the_last_event(client: httpx.Client) -> None:
    client.post(f"{C}/documents", json={"n": "before"})
    got: list[tuple[str, dict[str, Any]]] = []
    started = threading.Event()

    def follow() -> None:
        with client.stream("GET", f"{C}/changes") as answer:
            lines = answer.iter_lines()
            next(lines)
            started.set()
            event_id = ""
            for line in lines:
                if line.startswith("id: "):
                    event_id = line[4:]
                elif line.startswith("data: "):
                    got.append((event_id, msgspec.json.decode(line[6:])))
                    if len(got) == 3:
                        return

    thread = threading.Thread(target=follow)
    thread.start()
    assert started.wait(10)
    for n in range(3):
        client.post(f"{C}/documents", json={"n": n})
    thread.join(10)
    assert [event["data"]["n"] for _, event in got] == [0, 1, 2]
    behind = take(client, 2, last_event_id=got[0][0])
    assert [event["data"]["n"] for _, event in behind] == [1, 2]


def test_nothing_is_lost_or_doubled_across_a_restart_under_load(engine: Engine) -> None:
    acknowledged: set[str] = set()
    got: list[tuple[str, dict[str, Any]]] = []
    key = ""
    for life in range(3):
        with running_server(engine.data, **engine.settings) as server:
            if not key:
                with Tenant(server) as tenant:
                    key = tenant.key
                    tenant.client.put(f"{C}/documents/first", json={"n": -1})
                acknowledged.add("first/1")
            stop = threading.Event()

            def write(
                server: Any = server, key: str = key, life: int = life, stop: Any = stop
            ) -> None:
                with server.client(key) as client:
                    for n in itertools.count():
                        try:
                            answer = client.put(
                                f"{C}/documents/d{n % 40}", json={"life": life, "n": n}
                            )
                        except httpx.HTTPError:
                            return
                        shown = answer.json()
                        acknowledged.add(f"{shown['id']}/{shown['revision']}")
                        if stop.is_set():
                            return

            writers = [threading.Thread(target=write) for _ in range(3)]
            for writer in writers:
                writer.start()
            with server.client(key) as client:
                since = "0" if not got else None
                last = got[-1][0] if got else None
                got += take(client, 150, since=since, last_event_id=last)
            server.process.kill()
            server.process.wait()
            stop.set()
            for writer in writers:
                writer.join()
    with running_server(engine.data, **engine.settings) as server, server.client(key) as client:
        client.put(f"{C}/documents/last", json={})
        with closing(events(client, None, got[-1][0])) as feed:
            for event in feed:
                got.append(event)
                if event[1]["id"] == "last":
                    break
    seen = [f"{event['id']}/{event['revision']}" for _, event in got]
    assert len(set(seen)) == len(seen)
    assert acknowledged <= set(seen)
    ids = [[int(part) for part in event_id.split("-")] for event_id, _ in got]
    assert ids == sorted(ids)
    newest: dict[str, int] = {}
    for _, event in got:
        assert event["revision"] == newest.get(event["id"], 0) + 1
        newest[event["id"]] = event["revision"]


def test_a_feed_ends_with_its_collection(client: httpx.Client) -> None:
    client.post(f"{C}/documents", json={"n": 1})
    feed = events(client, since="0")
    next(feed)
    client.delete(C)
    assert list(feed) == []


def test_changes_older_than_the_retention_are_gone_and_said_so(engine: Engine) -> None:
    with running_server(engine.data, **engine.settings) as server, Tenant(server) as tenant:
        for n in range(5):
            tenant.client.put(f"{C}/documents/a", json={"n": n})
        ((first, _),) = take(tenant.client, 1, since="0")
    with (
        running_server(
            engine.data, **engine.settings, MONOLITE_CHANGES_RETENTION_S="0.001"
        ) as server,
        server.client(tenant.key) as client,
    ):
        deadline = time.monotonic() + 20
        expired = {"headers": {"last-event-id": first}}
        with client.stream("GET", f"{C}/changes", **expired) as answer:
            status = answer.status_code
        while status != 410 and time.monotonic() < deadline:
            with client.stream("GET", f"{C}/changes", **expired) as answer:
                status = answer.status_code
        assert status == 410
        problem = client.get(f"{C}/changes", **expired).json()
        assert problem["code"] == "changes_expired"
        ((_, newest),) = take(client, 1, since="0")
        assert newest["data"] == {"n": 4}


@pytest.mark.parametrize("bad", ["x", "-1", "1.5", "9" * 30])
def test_what_is_no_event_id_is_422(client: httpx.Client, bad: str) -> None:
    client.post(f"{C}/documents", json={})
    with client.stream("GET", f"{C}/changes", headers={"last-event-id": bad}) as answer:
        assert answer.status_code == 422
        assert answer.read()
        assert answer.json()["errors"][0]["pointer"] == "Last-Event-ID"


def test_an_event_id_beyond_the_newest_is_gone(client: httpx.Client) -> None:
    client.post(f"{C}/documents", json={})
    ((newest, _),) = take(client, 1, since="0")
    beyond = re.sub(r"^\d+", "999999999999", newest)
    with client.stream("GET", f"{C}/changes", headers={"last-event-id": beyond}) as answer:
        assert answer.status_code == 410
        answer.read()
        assert answer.json()["code"] == "changes_expired"
