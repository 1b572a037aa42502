"""Definitions of collections, and indexes that earn their keep."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.conformance.engine import Engine
from tests.server_process import Tenant, running_server

C = "/v1/collections/orders"
TIER = {"path": "$.config.tier", "type": "integer", "index": True}
REGION = {"path": "$.config.region", "type": "string", "index": True}


def fill(client: httpx.Client, count: int, collection: str = C) -> None:
    lines = "\n".join(
        f'{{"n":{n},"config":{{"tier":{n % 7},"region":"r{n % 5}"}}}}' for n in range(count)
    )
    answer = client.post(
        f"{collection}/documents",
        content=lines,
        headers={"content-type": "application/x-ndjson"},
    )
    assert answer.json()["inserted"] == count, answer.text


def ready(client: httpx.Client, collection: str = C) -> list[dict[str, Any]]:
    """The indexes, once all are built."""
    while True:
        found: list[dict[str, Any]] = client.get(f"{collection}/indexes").json()["data"]
        if all(index["state"] == "ready" for index in found):
            return found
        time.sleep(0.02)


def used(client: httpx.Client, name: str) -> dict[str, Any]:
    """An index's report, once the engine has counted a use: PostgreSQL tells a second later."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = {index["name"]: index for index in ready(client)}[name]
        if found["scans"]:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{name} was never used")


def total(client: httpx.Client, query: str) -> int:
    answer = client.get(f"{C}/documents?limit=1&count=exact&{query}")
    assert answer.status_code == 200, answer.text
    count: int = answer.json()["total"]
    return count


def test_a_definition_is_made_read_and_replaced(client: httpx.Client) -> None:
    made = client.put(C, json={"fields": {"tier": TIER}})
    assert made.status_code == 201
    ready(client)
    shown = client.get(C).json()
    assert shown["fields"] == {"tier": {**TIER, "state": "ready"}}
    assert {**made.json(), "fields": shown["fields"]} == shown
    again = client.put(C, json={"fields": {"region": {**REGION, "index": False}}})
    assert again.status_code == 200
    assert again.json()["fields"] == {"region": {**REGION, "index": False, "state": None}}
    assert [c["name"] for c in client.get("/v1/collections").json()["data"]] == ["orders"]


def test_a_definition_is_conditional(client: httpx.Client) -> None:
    body = {"fields": {"tier": {**TIER, "index": False}}}
    made = client.put(C, json=body, headers={"if-none-match": "*"})
    assert made.status_code == 201
    assert client.put(C, json=body, headers={"if-none-match": "*"}).status_code == 412
    etag = {"if-match": made.headers["etag"]}
    assert client.put(C, json=body, headers=etag).status_code == 200
    assert client.put(C, json=body, headers=etag).status_code == 412
    fresh = client.get(C, headers={"if-none-match": client.get(C).headers["etag"]})
    assert fresh.status_code == 304


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"id": TIER}, "#/fields/id"),
        ({"limit": TIER}, "#/fields/limit"),
        ({"a.b": TIER}, "#/fields/a.b"),
        ({"a/b": TIER}, "#/fields/a~1b"),
        ({"x": {"path": "config..x", "type": "integer"}}, "#/fields/x/path"),
        ({"x": {"path": "$", "type": "integer"}}, "#/fields/x/path"),
        ({"x": {"path": "$.a'); DROP TABLE documents; --", "type": "string"}}, "#/fields/x/path"),
        ({"x": {"path": "$.a", "type": "date"}}, "#/fields/.../type"),
        ({"x": {"type": "integer"}}, "#/fields/..."),
        ({f"f{n}": TIER for n in range(33)}, "#/fields"),
        ({f"f{n}": TIER for n in range(17)}, "#/fields"),
    ],
)
def test_a_bad_field_is_named_and_changes_nothing(
    client: httpx.Client, fields: dict[str, Any], pointer: str
) -> None:
    answer = client.put(C, json={"fields": fields})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert client.get(C).status_code == 404


def test_fields_follow_every_kind_of_write(client: httpx.Client) -> None:
    client.put(C, json={"fields": {"tier": TIER, "region": REGION}})
    made = client.post(f"{C}/documents", json={"config": {"tier": 1, "region": "a"}}).json()
    path = f"{C}/documents/{made['id']}"
    assert (total(client, "tier=eq.1"), total(client, "region=eq.a")) == (1, 1)
    client.patch(path, json={"config": {"tier": 2}})
    assert (total(client, "tier=eq.1"), total(client, "tier=eq.2&region=eq.a")) == (0, 1)
    client.put(path, json={"config": {"tier": "x"}})
    assert (total(client, "tier=is.null"), total(client, "region=is.null")) == (1, 1)
    client.delete(path)
    assert total(client, "tier=is.null") == 0


