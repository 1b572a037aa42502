"""Rate limits per key: the headers, the refusal, and who may set them."""

from __future__ import annotations

import re

import httpx

from tests.server_process import Tenant


def limit(tenant: Tenant, quota: int | None) -> None:
    answer = tenant.client.put("/v1/settings", json={"requests_per_minute_max": quota})
    assert answer.status_code == 200, answer.text


def test_every_answer_says_what_is_left(tenant: Tenant) -> None:
    limit(tenant, 5)
    left = []
    for _ in range(2):
        answer = tenant.client.get("/v1/collections")
        assert answer.headers["ratelimit-policy"] == '"key";q=5;w=60'
        found = re.fullmatch(r'"key";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
        assert found is not None
        assert 0 < int(found[2]) <= 60
        left.append(int(found[1]))
    assert left[1] == left[0] - 1


def test_over_the_limit_is_429_for_that_key_alone(tenant: Tenant) -> None:
    _, other = tenant.key_with("documents:read")
    limit(tenant, 3)
    answers = [tenant.client.get("/v1/collections") for _ in range(6)]
    assert [a.status_code for a in answers[:3]] == [200] * 3
    refused = answers[-1]
    assert refused.status_code == 429
    assert refused.json()["code"] == "rate_limited"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert '"key";r=0;' in refused.headers["ratelimit"]
    with tenant.server.client(other) as client:
        assert client.get("/v1/collections").status_code == 200


def test_a_keys_tokens_spend_its_limit(tenant: Tenant) -> None:
    token = tenant.token("documents:read")
    limit(tenant, 3)
    with tenant.server.client(token) as client:
        assert [client.get("/v1/collections").status_code for _ in range(3)] == [200] * 3
    assert tenant.client.get("/v1/collections").status_code == 429


def test_a_tenant_can_tighten_the_operators_limit_and_not_loosen_it(
    tenant: Tenant, operator: httpx.Client
) -> None:
    path = f"/v1/tenants/{tenant.name}"
    assert operator.patch(path, json={"requests_per_minute_max": 100}).status_code == 200
    for own, holds in ((1000, 100), (50, 50), (None, 100)):
        limit(tenant, own)
        policy = tenant.client.get("/v1/collections").headers["ratelimit-policy"]
        assert policy == f'"key";q={holds};w=60'
