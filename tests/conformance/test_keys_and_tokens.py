"""Keys and tokens over HTTP: what they open, what they can't hand on, and when they end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import jwt
import pytest

from tests.eventually import eventually
from tests.server_process import ServerProcess, Tenant

DOCUMENTS = "/v1/collections/doc-7/documents"


def mint(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/v1/tokens", json={"scopes": ["documents:read"], "ttl_s": 60} | body)


def token_of(client: httpx.Client, **body: Any) -> str:
    answer = mint(client, **body)
    assert answer.status_code == 201, answer.text
    token: str = answer.json()["token"]
    return token


def test_a_keys_scopes_are_a_subset_of_its_makers(server: ServerProcess, tenant: Tenant) -> None:
    _, narrow = tenant.key_with("admin", "documents:read")
    with server.client(narrow) as client:
        body = {"name": "k", "scopes": ["documents:read", "documents:write"]}
        answer = client.post("/v1/keys", json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope")
        assert "documents:write" in answer.json()["detail"]
        assert mint(client, scopes=["locks"]).status_code == 403


@pytest.mark.parametrize("scopes", [["operator"], ["nonsense"], []])
def test_a_tenant_never_gets_a_scope_that_is_not_its_own(
    client: httpx.Client, scopes: list[str]
) -> None:
    answer = client.post("/v1/keys", json={"name": "k", "scopes": scopes})
    assert answer.status_code in (403, 422)


def test_a_revoked_key_opens_nothing(server: ServerProcess, tenant: Tenant) -> None:
    client = tenant.client
    key_id, key = tenant.key_with("documents:read")
    with server.client(key) as one:
        assert one.get(DOCUMENTS).status_code == 404
        assert client.delete(f"/v1/keys/{key_id}").status_code == 204
        assert one.get(DOCUMENTS).status_code == 401
        assert client.delete(f"/v1/keys/{key_id}").status_code == 404


def test_keys_are_listed_without_their_secret(client: httpx.Client) -> None:
    made = client.post("/v1/keys", json={"name": "web", "scopes": ["documents:read"]}).json()
    listed = client.get("/v1/keys").json()["data"]
    assert [k["name"] for k in listed if k["id"] == made["id"]] == ["web"]
    assert made["key"] not in str(listed)


def test_a_key_ends_at_its_time(client: httpx.Client, server: ServerProcess) -> None:
    soon = time.time() + 1.5
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(soon)) + f".{int(soon * 1000) % 1000:03}Z"
    body = {"name": "k", "scopes": ["documents:read"], "expires_at": text}
    key = client.post("/v1/keys", json=body).json()["key"]
    with server.client(key) as one:
        assert one.get(DOCUMENTS).status_code == 404
        eventually(lambda: one.get(DOCUMENTS).status_code == 401, "the token ends")
    past = {**body, "expires_at": "2020-01-01T00:00:00Z"}
    assert client.post("/v1/keys", json=past).status_code == 422


def test_a_token_has_the_scopes_it_was_given(server: ServerProcess, client: httpx.Client) -> None:
    client.post(DOCUMENTS, json={})
    with server.client(token_of(client)) as phone:
        assert phone.get(DOCUMENTS).status_code == 200
        assert phone.post(DOCUMENTS, json={}).status_code == 403


@pytest.mark.parametrize(
    ("resource", "inside", "outside"),
    [
        ("collections/doc-7", DOCUMENTS, "/v1/collections/doc-70/documents"),
        ("collections/doc-7/documents/one", f"{DOCUMENTS}/one", f"{DOCUMENTS}/one2"),
        ("collections/doc-7/documents/one", f"{DOCUMENTS}/one", DOCUMENTS),
        ("collections/doc-7", f"{DOCUMENTS}/one", "/v1/collections"),
    ],
)
def test_a_token_is_narrowed_by_whole_segments(
    server: ServerProcess, client: httpx.Client, resource: str, inside: str, outside: str
) -> None:
    client.put(f"{DOCUMENTS}/one", json={})
    client.post("/v1/collections/doc-70/documents", json={})
    with server.client(token_of(client, resource=resource)) as phone:
        assert phone.get(inside).status_code == 200
        answer = phone.get(outside)
        assert (answer.status_code, answer.json()["code"]) == (403, "outside_resource")


@pytest.mark.parametrize("resource", ["", "/collections", "a//b", "../x", "a/"])
def test_a_resource_that_is_no_path_is_refused(client: httpx.Client, resource: str) -> None:
    assert mint(client, resource=resource).status_code == 422


def test_a_token_mints_nothing(server: ServerProcess, client: httpx.Client) -> None:
    with server.client(token_of(client, scopes=["admin", "documents:read"])) as phone:
        assert mint(phone).status_code == 403
        made = phone.post("/v1/keys", json={"name": "k", "scopes": ["documents:read"]})
        assert made.status_code == 403


@pytest.mark.parametrize("ttl_s", [0, -1, 24 * 3600 + 1])
def test_a_token_lives_a_day_at_most(client: httpx.Client, ttl_s: int) -> None:
    assert mint(client, ttl_s=ttl_s).status_code == 422


def test_a_token_never_outlives_the_key_that_minted_it(
    server: ServerProcess, tenant: Tenant, client: httpx.Client
) -> None:
    key_id, key = tenant.key_with("documents:read")
    with server.client(key) as minter:
        token = token_of(minter)
    with server.client(token) as phone:
        assert phone.get(DOCUMENTS).status_code == 404
        client.delete(f"/v1/keys/{key_id}")
        assert phone.get(DOCUMENTS).status_code == 401


def test_a_token_expires(server: ServerProcess, client: httpx.Client) -> None:
    with server.client(token_of(client, ttl_s=1)) as phone:
        eventually(lambda: phone.get(DOCUMENTS).status_code == 401, "the token ends")


def test_a_forged_token_is_401(server: ServerProcess, client: httpx.Client) -> None:
    token = token_of(client)
    head, claims, signature = token.split(".")
    stated = jwt.decode(token, options={"verify_signature": False})
    kid = jwt.get_unverified_header(token)["kid"]
    forged = [
        f"{head}.{claims}.{signature[:-4]}AAAA",
        f"{head}.{claims}.",
        jwt.encode(stated, "another key that is long enough to sign", headers={"kid": kid}),
        jwt.encode(stated, "", algorithm="none", headers={"kid": kid}),
        jwt.encode(stated, "x" * 32, headers={"kid": "0"}),
        jwt.encode(stated, "x" * 32),
    ]
    for text in forged:
        with server.client(text) as one:
            assert one.get(DOCUMENTS).status_code == 401, text


def test_a_deleted_tenants_keys_and_tokens_end_and_its_name_is_free(
    server: ServerProcess, operator: httpx.Client, tenant: Tenant
) -> None:
    tenant.client.post(DOCUMENTS, json={})
    token = token_of(tenant.client)
    path = f"/v1/tenants/{tenant.name}"
    assert operator.delete(path).status_code == 204
    assert tenant.client.get(DOCUMENTS).status_code == 401
    with server.client(token) as phone:
        assert phone.get(DOCUMENTS).status_code == 401
    assert operator.get(path).status_code == 404
    again = operator.post("/v1/tenants", json={"name": tenant.name}).json()
    with server.client(again["key"]) as client:
        assert client.get("/v1/collections").json()["data"] == [], "nothing is inherited"


def stream_ends_after(server: ServerProcess, key: str, ending: Callable[[], object]) -> list[str]:
    """Open a stream, do `ending` once it has begun, and collect its lines to its end."""
    lines: list[str] = []
    begun, ended = threading.Event(), threading.Event()

    def listen() -> None:
        with (
            server.client(key) as client,
            client.stream("GET", "/v1/operator/triggers?live=sse") as stream,
        ):
            assert stream.status_code == 200
            assert stream.headers["content-type"].startswith("text/event-stream")
            for line in stream.iter_lines():
                lines.append(line)
                begun.set()
        ended.set()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert begun.wait(10)
    ending()
    assert ended.wait(5), "the stream stayed open"
    return lines


def test_a_stream_ends_when_its_token_expires(
    server: ServerProcess, operator: httpx.Client
) -> None:
    token = token_of(operator, scopes=["operator"], ttl_s=2)
    lines = stream_ends_after(server, token, lambda: None)
    assert any(line.startswith("data: ") for line in lines)
