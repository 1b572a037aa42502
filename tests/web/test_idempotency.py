"""Idempotency-Key from outside, and its clock from inside."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from monolite.errors import Conflict
from monolite.tenancy.principal import Principal
from monolite.tenancy.quotas import RateWindow
from monolite.web.answer import Answer
from monolite.web.call import Call
from monolite.web.idempotency import KEPT_MS, Idempotency, StoredAnswer
from monolite.web.operation import Operation
from tests.server_process import Tenant

DOCUMENTS = "/v1/collections/notes/documents"
KEY = {"Idempotency-Key": "once"}


def count(tenant: Tenant) -> int:
    return len(tenant.client.get(f"{DOCUMENTS}?limit=1000").json()["data"])


def test_a_retry_gets_the_first_answer_and_writes_nothing(tenant: Tenant) -> None:
    first = tenant.client.post(DOCUMENTS, json={"a": 1}, headers=KEY)
    again = tenant.client.post(DOCUMENTS, json={"a": 1}, headers=KEY)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.content) == (201, first.content)
    for name in ("etag", "location", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert count(tenant) == 1


def test_another_payload_or_address_under_the_key_is_422(tenant: Tenant) -> None:
    tenant.client.post(DOCUMENTS, json={"a": 1}, headers=KEY)
    others = ((DOCUMENTS, {"a": 2}), ("/v1/collections/others/documents", {"a": 1}))
    for path, body in others:
        answer = tenant.client.post(path, json=body, headers=KEY)
        assert answer.status_code == 422
        assert answer.json()["code"] == "idempotency_mismatch"
    assert count(tenant) == 1


def test_a_refusal_is_not_kept(tenant: Tenant) -> None:
    headers = {**KEY, "Content-Type": "application/json"}
    assert tenant.client.post(DOCUMENTS, content=b"{", headers=headers).status_code == 400
    assert tenant.client.post(DOCUMENTS, json={}, headers=KEY).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_key_that_is_none_is_422(tenant: Tenant, key: str) -> None:
    answer = tenant.client.post(DOCUMENTS, json={}, headers={"Idempotency-Key": key})
    assert answer.status_code == 422


def test_a_replay_is_bound_to_its_key_and_tenant(new_tenant: Any) -> None:
    one, two = new_tenant(), new_tenant()
    _, second_key = one.key_with("documents:read", "documents:write")
    one.client.post(DOCUMENTS, json={"a": 1}, headers=KEY)
    with one.server.client(second_key) as sibling:
        for client in (sibling, two.client):
            answer = client.post(DOCUMENTS, json={"a": 1}, headers=KEY)
            assert answer.status_code == 201
            assert "idempotency-replayed" not in answer.headers


def test_after_its_key_is_revoked_nothing_is_replayed(tenant: Tenant) -> None:
    key_id, key = tenant.key_with("documents:write")
    with tenant.server.client(key) as client:
        assert client.post(DOCUMENTS, json={}, headers=KEY).status_code == 201
        tenant.client.delete(f"/v1/keys/{key_id}").raise_for_status()
        assert client.post(DOCUMENTS, json={}, headers=KEY).status_code == 401


def test_a_token_without_the_scope_gets_no_replay(tenant: Tenant) -> None:
    writer = tenant.token("documents:write", subject="s")
    reader = tenant.token("documents:read", subject="s")
    with tenant.server.client(writer) as client:
        assert client.post(DOCUMENTS, json={}, headers=KEY).status_code == 201
        again = client.post(DOCUMENTS, json={}, headers=KEY)
        assert again.headers["idempotency-replayed"] == "true"
    with tenant.server.client(reader) as client:
        assert client.post(DOCUMENTS, json={}, headers=KEY).status_code == 403


def test_a_secret_is_shown_once_and_not_replayed(tenant: Tenant, operator: Any) -> None:
    body = {"name": "k", "scopes": ["documents:read"]}
    first = tenant.client.post("/v1/keys", json=body, headers=KEY).json()
    again = tenant.client.post("/v1/keys", json=body, headers=KEY)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == {**first, "key": None}
    named = {"Idempotency-Key": f"make-{tenant.name}"}
    made = [
        operator.post("/v1/tenants", json={"name": f"{tenant.name}-b"}, headers=named).json()
        for _ in range(2)
    ]
    assert made[1] == {**made[0], "key": None}
    assert made[0]["key"].startswith("mk_")


def test_an_answer_over_64_kib_is_not_kept_and_not_done_again(tenant: Tenant) -> None:
    body = {"text": "x" * 70_000}
    assert tenant.client.post(DOCUMENTS, json=body, headers=KEY).status_code == 201
    again = tenant.client.post(DOCUMENTS, json=body, headers=KEY)
    assert again.status_code == 409
    assert again.json()["code"] == "idempotency_answer_not_kept"
    assert count(tenant) == 1


def test_of_retries_sent_at_once_one_writes(tenant: Tenant) -> None:
    request = (
        f"POST {DOCUMENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\n"
        "Content-Type: application/json\r\nIdempotency-Key: once\r\nConnection: close\r\n"
        "Content-Length: 7\r\n\r\n"
    ).encode()
    connections = [socket.create_connection(("127.0.0.1", tenant.server.port)) for _ in range(16)]
    for connection in connections:
        connection.sendall(request)
    for connection in connections:
        connection.sendall(b'{"a":1}')
    answers = []
    for connection in connections:
        with connection:
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            answers.append(answer)
    statuses = [answer[9:12] for answer in answers]
    assert set(statuses) <= {b"201", b"409"}
    fresh = [a for a in answers if a[9:12] == b"201" and b"idempotency-replayed" not in a.lower()]
    assert len(fresh) == 1
    assert count(tenant) == 1


# ── With a clock of its own ────────────────────────────────────────────────────────────────────


class FakeClock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class InMemory:
    """The engine's contract over a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[tuple[Any, ...], tuple[StoredAnswer, int]] = {}

    async def find(
        self, tenant_id: int, identity: str, operation: str, key: str, now_ms: int
    ) -> StoredAnswer | None:
        found = self.kept.get((tenant_id, identity, operation, key))
        return found[0] if found is not None and found[1] > now_ms else None

    def record(
        self,
        transaction: Any,
        tenant_id: int,
        identity: str,
        operation: str,
        key: str,
        answer: StoredAnswer,
        expires_at_ms: int,
    ) -> None:
        self.kept[tenant_id, identity, operation, key] = (answer, expires_at_ms)

    async def purge(self, now_ms: int, count_max: int) -> int:
        gone = [k for k, (_, expires_at) in self.kept.items() if expires_at <= now_ms][:count_max]
        for key in gone:
            del self.kept[key]
        return len(gone)


