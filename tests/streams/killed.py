"""A server under kill -9 while events are appended, read, claimed, given back and acknowledged.

What clients were told is recorded outside of it: every append that was answered with 201 is to be
delivered at least once to each group, and its effect, made together with the acknowledgement, is to
be there exactly once.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.server_process import ServerProcess, Tenant

S = "/v1/streams/orders"
PLAIN, EXACT = f"{S}/groups/plain", f"{S}/groups/exact"
EFFECTS = "/v1/collections/effects/documents"
SETTINGS = {"claim_idle_ms": 300, "max_deliveries": 1000, "max_pending": 100_000}
IN_FLIGHT = (httpx.TransportError, ValueError)


class Load:
    """Producers and consumers at one server after the other. `joins` where a document and an
    acknowledgement can be one commit.
    """

    def __init__(self, seed: int, *, joins: bool) -> None:
        self.appended: dict[str, str] = {}  # what was answered: data by id
        self.sent: set[str] = set()
        self.delivered: Counter[str] = Counter()
        self._seed = seed
        self._joins = joins
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self, server: ServerProcess, key: str, number: int) -> None:
        self._stopping.clear()
        roles: list[Callable[[httpx.Client, random.Random], None]] = [
            *(self.produce, self.produce),
            *(self.consume, self.consume, self.consume_exactly, self.consume_exactly),
        ]

        def run(role: Callable[[httpx.Client, random.Random], None], at: int) -> None:
            chance = random.Random(f"{self._seed}-{number}-{at}")
            with server.client(key) as client:
                while not self._stopping.is_set():
                    try:
                        role(client, chance)
                    except IN_FLIGHT:
                        time.sleep(0.005)

        self._threads = [
            threading.Thread(target=run, args=(role, at)) for at, role in enumerate(roles)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def produce(self, client: httpx.Client, chance: random.Random) -> None:
        data = [f"{chance.getrandbits(64):x}" for _ in range(chance.choice((1, 1, 5, 20)))]
        with self._lock:
            self.sent.update(data)
        answer = client.post(f"{S}/events", json=[{"data": one} for one in data])
        if answer.status_code == 201:
            with self._lock:
                self.appended.update(zip(answer.json()["ids"], data, strict=True))
        # Consumers make an effect at a time, and are to keep up.
        time.sleep(0.02)

    def take(self, client: httpx.Client, chance: random.Random, group: str) -> list[Any]:
        who = f"c{chance.randrange(3)}"
        if chance.random() < 0.3:
            wish = {"consumer": who, "min_idle_ms": 200, "count": 20}
            answer = client.post(f"{group}/claim", json=wish)
        else:
            wish = {"consumer": who, "count": chance.choice((1, 10, 100)), "block_ms": 50}
            answer = client.post(f"{group}/read", json=wish)
        events: list[Any] = answer.json()["events"] if answer.status_code == 200 else []
        return events

    def consume(self, client: httpx.Client, chance: random.Random) -> None:
        events = self.take(client, chance, PLAIN)
        with self._lock:
            self.delivered.update(event["id"] for event in events)
        tokens = [event["token"] for event in events]
        if tokens and chance.random() < 0.2:
            client.post(f"{PLAIN}/nack", json={"tokens": tokens, "delay_ms": chance.randrange(300)})
        elif tokens:
            client.post(f"{PLAIN}/ack", json={"tokens": tokens})

    def consume_exactly(self, client: httpx.Client, chance: random.Random) -> None:
        for event in self.take(client, chance, EXACT):
            self.effect(client, event)

    def effect(self, client: httpx.Client, event: Any) -> None:
        made = {"event": event["id"]}
        if self._joins:
            headers = {"X-Ack": f"orders/exact {event['token']}"}
            answer = client.post(EFFECTS, json=made, headers=headers)
            assert answer.status_code in (201, 409, 503), answer.text
            return
        headers = {"If-None-Match": "*"}
        answer = client.put(f"{EFFECTS}/{event['id']}", json=made, headers=headers)
        assert answer.status_code in (201, 412, 503), answer.text
        if answer.status_code != 503:
            client.post(f"{EXACT}/ack", json={"tokens": [event["token"]]})


def survive(
    data: Path,
    seed: int,
    kill_count: int,
    *,
    settings: dict[str, str] | None = None,
    kill_store: Callable[[], None] | None = None,
) -> Load:
    """Kill the server so often, every other time its store where it has one of its own; then check.

    Raises AssertionError where something is lost or doubled.
    """
    chance = random.Random(seed)
    load = Load(seed, joins=kill_store is None)
    key = ""
    for number in range(kill_count):
        server = ServerProcess(data, settings or {})
        server.wait_ready()
        if not key:
            with Tenant(server) as tenant:
                key = tenant.key
                for group in (PLAIN, EXACT):
                    tenant.client.put(group, json=SETTINGS).raise_for_status()
        load.start(server, key, number)
        time.sleep(chance.uniform(0.1, 0.9))
        if kill_store is not None and number % 2:
            kill_store()
            time.sleep(0.3)
        server.stop(signal.SIGKILL)
        load.stop()
    server = ServerProcess(data, settings or {})
    try:
        server.wait_ready()
        with server.client(key) as client:
            _drain(load, client)
            _check(load, client)
    finally:
        server.stop()
    return load


def _drain(load: Load, client: httpx.Client) -> None:
    for group, handle in ((PLAIN, load.consume), (EXACT, load.consume_exactly)):
        chance = random.Random(0)
        deadline = time.monotonic() + 120
        while True:
            shown = client.get(group).json()
            if not shown["pending"] and not shown["lag"]:
                break
            assert time.monotonic() < deadline, shown
            handle(client, chance)


def _check(load: Load, client: httpx.Client) -> None:
    events: dict[str, str] = {}
    cursor = "0"
    while cursor is not None:
        page = client.get(f"{S}/events", params={"after": cursor, "count": 1000}).json()
        events.update((event["id"], event["data"]) for event in page["data"])
        cursor = page["next_cursor"]
    ids = [tuple(map(int, id.split("-"))) for id in events]
    assert ids == sorted(set(ids))
    lost = {id for id, data in load.appended.items() if events.get(id) != data}
    assert not lost, f"{len(lost)} answered events are not in the stream: {sorted(lost)[:3]}"
    assert set(events.values()) <= load.sent
    assert len(set(events.values())) == len(events), "an append was carried out twice"
    undelivered = events.keys() - load.delivered.keys()
    assert not undelivered, f"{len(undelivered)} events were never delivered"
    effects: Counter[str] = Counter()
    page = {"next_cursor": None}
    while True:
        query = {"limit": 1000} | ({"cursor": page["next_cursor"]} if page["next_cursor"] else {})
        page = client.get(EFFECTS, params=query).json()
        effects.update(document["data"]["event"] for document in page["data"])
        if page["next_cursor"] is None:
            break
    assert effects.keys() == events.keys()
    assert set(effects.values()) == {1}, "an effect was made twice"
    assert not client.get(f"{EXACT}/dead").json()["data"]