def test_a_field_of_a_filled_collection_is_built_and_dropped_while_others_write(
    client: httpx.Client,
) -> None:
    fill(client, 3000)
    client.put(C, json={"fields": {"tier": TIER, "region": REGION}})
    late = [
        client.post(f"{C}/documents", json={"config": {"tier": 9, "region": "late"}}).json()["id"]
        for _ in range(20)
    ]
    client.delete(f"{C}/documents/{late[0]}")
    client.patch(f"{C}/documents/{late[1]}", json={"config": {"tier": 10}})
    indexes = ready(client)
    assert [index["name"] for index in indexes] == ["region", "tier"]
    assert total(client, "tier=eq.3&region=eq.r1") == sum(
        n % 7 == 3 and n % 5 == 1 for n in range(3000)
    )
    assert (total(client, "tier=eq.9"), total(client, "tier=eq.10")) == (18, 1)
    assert client.get(f"{C}/explain?tier=eq.3").json()["index"] == "tier"
    client.put(C, json={})
    assert ready(client) == []
    assert total(client, "config.tier=eq.9") == 18


def test_a_field_that_moves_is_built_anew(client: httpx.Client) -> None:
    client.put(C, json={"fields": {"tier": TIER, "region": REGION}})
    client.post(f"{C}/indexes", json={"fields": ["tier", "region"]})
    client.post(f"{C}/documents", json={"config": {"tier": 1, "region": "a"}, "other": 5})
    client.put(C, json={"fields": {"tier": {**TIER, "path": "$.other"}, "region": REGION}})
    assert [index["name"] for index in ready(client)] == ["region", "tier", "tier_region"]
    assert (total(client, "tier=eq.5&region=eq.a"), total(client, "tier=eq.1")) == (1, 0)
    explained = client.get(f"{C}/explain?tier=eq.5&region=eq.a").json()
    # Of one row PostgreSQL may find any way as good.
    assert explained["index"] == "tier_region" or explained["engine"] == "postgresql"
    client.put(C, json={"fields": {"tier": {**TIER, "path": "$.other"}}})
    assert [index["name"] for index in ready(client)] == ["tier"]


def test_an_index_of_several_fields_leads_and_reports_its_use(
    client: httpx.Client, engine_name: str
) -> None:
    client.put(C, json={"fields": {"tier": {**TIER, "index": False}, "region": REGION}})
    fill(client, 5000)
    made = client.post(f"{C}/indexes", json={"fields": ["region", "tier"]})
    assert made.status_code == 201
    assert made.headers["location"] == f"{C}/indexes/region_tier"
    client.post(f"{C}/indexes", json={"fields": ["updated_at"], "name": "idle"})
    ready(client)
    for _ in range(5):
        assert total(client, "region=eq.r1&tier=gte.3") > 0
    led = used(client, "region_tier")
    assert led["fields"] == ["region", "tier"]
    assert led["last_used_at"] is not None
    assert not led["unused"]
    assert led["bytes"] > 5000 * 8
    idle = {index["name"]: index for index in ready(client)}["idle"]
    if engine_name == "sqlite":  # PostgreSQL counts the scans of all who share an index
        assert (idle["scans"], idle["last_used_at"], idle["unused"]) == (0, None, True)
    assert client.delete(f"{C}/indexes/region").status_code == 204
    assert client.delete(f"{C}/indexes/region").status_code == 404
    assert client.get(C).json()["fields"]["region"]["index"] is False
    assert [index["name"] for index in ready(client)] == ["idle", "region_tier"]


def test_an_index_of_one_tenant_names_its_scope(client: httpx.Client) -> None:
    client.put(C, json={"fields": {"region": REGION}})
    made = client.post(f"{C}/indexes", json={"fields": ["region"], "tenant_only": True})
    assert made.status_code == 201
    where = {index["name"]: index["where"] for index in ready(client)}
    assert where["region"] is None
    assert "orders" in (where["region_tenant"] or "")


def test_bad_indexes_are_refused(client: httpx.Client) -> None:
    client.put(C, json={"fields": {"region": REGION}})
    for body, status in (
        ({"fields": ["none"]}, 422),
        ({"fields": []}, 422),
        ({"fields": ["region", "region"]}, 422),
        ({"fields": ["region", "id", "revision", "created_at"]}, 422),
        ({"fields": ["region"], "name": "../x"}, 422),
        ({"fields": ["region"], "name": "region"}, 409),
    ):
        assert client.post(f"{C}/indexes", json=body).status_code == status, body
    assert [index["name"] for index in ready(client)] == ["region"]