async def _unused(call: Call) -> Answer:
    raise AssertionError("the handler is not under test")


OPERATION = Operation(
    "things.make", "POST", "/v1/things", "admin", "Make", _unused, {201: None}, creates=True
)


def call(body: bytes = b"{}") -> Call:
    made = Call(
        OPERATION,
        {"path": "/v1/things", "query_string": b""},
        lambda: asyncio.sleep(0, {}),
        {},
        {},
        "r",
    )
    made.raw = body
    made.principal = Principal(
        tenant_id=1, tenant_name="t", key_id="k", scopes=frozenset(), window=RateWindow(None)
    )
    return made


def run_once(idempotency: Idempotency) -> Call:
    first = call()
    assert asyncio.run(idempotency.replay(first, "key")) is None
    companion = first.companion(lambda _: Answer(201, b"made"))
    assert companion is not None
    companion(None, None)
    idempotency.end(first)
    return first


def test_while_the_first_runs_a_second_is_refused() -> None:
    idempotency = Idempotency(InMemory(), FakeClock())
    first = call()
    assert asyncio.run(idempotency.replay(first, "key")) is None
    with pytest.raises(Conflict) as refused:
        asyncio.run(idempotency.replay(call(), "key"))
    assert refused.value.code == "idempotency_in_progress"
    idempotency.end(first)
    assert asyncio.run(idempotency.replay(call(), "key")) is None


def test_an_answer_is_kept_for_24_hours_and_then_purged() -> None:
    engine, clock = InMemory(), FakeClock()
    idempotency = Idempotency(engine, clock)
    run_once(idempotency)
    assert KEPT_MS == 86_400_000
    clock.ms += KEPT_MS - 1
    replayed = asyncio.run(idempotency.replay(call(), "key"))
    assert replayed is not None
    assert replayed.body == b"made"
    assert asyncio.run(idempotency.purge()) == 0
    clock.ms += 1
    assert asyncio.run(idempotency.replay(call(), "key")) is None
    assert asyncio.run(idempotency.purge()) == 1
    assert not engine.kept
