"""Policies, budgets and the record of calls to a cloud, over both databases."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.conformance.engine import Engine
from tests.eventually import eventually
from tests.inference.cloud import Cloud, cloud_settings, public, route, running_cloud, usage
from tests.server_process import Tenant, running_server


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with running_cloud() as cloud:
        yield cloud


def test_many_at_once_on_two_servers_never_overspend(engine: Engine, cloud: Cloud) -> None:
    cloud.fault = "slow"
    asked = {**engine.settings, **cloud_settings(cloud)}
    with running_server(engine.data, **asked) as server, Tenant(server) as tenant:
        tenant.client.put("/v1/ai/policy", json={"daily_cloud_tokens": 400}).raise_for_status()
        with ExitStack() as stack:
            clients = [tenant.client]
            if engine.is_shared:
                secret = (engine.data / "root.secret").read_text().strip()
                asked["MONOLITE_ROOT_SECRET"] = secret
                beside = running_server(engine.data.with_name("other"), **asked)
                second = stack.enter_context(beside)
                clients.append(stack.enter_context(second.client(tenant.key)))

            def ask(at: int) -> str:
                return route(public(clients[at % len(clients)], max_tokens=2))[0]

            with ThreadPoolExecutor(20) as pool:
                went = [one for one in pool.map(ask, range(20)) if one != "local"]
        spent = usage(tenant)
        assert 1 <= len(went) < 20
        assert (spent["calls"], spent["cloud_tokens_reserved"]) == (len(went), 0)
        assert spent["cloud_tokens"] == 14 * len(went) <= 400


def test_a_tenant_moves_and_goes_with_its_policy_and_its_calls(
    engine: Engine, cloud: Cloud
) -> None:
    asked = {**engine.settings, **cloud_settings(cloud)}
    with running_server(engine.data, **asked) as server, Tenant(server) as tenant:
        policy = {"daily_cloud_tokens": 5000, "cloud": {"classes": {"help": "public"}}}
        tenant.client.put("/v1/ai/policy", json=policy).raise_for_status()
        assert route(public(tenant.client, privacy="help"))[1] == "tier_above_local"
        calls = tenant.client.get("/v1/ai/calls").json()["data"]
        with server.client(server.operator_key) as operator:
            got = operator.get(f"/v1/tenants/{tenant.name}/export")
            lines = got.raise_for_status().content
            imported = operator.post(
                f"/v1/tenants/{tenant.name}-moved/import",
                content=lines,
                headers={"Content-Type": "application/x-ndjson"},
            )
            assert imported.status_code == 201, imported.text
        with server.client(imported.json()["key"]) as moved:
            assert moved.get("/v1/ai/calls").json()["data"] == calls
            shown = moved.get("/v1/ai/policy").json()
        assert shown["daily_cloud_tokens"] == 5000
        assert shown["cloud"]["classes"] == {"help": "public"}


def test_what_a_killed_server_reserved_is_spent_when_its_lease_is_over(
    engine: Engine, cloud: Cloud
) -> None:
    asked = {**engine.settings, **cloud_settings(cloud), "MONOLITE_CLOUD_FIRST_TOKEN_S": "30"}
    with running_server(engine.data, **asked) as server, Tenant(server) as tenant:
        cloud.fault = "silent"
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lambda: public(tenant.client))
            eventually(lambda: len(cloud.received) == 1, "the provider is asked")
            reserved: int = usage(tenant)["cloud_tokens_reserved"]
            assert reserved > 0
            server.stop(signal.SIGKILL)
            with pytest.raises(Exception, match=r"."):
                waiting.result()
        key = tenant.key
        cloud.release.set()
    engine.update("ai_calls", "lease_until = 0")
    with running_server(engine.data, **asked) as server, server.client(key) as client:

        def settled() -> bool:
            found: dict[str, Any] = client.get("/v1/ai/usage").json()
            return found["cloud_tokens_reserved"] == 0

        eventually(settled, "the reservation is settled")
        assert client.get("/v1/ai/usage").json()["cloud_tokens"] == reserved
        (call,) = client.get("/v1/ai/calls").json()["data"]
        assert (call["outcome"], call["prompt_tokens"]) == ("lost", reserved)
