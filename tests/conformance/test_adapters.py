"""LoRA adapters over HTTP and both databases: kept, used, replaced, moved, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conformance.engine import Engine
from tests.models.adapter_files import Factors, dimensions_of, noise, write_adapter
from tests.server_process import ROOT, ServerProcess, Tenant, running_server

MODEL = ROOT / "monolite" / "models" / "SmolLM2-135M-Instruct.gguf"
ASKED = {"messages": [{"role": "user", "content": "Name three fruits."}], "max_tokens": 12}
ARCHITECTURE, DIMENSIONS = dimensions_of(MODEL)
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("adapters")
    made = {}
    for name, rank, seed in (("first", 8, 1), ("second", 16, 2), ("third", 4, 3), ("fourth", 2, 4)):
        factors = noise(DIMENSIONS, rank, seed, size=1.5)
        made[name] = write_adapter(folder / name, factors, alpha=float(rank)).read_bytes()
    return made


def put(client: httpx.Client, name: str, content: bytes, **query: str) -> httpx.Response:
    return client.put(f"/v1/adapters/{name}", content=content, headers=OCTETS, params=query)


def said(client: httpx.Client, **wish: Any) -> tuple[str, str | None]:
    answer = client.post("/v1/chat/completions", json={**ASKED, "temperature": 0, **wish})
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    return shown["choices"][0]["message"]["content"], shown["monolite"]["adapter"]


def test_an_adapter_is_stored_listed_used_and_removed(
    tenant: Tenant, files: dict[str, bytes]
) -> None:
    client = tenant.client
    plain = said(client)
    made = put(client, "pirate", files["first"])
    assert made.status_code == 201, made.text
    shown = made.json()
    assert (shown["rank"], shown["alpha"], shown["tensors"]) == (8, 8.0, 7 * DIMENSIONS.layers)
    assert (shown["bytes"], shown["active"]) == (len(files["first"]), False)
    assert put(client, "pirate", files["first"]).status_code == 200
    assert client.get("/v1/adapters").json()["data"] == [client.get("/v1/adapters/pirate").json()]
    changed = said(client, adapter="pirate")
    assert changed[1] == "pirate"
    assert changed[0] != plain[0]
    assert said(client) == plain
    assert client.delete("/v1/adapters/pirate").status_code == 204
    assert client.delete("/v1/adapters/pirate").status_code == 404
    gone = client.post("/v1/chat/completions", json={**ASKED, "adapter": "pirate"})
    assert (gone.status_code, gone.json()["error"]["param"]) == (422, "adapter")


def test_the_active_one_answers_where_none_is_named(
    tenant: Tenant, files: dict[str, bytes]
) -> None:
    client = tenant.client
    put(client, "a", files["first"])
    put(client, "b", files["second"])
    plain, a, b = said(client), said(client, adapter="a"), said(client, adapter="b")
    assert len({plain[0], a[0], b[0]}) == 3
    for name, expected in (("a", a), ("b", b), ("a", a)):
        swapped = client.post(f"/v1/adapters/{name}/activate").json()
        assert swapped["swap_ms"] >= 0
        assert swapped["fused_tensors"] == 7 * DIMENSIONS.layers
        assert said(client) == expected, "to the token, whatever was between"
        assert said(client, adapter=None) == plain
    active = [one["name"] for one in client.get("/v1/adapters").json()["data"] if one["active"]]
    assert active == ["a"]
    # Replaced, it stays active, and is the new one.
    assert put(client, "a", files["second"]).json()["active"]
    assert said(client) == (b[0], "a")
    client.delete("/v1/adapters/a")
    assert said(client) == plain
    assert client.post("/v1/adapters/a/activate").status_code == 404


def test_more_than_stay_in_memory_are_all_served(tenant: Tenant, files: dict[str, bytes]) -> None:
    client = tenant.client
    for name, content in files.items():
        put(client, name, content)
    expected = {name: said(client, adapter=name) for name in files}
    assert len({text for text, _ in expected.values()}) == len(files)
    for _ in range(2):
        assert {name: said(client, adapter=name) for name in files} == expected


def test_another_tenants_are_not_there(
    tenant: Tenant, other: httpx.Client, files: dict[str, bytes]
) -> None:
    put(tenant.client, "mine", files["first"])
    assert other.get("/v1/adapters").json()["data"] == []
    assert other.get("/v1/adapters/mine").status_code == 404
    refused = other.post("/v1/chat/completions", json={**ASKED, "adapter": "mine"})
    assert refused.status_code == 422
    # The same file is stored for each.
    assert put(other, "mine", files["first"]).status_code == 201
    tenant.client.delete("/v1/adapters/mine")
    assert said(other, adapter="mine")[1] == "mine"


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, bytes]:
    whole = noise(DIMENSIONS, 2, 1)
    some = dict(list(whole.items())[:2])
    (name, (a, b)), *_ = some.items()

    def made(factors: Factors, **more: Any) -> bytes:
        return write_adapter(tmp_path / "made", factors, **more).read_bytes()

    nan = a.copy()
    nan[0, 0] = np.nan
    return {
        "nothing": b"",
        "no GGUF": b"PK\3\4" * 100,
        "cut off": made(whole)[:-1000],
        "a model": MODEL.read_bytes()[:4000],
        "another architecture": made(some, architecture="qwen2"),
        "no adapter": made(some, kind="model"),
        "not a number": made({name: (nan, b)}),
        "another model's shape": made({name: (a[:, :-32], b)}),
        "another rank": made({name: (a, b[:, :1])}),
        "a layer too many": made({"blk.30.attn_q.weight": (a, b)}),
        "a tensor of no layer": made({"token_embd.weight": (a, b)}),
        "no tensor": made({}),
    }


def test_what_can_not_be_used_is_refused_and_nothing_is_stored(
    tenant: Tenant, broken: dict[str, bytes]
) -> None:
    for what, content in broken.items():
        refused = put(tenant.client, "bad", content)
        assert refused.status_code == 422, (what, refused.text)
        assert refused.json()["code"] in ("invalid_adapter", "empty_blob", "invalid"), what
        assert len(refused.json()["detail"]) > 20, what
    assert tenant.client.get("/v1/adapters").json()["data"] == []
    unknown = put(tenant.client, "bad", broken["cut off"], model="nothing")
    assert unknown.status_code == 404


def test_a_narrow_key_may_use_and_not_change_them(tenant: Tenant, files: dict[str, bytes]) -> None:
    put(tenant.client, "a", files["first"])
    _, key = tenant.key_with("ai:local")
    with tenant.server.client(key) as client:
        assert said(client, adapter="a")[1] == "a"
        assert put(client, "b", files["first"]).status_code == 403
        assert client.post("/v1/adapters/a/activate").status_code == 403
        assert client.delete("/v1/adapters/a").status_code == 403


def test_adapters_outlive_the_server_and_move_with_their_tenant(
    engine: Engine, files: dict[str, bytes]
) -> None:
    with running_server(engine.data, **engine.settings) as server, Tenant(server) as tenant:
        put(tenant.client, "a", files["second"])
        tenant.client.post("/v1/adapters/a/activate")
        expected, listed = said(tenant.client), tenant.client.get("/v1/adapters").json()
        key, name = tenant.key, tenant.name
    with running_server(engine.data, **engine.settings) as server:
        with server.client(key) as client:
            assert said(client) == expected
        moved = _moved(server, name)
        with server.client(moved) as client:
            assert client.get("/v1/adapters").json() == listed
            assert said(client) == expected
        with server.client(server.operator_key) as operator:
            operator.delete(f"/v1/tenants/{name}").raise_for_status()
            operator.delete(f"/v1/tenants/{name}-moved").raise_for_status()
    assert (engine.count("adapters"), engine.count("adapter_pieces")) == (0, 0)


def _moved(server: ServerProcess, name: str) -> str:
    with server.client(server.operator_key) as operator:
        lines = operator.get(f"/v1/tenants/{name}/export").raise_for_status().content
        headers = {"Content-Type": "application/x-ndjson"}
        made = operator.post(f"/v1/tenants/{name}-moved/import", content=lines, headers=headers)
        assert made.status_code == 201, made.text
        key: str = made.json()["key"]
        return key
