"""Replicas on disk that follow a document of a real relay: whatever fails, they converge."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from monolite.crdt import GCounter, HybridClock, OrSet, Rga, encode
from monolite.crdt.relay import (
    AesGcm,
    Answer,
    DocumentDeleted,
    HttpSender,
    Offline,
    Refused,
    Synced,
    new_key,
)
from tests.crdt.models import NAMES, OrSets, Sequences, Subject
from tests.eventually import eventually
from tests.server_process import ServerProcess, Tenant, running_server


class Line:
    """A connection of which a test takes requests or answers away."""

    def __init__(self, url: str) -> None:
        self._http = HttpSender(url)
        self.fails: list[str] = []
        self.sent: list[bytes] = []

    def __call__(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> Answer:
        how = self.fails.pop(0) if self.fails else ""
        if how == "request":
            raise Offline("the request was lost")
        self.sent.append(body)
        answer = self._http(method, path, headers, body, timeout_s)
        if how == "answer":
            raise Offline("the answer was lost")
        return answer

    def close(self) -> None:
        self._http.close()


class Device:
    """A replica that can be switched off and on again."""

    def __init__(self, made: type, name: str, folder: Path, url: str, key: str) -> None:
        self.made, self.name, self.key = made, name, key
        self.path = folder / f"{name}.replica"
        self.line = Line(url)
        self.synced = self._opened()

    def _opened(self) -> Synced[Any]:
        return Synced(
            self.made(),
            replica=self.name,
            document="doc",
            path=self.path,
            key=self.key,
            send=self.line,
        )

    def restart(self) -> None:
        self.synced.close()
        self.synced = self._opened()

    def close(self) -> None:
        self.synced.close()
        self.line.close()


@contextmanager
def devices(made: type, folder: Path, url: str, key: str, count: int) -> Iterator[list[Device]]:
    found = [Device(made, name, folder, url, key) for name in NAMES[:count]]
    try:
        yield found
    finally:
        for one in found:
            one.close()


def settle(found: list[Device]) -> None:
    for _ in range(2):
        for one in found:
            one.synced.sync()
    assert len({encode(one.synced.state) for one in found}) == 1


class RelayMachine(RuleBasedStateMachine):
    """The machine of test_convergence over HTTP: drops, resends, restarts, compaction."""

    subject: Subject
    server: ServerProcess
    folder: Path
    runs = 0

    @initialize(count=st.integers(2, 4))
    def begin(self, count: int) -> None:
        type(self).runs += 1
        folder = self.folder / str(self.runs)
        folder.mkdir()
        self.tenant = Tenant(self.server)
        self.devices = [
            Device(self.subject.made, name, folder, self.server.url, self.tenant.key)
            for name in NAMES[:count]
        ]
        self.facts: dict[str, frozenset[Any]] = {}
        self.clock = HybridClock("a")

    def one(self, number: int) -> Device:
        return self.devices[number % len(self.devices)]

    @rule(number=st.integers(0, 3), a=st.integers(0, 11), b=st.integers(0, 11))
    def act(self, number: int, a: int, b: int) -> None:
        one = self.one(number)
        one.synced.push(self._acted(one, a, b))

    def _acted(self, one: Device, a: int, b: int) -> Any:
        state = one.synced.state
        if isinstance(state, Rga):
            if b % 3 == 0 and len(state):
                return state.delete(a % len(state), one.name)
            return state.insert(a % (len(state) + 1), [a, b], one.name)
        return state.add(a % 5, one.name) if b % 3 else state.remove(a % 5)

    @rule(
        number=st.integers(0, 3),
        fails=st.lists(st.sampled_from(("", "request", "answer")), max_size=3),
    )
    def sync(self, number: int, fails: list[str]) -> None:
        one = self.one(number)
        one.line.fails = list(fails)
        try:
            one.synced.sync()
        except Offline:
            assert any(fails)
        one.line.fails = []

    @rule(number=st.integers(0, 3))
    def restart(self, number: int) -> None:
        one = self.one(number)
        before = encode(one.synced.state)
        one.restart()
        assert encode(one.synced.state) == before

    @rule(number=st.integers(0, 3), lost=st.booleans())
    def compact(self, number: int, lost: bool) -> None:
        one = self.one(number)
        one.line.fails = ["answer"] if lost else []
        try:
            one.synced.compact()
        except Offline:
            assert lost
        one.line.fails = []

    @rule(number=st.integers(0, 3))
    def publish(self, number: int) -> None:
        if len(self.one(number).synced.state):
            self.one(number).synced.publish()

    def teardown(self) -> None:
        if not hasattr(self, "devices"):
            return
        merged = self.subject.made()
        for one in self.devices:
            merged.merge(one.synced.state)
        try:
            settle(self.devices)
            assert encode(self.devices[0].synced.state) == encode(merged)
            assert all(one.synced.unsent == 0 for one in self.devices)
        finally:
            for one in self.devices:
                one.close()
            self.tenant.client.close()


@pytest.mark.parametrize("subject", [OrSets(), Sequences()], ids=["OrSet", "Rga"])
def test_replicas_converge_over_http(
    subject: Subject, server: ServerProcess, tmp_path: Path
) -> None:
    machine = type("M", (RelayMachine,), {"subject": subject, "server": server, "folder": tmp_path})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_what_was_written_offline_outlives_a_restart_and_is_sent_once_it_can(
    server: ServerProcess, tenant: Tenant, tmp_path: Path
) -> None:
    with devices(OrSet, tmp_path, server.url, tenant.key, 2) as (phone, laptop):
        for number in range(20):
            phone.synced.push(phone.synced.state.add(number, phone.name))
        phone.line.fails = ["request"]
        with pytest.raises(Offline):
            phone.synced.sync()
        phone.restart()
        assert phone.synced.unsent == 20
        assert phone.synced.state.value == list(range(20))
        # The first update arrives, but not its answer: it is sent again and counts once.
        phone.line.fails = ["answer"]
        with pytest.raises(Offline):
            phone.synced.sync()
        settle([phone, laptop])
        assert phone.synced.unsent == 0
        answer = tenant.client.get("/v1/sync/doc/entries")
        assert len(answer.json()["data"]) == 20


def test_a_late_replica_reads_on_behind_a_snapshot(
    server: ServerProcess, tenant: Tenant, tmp_path: Path
) -> None:
    with devices(Rga, tmp_path, server.url, tenant.key, 3) as (a, b, late):
        a.synced.push(a.synced.state.insert(0, "one", "a"))
        settle([a, b, late])
        for word in ("two", "three"):
            a.synced.push(a.synced.state.insert(0, word, "a"))
        a.synced.sync()
        b.synced.push(b.synced.state.delete(0, "b"))
        b.synced.push(b.synced.state.insert(0, "!", "b"))
        b.synced.sync()
        late.synced.push(late.synced.state.insert(3, " late", "c"))
        assert b.synced.compact()
        assert [e["kind"] for e in tenant.client.get("/v1/sync/doc/entries").json()["data"]] == [
            "snapshot"
        ]
        settle([late, b, a])
        assert "".join(a.synced.state) == "three!twone late"
        assert not b.synced.compact() or b.synced.unsent == 0


def test_everyone_converges_over_a_killed_server(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_server(data) as first:
        tenant = Tenant(first)
        key = tenant.key
        tenant.client.close()
        with devices(OrSet, tmp_path, first.url, key, 2) as (a, b):
            for number in range(5):
                a.synced.push(a.synced.state.add(number, "a"))
            settle([a, b])
            first.process.kill()
            first.process.wait()
            a.synced.push(a.synced.state.add("meanwhile", "a"))
            with pytest.raises(Offline):
                a.synced.sync()
    with running_server(data) as second:
        for one in ("a", "b"):
            assert (tmp_path / f"{one}.replica").exists()
        with devices(OrSet, tmp_path, second.url, key, 2) as (a, b):
            assert a.synced.unsent == 1
            settle([a, b])
            assert len(b.synced.state) == 6


def test_a_follower_hears_at_once_and_stops(
    server: ServerProcess, tenant: Tenant, tmp_path: Path
) -> None:
    with devices(GCounter, tmp_path, server.url, tenant.key, 2) as (a, b):
        b.line.fails = ["request", "answer"]
        thread = threading.Thread(target=b.synced.follow)
        thread.start()
        try:
            for _ in range(3):
                a.synced.push(a.synced.state.increment("a"))
                a.synced.sync()
            eventually(lambda: b.synced.state.value == 3, "the follower hears")
        finally:
            b.synced.stop()
            # What ends the wait at the server.
            a.synced.push(a.synced.state.increment("a"))
            a.synced.sync()
            thread.join(40)
        assert not thread.is_alive()


def test_a_deleted_document_is_not_brought_back(
    server: ServerProcess, tenant: Tenant, tmp_path: Path
) -> None:
    with devices(OrSet, tmp_path, server.url, tenant.key, 2) as (a, b):
        a.synced.push(a.synced.state.add(1, "a"))
        settle([a, b])
        assert tenant.client.delete("/v1/sync/doc").status_code in (200, 204)
        b.synced.push(b.synced.state.add(2, "b"))
        for one in (a, b):
            with pytest.raises(DocumentDeleted):
                one.synced.sync()
        assert b.synced.state.value == [1, 2]
        assert tenant.client.get("/v1/sync/doc/entries").status_code == 404


def test_a_wrong_key_is_refused_and_nothing_is_lost(server: ServerProcess, tmp_path: Path) -> None:
    with devices(OrSet, tmp_path, server.url, "wrong", 1) as (a,):
        a.synced.push(a.synced.state.add(1, "a"))
        with pytest.raises(Refused) as refused:
            a.synced.sync()
        assert refused.value.status == 401
        assert a.synced.unsent == 1


def test_junk_in_the_document_is_skipped_and_stays(
    server: ServerProcess, tenant: Tenant, tmp_path: Path
) -> None:
    octets = {"Content-Type": "application/octet-stream"}
    with devices(OrSet, tmp_path, server.url, tenant.key, 1) as (a,):
        a.synced.push(a.synced.state.add(1, "a"))
        a.synced.sync()
        tenant.client.post("/v1/sync/doc/updates", content=b"junk", headers=octets)
        other_type = encode(GCounter().increment("b"))
        tenant.client.post("/v1/sync/doc/updates", content=other_type, headers=octets)
        a.synced.push(a.synced.state.add(2, "a"))
        a.synced.sync()
        a.restart()
        assert a.synced.compact()
        listed = tenant.client.get("/v1/sync/doc/entries").json()["data"]
        assert [entry["kind"] for entry in listed] == ["update", "update", "snapshot"]


def test_a_sequence_that_was_away_is_rebased(
    server: ServerProcess, tenant: Tenant, tmp_path: Path
) -> None:
    with devices(Rga, tmp_path, server.url, tenant.key, 2) as (a, b):
        a.synced.push(a.synced.state.insert(0, "abc", "a"))
        settle([a, b])
        b.synced.push(b.synced.state.insert(2, "B", "b"))
        a.synced.push(a.synced.state.delete(1, "a"))
        a.synced.push(a.synced.state.insert(2, "d", "a"))
        a.synced.sync()
        a.synced.state.collect(a.synced.state.context)
        assert a.synced.compact()
        assert b.synced.state.tombstone_count == 0
        settle([b, a])
        settle([a, b])
        assert "".join(b.synced.state) == "aBcd"


def test_the_relay_sees_ciphertext_alone(
    server: ServerProcess, tenant: Tenant, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography", reason="pip install cryptography")
    key = new_key()
    line = Line(server.url)

    def opened(name: str, secret: bytes) -> Synced[OrSet]:
        return Synced(
            OrSet(), replica=name, document="doc", path=tmp_path / name, key=tenant.key,
            send=line, cipher=AesGcm(secret, "doc"),
        )  # fmt: skip

    with closing(line), closing(opened("a", key)) as a, closing(opened("b", key)) as b:
        a.push(a.state.add("a secret word", "a"))
        a.sync()
        b.sync()
        assert b.state.value == ["a secret word"]
        with closing(opened("c", new_key())) as stranger:
            stranger.sync()
            assert stranger.state.value == []
    listed = tenant.client.get("/v1/sync/doc/entries?blobs=inline").json()["data"]
    kept = b"".join(base64.b64decode(entry["blob"]) for entry in listed)
    on_disk = (tmp_path / "a").read_bytes()
    for seen in (kept, on_disk, *line.sent):
        assert b"secret word" not in seen
        assert key not in seen