def test_indexes_of_single_tenants_are_capped_with_the_figures(
    server: Any, new_tenant: Callable[[], Tenant]
) -> None:
    tenants = []
    refused = None
    while refused is None:
        tenants.append(new_tenant())
        client = tenants[-1].client
        client.put(C, json={"fields": {"region": REGION}})
        for n in range(15):
            body = {"fields": ["region"], "tenant_only": True, "name": f"own{n}"}
            answer = client.post(f"{C}/indexes", json=body)
            if answer.status_code == 409:
                refused = answer.json()
                break
            assert answer.status_code == 201
    assert refused["code"] == "too_many_tenant_indexes"
    assert "µs" in refused["detail"]
    for tenant in tenants:
        tenant.client.delete(C)


def test_the_index_that_queries_lack_is_suggested_with_the_evidence(client: httpx.Client) -> None:
    client.put(C, json={"fields": {"tier": {**TIER, "index": False}}})
    fill(client, 50)
    for _ in range(4):
        assert total(client, "tier=gte.3&config.region=eq.r1") >= 0
    (suggested,) = client.get(f"{C}/indexes").json()["suggestions"]
    assert suggested["fields"] == ["config.region", "tier"]
    assert suggested["promote"] == ["config.region"]
    assert suggested["queries"] == 8
    assert suggested["mean_ms"] > 0
    client.put(C, json={"fields": {"tier": TIER, "region": REGION}})
    client.post(f"{C}/indexes", json={"fields": ["region", "tier"]})
    assert client.get(f"{C}/indexes").json()["suggestions"][0]["promote"] == ["config.region"]


def test_a_field_written_more_than_filtered_is_flagged_with_its_bytes(
    client: httpx.Client,
) -> None:
    client.put(C, json={"fields": {"tier": TIER}})
    fill(client, 30)
    report = client.get(f"{C}/indexes").json()
    (flag,) = report["flags"]
    assert (flag["field"], flag["flag"]) == ("tier", "written_more_than_filtered")
    assert f"{report['data'][0]['bytes']} bytes" in flag["detail"]
    assert report["fields"][0]["writes"] == 30
    for _ in range(31):
        client.get(f"{C}/documents?tier=eq.1")
    report = client.get(f"{C}/indexes").json()
    assert (report["flags"], report["fields"][0]["filters"]) == ([], 31)


def test_a_deleted_collection_is_gone_at_once_and_its_name_is_free(client: httpx.Client) -> None:
    client.put(C, json={"fields": {"tier": TIER}})
    fill(client, 1000)
    assert client.delete(C).status_code == 204
    assert client.delete(C).status_code == 404
    assert client.get(f"{C}/documents").status_code == 404
    client.post(f"{C}/documents", json={"config": {"tier": 1}})
    assert client.get(C).json()["fields"] == {}
    assert len(client.get(f"{C}/documents?limit=1000").json()["data"]) == 1


def test_an_index_is_made_once_for_one_idempotency_key(client: httpx.Client) -> None:
    client.put(C, json={"fields": {"region": REGION}})
    headers = {"idempotency-key": "once"}
    body = {"fields": ["region", "created_at"]}
    first = client.post(f"{C}/indexes", json=body, headers=headers)
    again = client.post(f"{C}/indexes", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == first.content


def test_counts_and_unfinished_work_survive_a_restart(engine: Engine) -> None:
    with running_server(engine.data, **engine.settings) as server, Tenant(server) as tenant:
        client, key = tenant.client, tenant.key
        client.put(C, json={"fields": {"tier": TIER}})
        fill(client, 2000)
        ready(client)
        total(client, "tier=eq.1")
        scans = used(client, "tier")["scans"]
        fill(client, 4000, "/v1/collections/large")
        client.put("/v1/collections/large", json={"fields": {"tier": TIER}})
        server.process.kill()
        server.process.wait()
    with running_server(engine.data, **engine.settings) as server, server.client(key) as client:
        (index,) = ready(client)
        assert index["scans"] >= scans
        ready(client, "/v1/collections/large")
        found = client.get("/v1/collections/large/documents?tier=eq.3&count=exact&limit=1").json()
        assert found["total"] == sum(n % 7 == 3 for n in range(4000))
        client.delete("/v1/collections/large")
        client.delete(C)
        tables = ("documents", "document_indexes", "document_changes", "collections")
        deadline = time.monotonic() + 30
        left = tables
        while left and time.monotonic() < deadline:
            left = tuple(table for table in tables if engine.count(table))
            time.sleep(0.05)
        assert not left


def test_a_slow_filter_is_422_with_the_advice_to_promote(engine: Engine) -> None:
    with (
        running_server(engine.data, **engine.settings, MONOLITE_QUERY_DEADLINE_S="0.001") as server,
        Tenant(server) as tenant,
    ):
        fill(tenant.client, 20_000)
        answer = tenant.client.get(f"{C}/documents?config.tier=gt.100")
        assert answer.status_code == 422
        problem = answer.json()
        assert problem["code"] == "filter_too_slow"
        assert problem["errors"][0]["pointer"] == "?config.tier"
        assert "promote" in problem["errors"][0]["detail"]
