"""Tenants, their keys and limits over every engine, by the API of tenancy alone."""

from __future__ import annotations

import socket
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.server_process import ServerProcess, Tenant


def test_the_engine_is_named(operator: httpx.Client, request: pytest.FixtureRequest) -> None:
    engine = operator.get("/v1/operator/status").json()["engine"]
    assert engine["name"] == request.node.callspec.params["engine_name"]
    assert engine["schema_version"] >= 1
    assert engine["database_bytes"] > 0


def test_every_trigger_has_advice(operator: httpx.Client, request: pytest.FixtureRequest) -> None:
    triggers = operator.get("/v1/operator/triggers").json()["data"]
    # Streams lie in SQLite, or in Redis, and are judged where they lie.
    has_streams = request.node.callspec.params["engine_name"] == "sqlite"
    expected = {"read_p99_ms"} | ({"events_per_second"} if has_streams else set())
    assert expected <= {trigger["name"] for trigger in triggers}
    assert all(trigger["advice"] and trigger["threshold"] > 0 for trigger in triggers)


def test_metrics_and_readiness_answer(server: ServerProcess) -> None:
    ready = httpx.get(f"{server.url}/readyz")
    assert ready.status_code == 200
    assert all(check["ok"] for check in ready.json()["checks"].values())
    assert "monolite_writes_total" in httpx.get(f"{server.url}/metrics").text


def test_a_name_is_taken_once(operator: httpx.Client, tenant: Tenant) -> None:
    answer = operator.post("/v1/tenants", json={"name": tenant.name})
    assert (answer.status_code, answer.json()["code"]) == (409, "name_taken")


def test_of_tenants_made_at_once_under_one_name_one_is_there(
    server: ServerProcess, operator: httpx.Client
) -> None:
    body = b'{"name":"contested"}'
    request = (
        f"POST /v1/tenants HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.operator_key}\r\n"
        f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        "\r\n"
    ).encode()
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
    for connection in connections:
        connection.sendall(request)
    for connection in connections:
        connection.sendall(body)
    statuses = []
    for connection in connections:
        with connection:
            statuses.append(connection.recv(65536)[9:12])
    assert sorted(statuses) == [b"201"] + [b"409"] * 7
    assert operator.delete("/v1/tenants/contested").status_code == 204


def test_tenants_are_listed_by_name_page_by_page(operator: httpx.Client, new_tenant: Any) -> None:
    names = ["Zeta.order", "alpha-order", "alpha.order", "alpha1order", "alpha_order", "Beta.order"]
    for name in names:
        assert operator.post("/v1/tenants", json={"name": name}).status_code == 201
    listed, cursor = [], None
    while True:
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = operator.get("/v1/tenants", params=query).json()
        listed += [tenant["name"] for tenant in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [name for name in listed if name.endswith("order")] == sorted(names)
    assert all(one < two for one, two in pairwise(listed)), "as bytes sort, on every engine"
    for name in names:
        operator.delete(f"/v1/tenants/{name}")


def test_a_deleted_tenants_keys_end_and_its_name_is_free(
    server: ServerProcess, operator: httpx.Client, tenant: Tenant
) -> None:
    token = tenant.token("admin")
    assert operator.delete(f"/v1/tenants/{tenant.name}").status_code == 204
    assert tenant.client.get("/v1/keys").status_code == 401
    with server.client(token) as phone:
        assert phone.get("/v1/keys").status_code == 401
    again = operator.post("/v1/tenants", json={"name": tenant.name})
    assert again.status_code == 201
    with server.client(again.json()["key"]) as client:
        assert [key["name"] for key in client.get("/v1/keys").json()["data"]] == ["first"]


def test_a_revoked_key_and_its_tokens_open_nothing(server: ServerProcess, tenant: Tenant) -> None:
    key_id, key = tenant.key_with("admin")
    token = tenant.token("admin", key=key)
    for text in (key, token):
        with server.client(text) as client:
            assert client.get("/v1/keys").status_code == 200
    assert tenant.client.delete(f"/v1/keys/{key_id}").status_code == 204
    for text in (key, token):
        with server.client(text) as client:
            assert client.get("/v1/keys").status_code == 401
    assert tenant.client.delete(f"/v1/keys/{key_id}").status_code == 404


def test_keys_are_listed_by_id_page_by_page(tenant: Tenant) -> None:
    made = {tenant.key_with("locks")[0] for _ in range(7)}
    listed, cursor = [], None
    while True:
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = tenant.client.get("/v1/keys", params=query).json()
        listed += [key["id"] for key in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert made < set(listed)
    assert listed == sorted(listed)


@pytest.mark.parametrize("name", ["Ünïcode ✓", "quo'te\"; DROP TABLE keys --", "a\tb", "e\u0301"])
def test_a_keys_name_comes_back_as_it_was_given(tenant: Tenant, name: str) -> None:
    made = tenant.client.post("/v1/keys", json={"name": name, "scopes": ["locks"]})
    assert made.status_code == 201, made.text
    names = [key["name"] for key in tenant.client.get("/v1/keys").json()["data"]]
    assert name in names


def test_limits_are_kept(operator: httpx.Client, tenant: Tenant) -> None:
    path = f"/v1/tenants/{tenant.name}"
    operator.patch(path, json={"requests_per_minute_max": 900}).raise_for_status()
    tenant.client.put("/v1/settings", json={"requests_per_minute_max": 600}).raise_for_status()
    shown = operator.get(path).json()
    assert shown["requests_per_minute_max"] == 900
    assert shown["own_requests_per_minute_max"] == 600
    assert '"key";q=600;' in tenant.client.get("/v1/settings").headers["ratelimit-policy"]


def test_a_key_made_twice_under_one_idempotency_key_is_one(tenant: Tenant) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"name": "k", "scopes": ["locks"]}
    first = tenant.client.post("/v1/keys", json=body, headers=headers)
    again = tenant.client.post("/v1/keys", json=body, headers=headers)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == {**first.json(), "key": None}
    other = tenant.client.post("/v1/keys", json={**body, "name": "other"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert len(tenant.client.get("/v1/keys").json()["data"]) == 2


def test_a_tokens_replay_is_bound_to_its_subject(server: ServerProcess, tenant: Tenant) -> None:
    headers = {"Idempotency-Key": "once"}
    key = {"name": "k", "scopes": ["locks"]}
    _, maker = tenant.key_with("admin", "locks")
    for _ in range(2):
        with server.client(maker) as client:
            answer = client.post("/v1/keys", json=key, headers=headers)
        assert answer.status_code == 201, answer.text
    answer = tenant.client.post("/v1/keys", json=key, headers=headers)
    assert "idempotency-replayed" not in answer.headers, "another key's"


def test_a_tenant_moves_by_export_and_import(operator: httpx.Client, tenant: Tenant) -> None:
    exported = operator.get(f"/v1/tenants/{tenant.name}/export")
    assert exported.status_code == 200
    name = f"{tenant.name}-moved"
    headers = {"Content-Type": "application/x-ndjson"}
    path = f"/v1/tenants/{name}/import"
    cut = operator.post(path, content=exported.content[:-20], headers=headers)
    assert cut.status_code in (400, 422)
    assert operator.get(f"/v1/tenants/{name}").status_code == 404, "nothing is left of it"
    moved = operator.post(path, content=exported.content, headers=headers)
    assert moved.status_code == 201, moved.text
    shown = operator.get(f"/v1/tenants/{name}").json()
    assert shown["created_at"] == operator.get(f"/v1/tenants/{tenant.name}").json()["created_at"]
    assert operator.post(path, content=exported.content, headers=headers).status_code == 409
