"""The table of conventions in the HTTP contract, from outside."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.server_process import ServerProcess, Tenant

MEMBERS = {"type", "title", "status", "detail", "instance", "code", "request_id"}
DOCUMENTS = "/v1/collections/notes/documents"


def assert_problem(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    problem: dict[str, Any] = answer.json()
    assert problem.keys() >= MEMBERS
    assert problem["status"] == status
    assert problem["type"] == f"urn:monolite:problem:{problem['code']}"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert re.fullmatch("[a-z_]+", problem["code"])
    if code is not None:
        assert problem["code"] == code
    return problem


# ── Credentials ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer  x",
        "Basic bWs6eA==",
        "Bearer nonsense",
        "Bearer mk_0000000000000000_" + "0" * 38,
        "Bearer eyJhbGciOiJub25lIn0.e30.",
    ],
)
def test_no_or_bad_credential_is_401_and_names_the_scheme(
    server: ServerProcess, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = httpx.get(f"{server.url}/v1/collections", headers=headers)
    assert_problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_with_one_character_changed_is_401(tenant: Tenant) -> None:
    changed = tenant.key[:-10] + ("A" if tenant.key[-10] != "A" else "B") + tenant.key[-9:]
    answer = tenant.client.get("/v1/collections", headers={"Authorization": f"Bearer {changed}"})
    assert_problem(answer, 401)


def test_a_missing_scope_is_403_and_named(server: ServerProcess, tenant: Tenant) -> None:
    _, key = tenant.key_with("documents:read")
    with server.client(key) as client:
        problem = assert_problem(client.post(DOCUMENTS, json={}), 403, "missing_scope")
        assert "documents:write" in problem["detail"]


def test_a_tenants_admin_cannot_call_the_operators_operations(tenant: Tenant) -> None:
    assert_problem(tenant.client.get("/v1/tenants"), 403)
    assert_problem(tenant.client.get("/v1/operator/status"), 403)


@pytest.mark.parametrize("name", ["token", "key", "access_token", "api_key"])
def test_no_credential_is_accepted_in_a_url(tenant: Tenant, name: str) -> None:
    url = f"{tenant.server.url}/v1/collections?{name}={tenant.key}"
    assert_problem(httpx.get(url), 401)


# ── Another tenant's ───────────────────────────────────────────────────────────────────────────


def test_anothers_document_answers_as_one_that_never_existed(
    new_tenant: Callable[[], Tenant],
) -> None:
    owner, other = new_tenant(), new_tenant()
    owner.client.put(f"{DOCUMENTS}/mine", json={"a": 1})
    answers = []
    for name in ("mine", "nope"):
        answer = other.client.get(f"{DOCUMENTS}/{name}", headers={"X-Request-Id": "same"})
        assert_problem(answer, 404, "not_found")
        answers.append(answer.content.replace(f"/{name}".encode(), b"/x"))
    assert answers[0] == answers[1]


# ── Bad input ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":}',
        b"{} {}",
        b'{"a":"\xff"}',
        b"\x00",
        b'{"a":\x00}',
        b'{"a":NaN}',
        b'{"a":1e}',
        b"[" * 5000,
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_not_json_or_too_deep_is_400_and_writes_nothing(
    tenant: Tenant, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    assert_problem(tenant.client.post(DOCUMENTS, content=body, headers=headers), 400)
    assert tenant.client.get("/v1/collections").json()["data"] == []


@pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"true"])
def test_json_that_is_no_object_is_422(tenant: Tenant, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    problem = assert_problem(tenant.client.post(DOCUMENTS, content=body, headers=headers), 422)
    assert problem["errors"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": ""}, "#/name"),
        ({"name": "x", "scopes": []}, "#/scopes"),
        ({"name": "x", "scopes": ["documents:read", "nope"]}, "#/scopes/1"),
        ({"name": "x", "scopes": ["documents:read"], "expires_at": "soon"}, "#/expires_at"),
        ({"name": "x", "scopes": ["documents:read"], "expires_at": "2020-01-01T00:00:00Z"},
         "#/expires_at"),
        ({"name": "x", "scopes": ["documents:read"], "tier": "gold"}, "#/tier"),
    ],
)  # fmt: skip
def test_a_bad_field_is_422_with_its_pointer(
    tenant: Tenant, body: dict[str, Any], pointer: str
) -> None:
    problem = assert_problem(tenant.client.post("/v1/keys", json=body), 422)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert all(error["detail"] for error in problem["errors"])


def test_huge_numbers_and_lone_surrogates_are_never_a_server_error(tenant: Tenant) -> None:
    bodies = (b'{"a":1e999}', b'{"a":' + b"9" * 5000 + b"}", b'{"a":"\\ud800"}', b'{"\\u0000":1}')
    for body in bodies:
        headers = {"Content-Type": "application/json"}
        answer = tenant.client.post(DOCUMENTS, content=body, headers=headers)
        assert answer.status_code in (201, 400, 422), (body, answer.text)
        if answer.status_code == 201:
            found = tenant.client.get(answer.headers["location"])
            assert found.status_code == 200
            json.loads(found.content, parse_int=str)


def test_another_media_type_is_415(tenant: Tenant) -> None:
    for media in ("text/plain", "application/xml", "multipart/form-data; boundary=x"):
        headers = {"Content-Type": media}
        assert_problem(tenant.client.post(DOCUMENTS, content=b"{}", headers=headers), 415)


def test_a_declared_body_over_the_cap_is_413_before_any_of_it_is_sent(tenant: Tenant) -> None:
    answer = tenant.server.send_raw(
        b"POST /v1/collections/notes/documents HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n"
        b"Content-Type: application/json\r\nAuthorization: Bearer " + tenant.key.encode() + b"\r\n"
        b"\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"body_too_large"' in answer


def test_a_chunked_body_over_the_cap_is_413_before_it_ends(tenant: Tenant) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = tenant.server.send_raw(
        b"POST /v1/collections/notes/documents HTTP/1.1\r\nHost: x\r\n"
        b"Transfer-Encoding: chunked\r\n"
        b"Content-Type: application/json\r\nAuthorization: Bearer " + tenant.key.encode() + b"\r\n"
        b"\r\n" + chunk * 20  # and no last chunk
    )
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_chunked_body_under_the_cap_is_taken(tenant: Tenant) -> None:
    pieces = iter([b'{"a":', b"1", b"}"])
    headers = {"Content-Type": "application/json"}
    assert tenant.client.post(DOCUMENTS, content=pieces, headers=headers).status_code == 201


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=1001", 422),
        ("limit=x", 422),
        ("limit=99999999999999999999", 422),
        ("limit=1&limit=2", 422),
        ("unknown=1", 422),
        ("cursor=nope", 422),
        ("cursor=%FF", 400),
        ("cursor=%00", 422),
        ("limit=%zz", 422),
        ("&".join(f"a{n}=1" for n in range(300)), 400),
    ],
)
def test_a_bad_query_is_named(tenant: Tenant, query: str, status: int) -> None:
    tenant.client.post(DOCUMENTS, json={})
    problem = assert_problem(tenant.client.get(f"{DOCUMENTS}?{query}"), status)
    if status == 422:
        assert problem["errors"][0]["pointer"].startswith("?")


@pytest.mark.parametrize(
    "path", ["/nope", "/v1", "/v1/", "/v1/collections/", "/v1//x", "//", "/%00"]
)
def test_an_unrouted_path_is_a_404_problem(server: ServerProcess, path: str) -> None:
    answer = httpx.get(server.url + path)
    assert_problem(answer, 404)


def test_a_method_that_is_not_there_is_a_405_problem_with_allow(tenant: Tenant) -> None:
    for method, path in (("PUT", "/v1/collections"), ("DELETE", "/healthz"), ("TRACE", DOCUMENTS)):
        answer = tenant.client.request(method, path)
        assert_problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"]


def test_options_says_what_an_address_takes(server: ServerProcess) -> None:
    answer = httpx.options(f"{server.url}/v1/collections")
    assert answer.status_code < 500
    assert "GET" in answer.headers["allow"]


def test_head_is_get_without_a_body(tenant: Tenant) -> None:
    tenant.client.put(f"{DOCUMENTS}/a", json={"a": 1})
    for path in (f"{DOCUMENTS}/a", "/v1/collections", "/healthz", "/readyz", f"{DOCUMENTS}/none"):
        got, head = tenant.client.get(path), tenant.client.head(path)
        assert head.status_code == got.status_code, path
        assert head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("target", ["/v1/collections/%zz", "/%", "/v1/collections/%ff/documents"])
def test_bad_percent_encoding_is_a_refusal(tenant: Tenant, target: str) -> None:
    answer = tenant.server.send_raw(
        f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {tenant.key}\r\n\r\n".encode()
    )
    assert re.match(rb"HTTP/1\.1 4\d\d ", answer), answer


def test_headers_of_a_megabyte_are_refused_and_the_server_goes_on(server: ServerProcess) -> None:
    answer = server.send_raw(
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * (1 << 20) + b"\r\n\r\n"
    )
    assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_names_outside_the_pattern_are_422(tenant: Tenant) -> None:
    for name in (".hidden", "a b", "é", "a" * 129, "-x"):
        assert_problem(tenant.client.put(f"{DOCUMENTS}/{name}", json={}), 422)
    assert tenant.client.put(f"{DOCUMENTS}/{'a' * 128}", json={}).status_code == 201


# ── Tracing ────────────────────────────────────────────────────────────────────────────────────


def test_a_request_id_is_echoed_and_logged(server: ServerProcess, tenant: Tenant) -> None:
    name = f"req-{tenant.name}"
    answer = tenant.client.get("/v1/collections", headers={"X-Request-Id": name})
    assert answer.headers["x-request-id"] == name
    entry = server.wait_for_log(request_id=name)
    assert entry["tenant"] == tenant.name
    assert entry["status"] == 200
    assert entry["operation"] == "documents.list_collections"


@pytest.mark.parametrize("given", [None, "a b", "x" * 129, 'a"b', "<script>"])
def test_a_missing_or_odd_request_id_is_replaced(server: ServerProcess, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given}
    for path in ("/healthz", "/nope"):
        made = httpx.get(server.url + path, headers=headers).headers["x-request-id"]
        assert made != given
        assert re.fullmatch(r"[A-Za-z0-9._:/+=-]{1,128}", made)


def test_made_request_ids_differ(server: ServerProcess) -> None:
    for path in ("/healthz", "/nope"):
        made = {httpx.get(server.url + path).headers["x-request-id"] for _ in range(5)}
        assert len(made) == 5


def test_traceparent_is_logged(server: ServerProcess, tenant: Tenant) -> None:
    parent = f"00-{abs(hash(tenant.name)):032x}"[:35].ljust(35, "0") + "-00f067aa0ba902b7-01"
    tenant.client.get("/v1/collections", headers={"traceparent": parent})
    assert server.wait_for_log(traceparent=parent)["tenant"] == tenant.name


def test_no_secret_reaches_the_log(server: ServerProcess, tenant: Tenant) -> None:
    token = tenant.token("documents:read")
    tenant.client.get(f"/v1/{tenant.key}/{token}")
    tenant.client.get(f"/v1/collections/{token}/documents")
    tenant.client.get("/v1/collections", headers={"X-Request-Id": f"last-{tenant.name}"})
    server.wait_for_log(request_id=f"last-{tenant.name}")
    log = "\n".join(server.log)
    assert tenant.key not in log
    assert token not in log
    assert server.operator_key not in log


# ── Durability ─────────────────────────────────────────────────────────────────────────────────


def test_replicated_without_a_replica_is_400_and_writes_nothing(tenant: Tenant) -> None:
    headers = {"Prefer": "durability=replicated"}
    answer = tenant.client.post(DOCUMENTS, json={}, headers=headers)
    assert_problem(answer, 400, "no_replica")
    assert tenant.client.get("/v1/collections").json()["data"] == []


def test_another_preference_is_ignored(tenant: Tenant) -> None:
    headers = {"Prefer": "return=minimal"}
    assert tenant.client.post(DOCUMENTS, json={}, headers=headers).status_code == 201
