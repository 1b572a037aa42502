"""What the operator sees, what strangers don't, and when live answers end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from monolite.assembly import Installation
from monolite.clock import SystemClock
from monolite.operator import triggers
from monolite.settings import Settings
from monolite.tenancy.principal import OPERATOR_TENANT_ID, Principal
from monolite.tenancy.quotas import RateWindow
from monolite.web.live import LiveConnections
from monolite.web.server import Server
from tests.server_process import ServerProcess, Tenant, free_port, running_server

LIVE = "/v1/operator/triggers?live=sse"
FORWARDED = {"X-Forwarded-For": "203.0.113.7"}
ENDS_WITHIN_S = 1.0


def test_health_needs_no_key(server: ServerProcess) -> None:
    assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}


def test_readiness_details_are_for_loopback_and_the_operator(
    server: ServerProcess, tenant: Tenant
) -> None:
    near = httpx.get(f"{server.url}/readyz").json()
    assert near["checks"].keys() == {"schema", "writer", "disk", "replica"}
    assert all(check["ok"] and check["detail"] for check in near["checks"].values())
    for key in (None, tenant.key, "nonsense"):
        with server.client(key, **FORWARDED) as far:
            assert far.get("/readyz").json() == {"status": "ready"}
    with server.client(server.operator_key, **FORWARDED) as far:
        assert far.get("/readyz").json()["checks"].keys() == near["checks"].keys()


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_metrics_behind_a_proxy_need_the_operators_key(
    server: ServerProcess, tenant: Tenant, header: str
) -> None:
    assert httpx.get(f"{server.url}/metrics").status_code == 200
    for key, status in ((None, 401), (tenant.key, 403), (server.operator_key, 200)):
        with server.client(key, **{header: "for=203.0.113.7"}) as far:
            assert far.get("/metrics").status_code == status


def test_metrics_name_no_tenant(server: ServerProcess, tenant: Tenant) -> None:
    tenant.client.post("/v1/collections/secret-plans/documents", json={})
    answer = httpx.get(f"{server.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert tenant.name not in answer.text
    assert "secret-plans" not in answer.text
    assert tenant.key[3:19] not in answer.text
    assert 'monolite_requests_total{operation="documents.create",status="201"}' in answer.text
    assert "monolite_writes_total" in answer.text


def test_status_names_what_runs(operator: httpx.Client) -> None:
    status = operator.get("/v1/operator/status").json()
    assert {"version", "uptime_s", "engine", "replication", "triggers", "budget"} <= status.keys()
    assert status["engine"]["name"] == "sqlite"
    assert status["replication"]["state"] == "not configured"


def test_every_trigger_has_a_threshold_and_advice(operator: httpx.Client) -> None:
    shown = operator.get("/v1/operator/triggers").json()
    by_name = {trigger["name"]: trigger for trigger in shown["data"]}
    for trigger in shown["data"]:
        assert {"name", "value", "threshold", "state", "advice"} <= trigger.keys()
        assert trigger["state"] in ("ok", "near", "over")
    assert by_name["database_bytes"]["threshold"] == 10_000_000_000
    assert by_name["read_p99_ms"]["threshold"] == 50
    assert by_name["events_per_second"]["threshold"] == 80_000
    assert by_name["writes_per_second"]["seed_threshold"] == 50
    assert "region" in shown["never"]


def test_a_trigger_is_near_at_80_percent_and_over_at_its_threshold() -> None:
    assert [triggers.state(value, 100) for value in (0, 79.9, 80, 99.9, 100, 101)] == [
        "ok", "ok", "near", "near", "over", "over",
    ]  # fmt: skip


def test_the_write_threshold_is_the_setting_else_the_box_else_the_seeds() -> None:
    assert triggers.write_threshold(7, 1000) == 7
    assert triggers.write_threshold(None, 1000) == 600
    assert triggers.write_threshold(None, None) == 50


# ── Live answers ───────────────────────────────────────────────────────────────────────────────


class Listener:
    """An SSE stream read by a thread until the server ends it."""

    def __init__(self, server: ServerProcess, credential: str) -> None:
        self.first = threading.Event()
        self.ended = threading.Event()
        self.text = b""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(server, credential), daemon=True)
        self._thread.start()
        assert self.first.wait(10), "the stream did not begin"

    def _listen(self, server: ServerProcess, credential: str) -> None:
        try:
            with server.client(credential) as client, client.stream("GET", LIVE) as stream:
                assert stream.status_code == 200
                assert stream.headers["content-type"].startswith("text/event-stream")
                assert stream.headers["x-content-type-options"] == "nosniff"
                for piece in stream.iter_raw():
                    self.text += piece
                    if b"\n\n" in self.text and b"data: " in self.text:
                        self.first.set()
                    if self._stop.is_set():
                        return
        except httpx.TransportError:
            pass
        finally:
            self.ended.set()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(5)


def test_a_stream_begins_at_once_with_the_state_as_it_is(server: ServerProcess) -> None:
    with server.client(server.operator_key) as client:
        token = client.post("/v1/tokens", json={"scopes": ["operator"], "ttl_s": 3}).json()["token"]
    listener = Listener(server, token)
    assert listener.text.startswith(b": ping\n\n")
    assert b"event: triggers\ndata: {" in listener.text
    listener.ended.wait(10)


def test_a_stream_ends_when_its_token_expires(server: ServerProcess) -> None:
    with server.client(server.operator_key) as client:
        token = client.post("/v1/tokens", json={"scopes": ["operator"], "ttl_s": 2}).json()["token"]
    listener = Listener(server, token)
    assert listener.ended.wait(2 + ENDS_WITHIN_S)
    with server.client(token) as client:
        assert client.get("/v1/operator/status").status_code == 401


def test_sigterm_ends_streams_and_the_server(tmp_path: Path) -> None:
    with running_server(tmp_path / "data", MONOLITE_DRAIN_S="20") as own:
        listener = Listener(own, own.operator_key)
        started = time.monotonic()
        assert own.stop() == 0
        assert listener.ended.wait(5)
        assert time.monotonic() - started < 10, "it waited for the stream instead of ending it"


def test_a_tenants_key_opens_no_operators_stream(tenant: Tenant) -> None:
    assert tenant.client.get(LIVE).status_code == 403


def test_an_unknown_kind_of_live_is_422(operator: httpx.Client) -> None:
    assert operator.get("/v1/operator/triggers?live=carrier-pigeon").status_code == 422


@pytest.mark.parametrize("ending", ["revoked", "tenant deleted"])
def test_what_a_key_opened_ends_with_it(ending: str) -> None:
    def principal(tenant_id: int, key_id: str) -> Principal:
        return Principal(
            tenant_id=tenant_id,
            tenant_name="t",
            key_id=key_id,
            scopes=frozenset(),
            window=RateWindow(None),
        )

    async def hold(live: LiveConnections, who: Principal) -> None:
        with live.registered(who):
            await asyncio.sleep(60)

    async def main() -> None:
        live = LiveConnections(SystemClock())
        ends = asyncio.create_task(hold(live, principal(1, "a")))
        stays = asyncio.create_task(hold(live, principal(2, "b")))
        await asyncio.sleep(0)
        endings: dict[str, Callable[[], None]] = {
            "revoked": lambda: live.end_key("a"),
            "tenant deleted": lambda: live.end_tenant(1),
        }
        endings[ending]()
        with pytest.raises(asyncio.CancelledError):
            await ends
        assert live.count == 1
        stays.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stays

    asyncio.run(main())


def test_a_stream_ends_within_a_second_of_its_keys_end(tmp_path: Path) -> None:
    async def main() -> None:
        installation = await Installation.open(Settings(data=tmp_path / "data"))
        port = free_port()
        server = Server(installation.app, "127.0.0.1", port)
        server.start()
        tenancy = installation.tenancy
        by = Principal(
            tenant_id=OPERATOR_TENANT_ID,
            tenant_name="operator",
            key_id="k",
            scopes=frozenset({"operator"}),
            window=RateWindow(None),
        )
        key, text = await tenancy.create_key(by, OPERATOR_TENANT_ID, name="2", wanted=["operator"])
        token, _ = tenancy.mint_token(
            Principal(
                tenant_id=OPERATOR_TENANT_ID,
                tenant_name="operator",
                key_id=key.id,
                scopes=frozenset({"operator"}),
                window=RateWindow(None),
            ),
            wanted=["operator"],
            subject=None,
            resource=None,
            ttl_s=600,
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
                for revoking in (False, True):
                    readers = []
                    for credential in (text, token):
                        headers = {"Authorization": f"Bearer {credential}"}
                        request = client.build_request("GET", LIVE, headers=headers)
                        stream = await client.send(request, stream=True)
                        assert stream.status_code == (200 if not revoking else 401)
                        readers.append(stream)
                    if revoking:
                        for stream in readers:
                            await stream.aclose()
                        continue
                    assert installation.live.count == 2
                    await tenancy.revoke_key(OPERATOR_TENANT_ID, key.id)
                    async with asyncio.timeout(ENDS_WITHIN_S):
                        for stream in readers:
                            await stream.aread()
        finally:
            await server.stop(5)
            await installation.close()

    asyncio.run(main())
