"""The OpenAPI document, and what is checked of every operation it names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import jsonschema_rs
import pytest

from monolite.tenancy.scopes import ANY, SCOPES
from monolite.web.answer import Answer
from monolite.web.operation import LOOPBACK, PUBLIC, Operation
from tests.server_process import ServerProcess, Tenant


class Documented(NamedTuple):
    method: str
    path: str
    entry: dict[str, Any]


@pytest.fixture(scope="module")
def document(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[Documented]:
    for path, methods in document["paths"].items():
        for method, entry in methods.items():
            yield Documented(method.upper(), path, entry)


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Every value of a member named schema, and each component."""
    if isinstance(value, dict):
        for name, member in value.items():
            if name == "schema":
                yield member
            elif name == "schemas":
                yield from member.values()
            else:
                yield from schemas(member)
    elif isinstance(value, list):
        for member in value:
            yield from schemas(member)


def test_the_document_is_openapi_3_1_with_schemas_of_2020_12(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"].keys() >= {"title", "version"}
    ids = [entry["operationId"] for _, _, entry in operations(document)]
    assert len(ids) == len(set(ids))
    tags = {tag["name"] for tag in document["tags"]}
    for method, path, entry in operations(document):
        assert method in {"GET", "PUT", "POST", "PATCH", "DELETE"}
        assert entry["summary"]
        assert set(entry["tags"]) <= tags
        assert entry["responses"]
        named = {p["name"] for p in entry["parameters"] if p["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
        for parameter in entry["parameters"]:
            assert parameter.keys() >= {"name", "in", "schema"}
    for schema in schemas(document):
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema",
                                     **schema})  # fmt: skip


def test_every_reference_is_resolved(document: dict[str, Any]) -> None:
    for reference in set(re.findall(r'"\$ref": ?"([^"]+)"', json.dumps(document))):
        found: Any = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_every_operation_declares_its_scope_and_security(document: dict[str, Any]) -> None:
    for method, path, entry in operations(document):
        scope = entry["x-scope"]
        assert scope in SCOPES | {PUBLIC, LOOPBACK, ANY}, (method, path)
        if scope == PUBLIC:
            assert entry["security"] == [], path
        elif scope == LOOPBACK:
            assert {"key": ["operator"]} in entry["security"]
        else:
            assert entry["security"] == [{"key": [scope]}]
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_an_operation_without_a_scope_cannot_be_declared() -> None:
    async def handler(call: Any) -> Answer:
        return Answer(200)

    with pytest.raises(TypeError, match="scope"):
        Operation(  # type: ignore[call-arg]
            id="a.b",
            method="GET",
            path="/v1/a",
            summary="A",
            handler=handler,
            answers={},
        )
    with pytest.raises(ValueError, match="scope"):
        Operation("a.b", "GET", "/v1/a", "", "A", handler, {})


def test_only_health_and_this_document_are_public(document: dict[str, Any]) -> None:
    public = {path for _, path, entry in operations(document) if entry["x-scope"] == PUBLIC}
    assert public == {"/healthz", "/readyz", "/openapi.json"}


def test_examples_fit_their_schemas_and_every_json_body_has_one(document: dict[str, Any]) -> None:
    for method, path, entry in operations(document):
        for media, content in entry.get("requestBody", {"content": {}})["content"].items():
            if "json" not in media or media.endswith("ndjson"):
                continue
            schema = {**content["schema"], "components": document["components"]}
            assert "example" in content, (method, path)
            jsonschema_rs.validate(schema, content["example"])


def test_every_documented_operation_is_served(
    server: ServerProcess, document: dict[str, Any]
) -> None:
    for method, path, _ in operations(document):
        answer = httpx.options(server.url + re.sub(r"{\w+}", "0000000000000000", path))
        assert method in answer.headers["allow"].split(", "), (method, path)


def test_every_guarded_operation_is_401_without_a_key(
    server: ServerProcess, document: dict[str, Any]
) -> None:
    with server.client() as client:
        for method, path, entry in operations(document):
            if entry["x-scope"] in (PUBLIC, LOOPBACK):
                continue
            url = re.sub(r"{\w+}", "0000000000000000", path)
            assert client.request(method, url).status_code == 401, (method, path)


def test_every_guarded_operation_is_403_without_its_scope(
    server: ServerProcess, tenant: Tenant, document: dict[str, Any]
) -> None:
    _, key = tenant.key_with("locks")
    with server.client(key) as client:
        for method, path, entry in operations(document):
            if entry["x-scope"] in (PUBLIC, LOOPBACK, ANY, "locks"):
                continue
            url = re.sub(r"{\w+}", "0000000000000000", path)
            assert client.request(method, url).status_code == 403, (method, path)


# ── The two-tenant rule ────────────────────────────────────────────────────────────────────────


def test_another_tenants_names_answer_as_names_that_never_existed(
    new_tenant: Callable[[], Tenant], document: dict[str, Any]
) -> None:
    owner, stranger = new_tenant(), new_tenant()
    owned = {
        "collection": "owned",
        "id": "owned-document",
        "index": "owned",
        "doc": "owned-doc",
        "name": owner.name,
        "stream": "owned-stream",
        "group": "owned-group",
        "consumer": "owned-consumer",
        "webhook": "owned-webhook",
        "queue": "owned-queue",
        "schedule": "owned-schedule",
        "namespace": "owned-namespace",
        "key": "owned-lock",
    }
    made = owner.client.put("/v1/collections/owned/documents/owned-document", json={"a": 1})
    assert made.status_code == 201
    found = {"id": "owned-document", "vector": [1, 2, 3]}
    assert owner.client.post("/v1/indexes/owned/documents", json=found).status_code == 200
    state = {"content": b"state", "headers": {"content-type": "application/octet-stream"}}
    assert owner.client.put("/v1/sync/owned-doc/states/phone", **state).status_code == 201
    stream = "/v1/streams/owned-stream"
    owner.client.post(f"{stream}/events", json={"data": 1})
    owner.client.put(f"{stream}/groups/owned-group")
    hook = {"url": "https://192.0.33.8/hooks"}
    assert owner.client.put(f"{stream}/webhooks/owned-webhook", json=hook).status_code == 201
    owner.client.post(f"{stream}/groups/owned-group/read", json={"consumer": "owned-consumer"})
    job = owner.client.post("/v1/queues/owned-queue/jobs", json={"payload": 1})
    owned["job"] = job.json()["id"]
    ticks = {"cron": "@yearly", "queue": "owned-queue", "payload": 1}
    assert owner.client.put("/v1/schedules/owned-schedule", json=ticks).status_code == 201
    lock = "/v1/locks/owned-namespace/owned-lock"
    held = owner.client.put(lock, json={"owner": "worker-1", "ttl_ms": 600_000})
    assert held.status_code == 200
    key_id, _ = owner.key_with("documents:read")
    etag = made.headers["etag"]
    before = owner.client.get(made.request.url).content
    never = {name: "n" * len(value) for name, value in owned.items()}
    for method, path, entry in operations(document):
        if "{" not in path:
            continue  # it names nothing of anyone's
        theirs, none = dict(owned), dict(never)
        if "keys/{id}" in path:
            theirs["id"], none["id"] = key_id, "n" * len(key_id)
        for headers in ({}, {"If-Match": etag}, {"If-None-Match": etag}, {"If-Match": "*"}):
            answers = []
            for names in (theirs, none):
                url = re.sub(r"{(\w+)}", lambda m, n=names: n.get(m[1], "x-" + m[1]), path)  # type: ignore[misc]
                content = next(iter(entry.get("requestBody", {}).get("content", {}).items()), None)
                given = {**headers, "X-Request-Id": "same"}
                body = None
                if content is not None:
                    given["Content-Type"] = content[0]
                    body = json.dumps(content[1].get("example", {})).encode()
                status, text = _answer(stranger.client, method, url, given, body)
                answers.append(_normal(status, text, url, method, names))
            # What it made of its own must not differ the next answer.
            for names in (theirs, none):
                stranger.client.delete(f"/v1/collections/{names['collection']}")
                stranger.client.delete(f"/v1/indexes/{names['index']}")
                stranger.client.delete(f"/v1/sync/{names['doc']}")
                stranger.client.delete(f"/v1/streams/{names['stream']}")
            assert len(set(answers)) <= 1, (method, path, headers, answers)
    assert owner.client.get(made.request.url).content == before
    assert key_id in owner.client.get("/v1/keys").text
    assert owner.client.get(f"{stream}/groups/owned-group").json()["pending"] == 1
    assert owner.client.get(f"/v1/jobs/{owned['job']}").json()["state"] == "available"
    released = {"owner": "worker-1", "token": held.json()["token"]}
    assert owner.client.delete(lock, params=released).status_code == 204


def _answer(
    client: httpx.Client, method: str, url: str, headers: dict[str, str], body: bytes | None
) -> tuple[int, str]:
    """Status and text; of a stream that has no end, the first piece."""
    with client.stream(method, url, headers=headers, content=body) as answer:
        if "event-stream" in answer.headers.get("content-type", ""):
            return answer.status_code, next(answer.iter_text())
        return answer.status_code, answer.read().decode()


def _normal(
    status: int, text: str, url: str, method: str, names: dict[str, str]
) -> tuple[int, str]:
    """The answer without what differs by name, by time and by chance."""
    for value in sorted(names.values(), key=len, reverse=True):
        text = text.replace(value, "<name>")
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}", "<uuid>", text)
    text = re.sub(r"\d{13}-\d+", "<event>", text)
    text = re.sub(r'"token":("[0-9a-f]{16}"|\d+)', '"token":_', text)
    text = re.sub(r"eyJ[\w.-]+|mk_\w+|whsec_[\w+/=]+|\"id\":\"\w{16}\"", "<credential>", text)
    text = re.sub(r'"(bytes|documents|next_cursor|took_ms)":[^,}]+', r'"\1":_', text)
    return status, "" if "/v1/keys" in url and method == "GET" else text
