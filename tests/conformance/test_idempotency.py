"""Idempotency-Key from outside, over every engine."""

from __future__ import annotations

import socket
from typing import Any

import pytest

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
