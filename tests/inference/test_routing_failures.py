"""What a provider may do wrong, and what a server that dies leaves behind."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

from tests.eventually import eventually
from tests.inference.cloud import (
    HELLO,
    KEY,
    Cloud,
    ask,
    cloud_settings,
    public,
    route,
    running_cloud,
    usage,
)
from tests.server_process import Tenant, monolite, running_server


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("garbage", "provider_bad_answer"),
        ("flood", "provider_bad_answer"),
        (400, "provider_refused"),
        (500, "provider_failed"),
    ],
)
def test_a_fault_before_anything_was_streamed_is_answered_here(
    caller: Tenant, cloud: Cloud, fault: str | int, reason: str
) -> None:
    cloud.fault = fault
    cloud.words = []
    answer = public(caller.client, stream=False)
    assert route(answer)[0] == "local"
    assert route(answer)[1] in (reason, "provider_broke_off")
    assert usage(caller)["cloud_tokens_reserved"] == 0
    cloud.fault, cloud.words = None, ["well"]
    assert route(public(caller.client))[0] != "local"


def test_a_short_retry_after_is_waited_for(caller: Tenant, cloud: Cloud) -> None:
    cloud.fault, cloud.retry_after = 529, "0"
    assert route(public(caller.client))[1] == "provider_overloaded"
    assert len(cloud.received) == 2
    # The provider named its time, so the circuit was open no longer than that.
    cloud.fault = None
    assert route(public(caller.client))[0] != "local"


def test_a_stream_that_breaks_off_says_so_and_is_settled(caller: Tenant, cloud: Cloud) -> None:
    cloud.fault = "cut"
    body = {"messages": HELLO, "max_tokens": 8, "privacy": "public", "tier": "advanced"}
    with caller.client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as got:
        lines = [line for line in got.iter_lines() if line]
    assert '"provider_failed"' in lines[-1]
    spent = usage(caller)
    assert (spent["cloud_tokens_reserved"], spent["calls"]) == (0, 1)
    # Nothing had gone to the client here, so the local model answers.
    assert route(public(caller.client)) == ("local", "provider_broke_off")


def test_a_provider_that_falls_silent_between_tokens_is_given_up(
    caller: Tenant, cloud: Cloud
) -> None:
    cloud.fault = "stall"
    cloud.release.clear()
    body = {"messages": HELLO, "max_tokens": 8, "privacy": "public", "tier": "advanced"}
    with caller.client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as got:
        lines = [line for line in got.iter_lines() if line]
    assert "From" in "".join(lines[:-1])
    assert '"provider_failed"' in lines[-1]
    assert "no token within 1 s" in lines[-1]
    assert usage(caller)["cloud_tokens_reserved"] == 0
    assert route(public(caller.client)) == ("local", "provider_broke_off")
    cloud.release.set()


def test_a_client_that_hangs_up_ends_the_call(caller: Tenant, cloud: Cloud) -> None:
    cloud.fault = "endless"
    body = {"messages": HELLO, "privacy": "public", "tier": "advanced", "stream": True}
    with caller.client.stream("POST", "/v1/chat/completions", json=body) as got:
        for line in got.iter_lines():
            if "more" in line:
                break
    eventually(lambda: usage(caller)["cloud_tokens_reserved"] == 0, "the call is settled")
    (call,) = caller.client.get("/v1/ai/calls").json()["data"]
    assert call["outcome"] == "cut_off"
    assert 0 < call["completion_tokens"] <= 1024


def test_a_dead_provider_is_given_up_and_its_circuit_opens(tmp_path: Path) -> None:
    with (
        running_cloud() as cloud,
        running_server(tmp_path / "data", **cloud_settings(cloud)) as server,
        Tenant(server) as tenant,
    ):
        cloud.fault = "silent"
        assert route(public(tenant.client)) == ("local", "provider_timed_out")
        assert route(public(tenant.client)) == ("local", "provider_unavailable")
        assert len(cloud.received) == 1
        with server.client(server.operator_key) as operator:
            budget = operator.get("/v1/operator/status").json()["budget"]
            metrics = operator.get("/metrics").text
        assert budget["provider"]["circuit"] == "open"
        assert "no token" in budget["provider"]["last_error"] or "no answer" in str(budget)
        assert 'reason="provider_unavailable"' in metrics
        assert KEY not in json.dumps(budget) + metrics


def test_everything_local_works_without_a_network(tmp_path: Path) -> None:
    with running_cloud() as cloud:
        unreachable = cloud_settings(cloud)
    with running_server(tmp_path / "data", **unreachable) as server, Tenant(server) as tenant:
        assert route(public(tenant.client)) == ("local", "provider_connection_failed")
        assert route(public(tenant.client)) == ("local", "provider_unavailable")
        assert route(ask(tenant.client)) == ("local", "private")
        assert usage(tenant)["cloud_tokens_reserved"] == 0


def test_a_wrong_key_is_said_once_and_never_shown(tmp_path: Path) -> None:
    wrong = "sk-wrong-and-secret"
    with running_cloud() as cloud:
        settings = {**cloud_settings(cloud), "MONOLITE_CLOUD_KEY": wrong}
        with running_server(tmp_path / "data", **settings) as server, Tenant(server) as tenant:
            first = public(tenant.client)
            assert route(first) == ("local", "provider_key_refused")
            assert route(public(tenant.client)) == ("local", "provider_unavailable")
            with server.client(server.operator_key) as operator:
                status = operator.get("/v1/operator/status").text
            assert "refuses the key" in status
            assert wrong not in status + first.text
            log = server.wait_for_log(logger="monolite.inference")
            assert wrong not in json.dumps(log)
            examined = monolite("doctor", "--data", server.data, **settings)
            assert b"FAIL  cloud: the provider refuses the key (401)" in examined.stdout
            assert wrong.encode() not in examined.stdout + examined.stderr
            files = [path for path in server.data.rglob("*") if path.is_file()]
            assert any(path.name == "monolite.db" for path in files)
            assert not [path for path in files if wrong.encode() in path.read_bytes()]


def test_a_server_killed_in_a_call_leaves_no_reservation(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_cloud() as cloud:
        settings = {**cloud_settings(cloud), "MONOLITE_CLOUD_FIRST_TOKEN_S": "30"}
        with running_server(data, **settings) as server, Tenant(server) as tenant:
            cloud.fault = "silent"
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(lambda: public(tenant.client))
                eventually(lambda: len(cloud.received) == 1, "the provider is asked")
                reserved = usage(tenant)["cloud_tokens_reserved"]
                assert reserved > 0
                server.stop(signal.SIGKILL)
                with pytest.raises(httpx.HTTPError):
                    waiting.result()
            cloud.release.set()
            name, key = tenant.name, tenant.key
        assert name
        with running_server(data, **settings) as server, server.client(key) as client:
            # Its lease is not over: what it may have cost still counts.
            assert client.get("/v1/ai/usage").json()["cloud_tokens_reserved"] == reserved


@pytest.mark.parametrize(
    "wrong",
    [
        {"MONOLITE_CLOUD_URL": "http://api.example.com"},
        {"MONOLITE_CLOUD_URL": "https://10.0.0.8/v1"},
        {"MONOLITE_CLOUD_URL": "https://169.254.169.254"},
        {"MONOLITE_CLOUD_MODEL": ""},
        {"MONOLITE_CLOUD_PROVIDER": "nobody"},
    ],
)
def test_settings_that_cannot_be_used_are_refused_at_the_start(
    tmp_path: Path, wrong: dict[str, str]
) -> None:
    settings = {
        "MONOLITE_CLOUD_PROVIDER": "openai",
        "MONOLITE_CLOUD_MODEL": "m",
        "MONOLITE_CLOUD_KEY": KEY,
        **wrong,
    }
    ended = monolite("serve", "--data", tmp_path / "data", **settings)
    assert ended.returncode != 0
    assert b"MONOLITE_CLOUD" in ended.stderr.strip().splitlines()[-1]
    assert KEY.encode() not in ended.stderr


def test_the_stub_speaks_what_the_providers_own_clients_read() -> None:
    with running_cloud() as cloud:
        with anthropic.Anthropic(base_url=cloud.url, api_key=KEY, max_retries=0) as theirs:
            with theirs.messages.stream(model="m", max_tokens=5, messages=HELLO) as stream:  # type: ignore[arg-type]
                message = stream.get_final_message()
            assert message.content[0].text == "From the cloud."  # type: ignore[union-attr]
            assert message.usage.input_tokens == 11
            cloud.fault = 529
            with pytest.raises(anthropic.APIStatusError):
                theirs.messages.create(model="m", max_tokens=5, messages=HELLO)  # type: ignore[arg-type]
            cloud.fault = None
        base_url = cloud.url + "/v1"
        with openai.OpenAI(base_url=base_url, api_key=KEY, max_retries=0) as ours:
            chunks = list(
                ours.chat.completions.create(model="m", messages=HELLO, stream=True)  # type: ignore[arg-type]
            )
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == 3
