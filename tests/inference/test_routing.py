"""What goes to a cloud and what stays, over HTTP, with a provider that speaks both protocols."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.eventually import eventually
from tests.inference.cloud import (
    HELLO,
    Cloud,
    ask,
    cloud_settings,
    public,
    route,
    running_cloud,
    usage,
)
from tests.inference.conftest import Rig
from tests.server_process import ROOT, Tenant, monolite, running_server

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}},
    "required": ["n"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def test_a_public_request_above_the_local_tier_goes_and_is_counted(
    rig: Rig, caller: Tenant, cloud: Cloud
) -> None:
    answer = public(caller.client)
    provider, reason = route(answer)
    assert (provider in ("anthropic", "openai"), reason) == (True, "tier_above_local")
    shown = answer.json()
    assert shown["choices"][0]["message"]["content"] == "From the cloud."
    assert shown["choices"][0]["finish_reason"] == "stop"
    assert shown["model"] == "cloud-model"
    assert (shown["usage"]["prompt_tokens"], shown["usage"]["completion_tokens"]) == (11, 3)
    spent = usage(caller)
    assert (spent["cloud_tokens"], spent["cloud_tokens_reserved"], spent["calls"]) == (14, 0, 1)
    assert spent["usd"] == pytest.approx((11 * 3 + 3 * 15) / 1e6)
    assert spent["cloud_tokens_left"] == 100_000 - 14


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({}, "private"),
        ({"privacy": "private", "tier": "advanced"}, "private"),
        ({"privacy": "public"}, "within_local"),
        ({"privacy": "public", "tier": "advanced", "grammar": 'root ::= "ja"'}, "grammar"),
        ({"privacy": "public", "tier": "advanced", "logprobs": True}, "token_detail"),
    ],
)
def test_what_stays_says_why(
    caller: Tenant, cloud: Cloud, wish: dict[str, Any], reason: str
) -> None:
    connections = cloud.connections
    assert route(ask(caller.client, **wish)) == ("local", reason)
    assert (cloud.received, cloud.connections) == ([], connections)


@pytest.fixture(scope="module")
def keys(rig: Rig) -> Iterator[list[tuple[str, bool]]]:
    """A key of each kind, and whether what it asks may be public."""
    with Tenant(rig[0]) as tenant:
        classes = {"health": "private", "help": "public"}
        put = tenant.client.put("/v1/ai/policy", json={"cloud": {"classes": classes}})
        put.raise_for_status()
        made = []
        for privacy in ("private", "health", "help", "public"):
            for tier in ("basic", "advanced"):
                _, key = tenant.key_with("ai:local", "ai:cloud", privacy=privacy, tier=tier)
                made.append((key, privacy in ("help", "public")))
        made.append((tenant.key_with("ai:local")[1], False))
        yield made


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
CONTENTS = st.sampled_from(["Hi.", [{"type": "text", "text": "Hi."}], [IMAGE]])
WISHES = st.fixed_dictionaries(
    {"messages": st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": CONTENTS}),
                          min_size=1, max_size=2),
     "max_tokens": st.sampled_from([1, 2, 600])},
    optional={"tier": st.sampled_from(["basic", "standard", "advanced"]),
              "privacy": st.sampled_from(["private", "public", "health", "help", "none"]),
              "tools": st.just([WEATHER]),
              "tool_choice": st.sampled_from(["auto", "required"]),
              "response_format": st.just({"type": "json_object"}),
              "model": st.sampled_from(["default", "cloud-model", "no-such-model"]),
              "stream": st.booleans(),
              "n": st.integers(1, 2)},
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(which=st.integers(0, 8), wish=WISHES)
def test_nothing_private_makes_a_connection(
    rig: Rig, cloud: Cloud, keys: list[tuple[str, bool]], which: int, wish: dict[str, Any]
) -> None:
    key, may_be_public = keys[which]
    asked = wish.get("privacy")
    if may_be_public and asked in (None, "public", "help"):
        return
    wish = {**wish, "stop": [" "], "max_tokens": min(wish["max_tokens"], 600)}
    before = (cloud.connections, len(cloud.received))
    with rig[0].client(key) as client:
        answer = client.post("/v1/chat/completions", json=wish)
    assert answer.status_code in (200, 404, 422), answer.text
    assert (cloud.connections, len(cloud.received)) == before


def test_without_a_provider_nothing_of_it_is_loaded() -> None:
    code = (
        "import sys, monolite.assembly;"
        "print([m for m in sys.modules if m.startswith(('monolite.egress.client', 'h11',"
        " 'monolite.assembly_cloud', 'monolite.inference.routing.calling'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == b"[]"


def test_many_tokens_go_by_the_tenants_line(caller: Tenant, cloud: Cloud) -> None:
    assert route(ask(caller.client, privacy="public", max_tokens=512))[1] == "tokens_beyond_local"
    caller.client.put("/v1/ai/policy", json={"local_max_tokens": 4000}).raise_for_status()
    assert route(ask(caller.client, privacy="public", max_tokens=4)) == ("local", "within_local")


def test_a_key_without_the_scope_and_a_policy_that_forbids(caller: Tenant, cloud: Cloud) -> None:
    _, narrow = caller.key_with("ai:local")
    with caller.server.client(narrow) as client:
        assert route(public(client)) == ("local", "no_cloud_scope")
    put = caller.client.put("/v1/ai/policy", json={"cloud": {"allowed": False}})
    assert put.json()["in_force"]["cloud_configured"]
    assert route(public(caller.client)) == ("local", "policy_forbids_cloud")
    caller.client.put("/v1/ai/policy", json={"cloud": {"privacy": "private"}})
    assert route(public(caller.client)) == ("local", "private_policy")
    assert cloud.received == []


def test_data_classes_are_set_by_key(caller: Tenant, cloud: Cloud) -> None:
    classes = {"health": "private", "help": "public"}
    caller.client.put("/v1/ai/policy", json={"cloud": {"classes": classes}}).raise_for_status()
    for privacy, where in (("health", "local"), ("help", "cloud"), ("private", "local")):
        _, key = caller.key_with("ai:local", "ai:cloud", privacy=privacy, tier="advanced")
        with caller.server.client(key) as client:
            for asked in ({}, {"privacy": "public"}):
                provider, _ = route(ask(client, **asked))
                assert (provider == "local") == (where == "local"), (privacy, asked)
    assert route(public(caller.client, privacy="health")) == ("local", "private_data_class")
    unknown = caller.client.post(
        "/v1/keys", json={"name": "k", "scopes": ["ai:local"], "privacy": "nothing"}
    )
    assert (unknown.status_code, unknown.json()["errors"][0]["pointer"]) == (422, "#/privacy")
    assert public(caller.client, privacy="nothing").status_code == 422
    # A class that is gone is private.
    _, key = caller.key_with("ai:local", "ai:cloud", privacy="help", tier="advanced")
    caller.client.put("/v1/ai/policy", json={}).raise_for_status()
    with caller.server.client(key) as client:
        assert route(ask(client)) == ("local", "private_data_class")


def test_private_and_beyond_the_local_model_is_refused_where_the_policy_says(
    caller: Tenant, cloud: Cloud
) -> None:
    caller.client.put("/v1/ai/policy", json={"cloud": {"beyond_local": "refuse"}})
    refused = ask(caller.client, tier="advanced")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "beyond_local")
    assert route(ask(caller.client)) == ("local", "private")
    assert cloud.received == []


@pytest.mark.parametrize(
    ("policy", "pointer"),
    [
        ({"daily_cloud_tokens": -1}, "#/daily_cloud_tokens"),
        ({"cloud": {"classes": {"health": "secret"}}}, "#/cloud/classes"),
        ({"cloud": {"classes": {"public": "public"}}}, "#/cloud/classes/public"),
        ({"cloud": {"daily_usd": -0.5}}, "#/cloud/daily_usd"),
        ({"cloud": {"url": "http://elsewhere"}}, "#/cloud"),
        ({"timezone": "Mars/Olympus"}, "#/timezone"),
    ],
)
def test_a_bad_policy_is_refused_and_the_old_one_stays(
    caller: Tenant, policy: dict[str, Any], pointer: str
) -> None:
    caller.client.put("/v1/ai/policy", json={"daily_cloud_tokens": 7}).raise_for_status()
    refused = caller.client.put("/v1/ai/policy", json=policy)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"].startswith(pointer)
    assert caller.client.get("/v1/ai/policy").json()["daily_cloud_tokens"] == 7


def test_a_policy_only_tightens(caller: Tenant) -> None:
    put = caller.client.put("/v1/ai/policy", json={"daily_cloud_tokens": 10**9})
    assert put.json()["in_force"]["daily_cloud_tokens"] == 100_000
    assert usage(caller)["daily_cloud_tokens"] == 100_000
    _, key = caller.key_with("ai:local", "ai:cloud")
    with caller.server.client(key) as client:
        assert client.put("/v1/ai/policy", json={}).status_code == 403


def test_a_spent_budget_degrades_to_local_and_warns(caller: Tenant, cloud: Cloud) -> None:
    caller.client.put("/v1/ai/policy", json={"daily_cloud_tokens": 1000}).raise_for_status()
    cloud.prompt_tokens = 700
    try:
        assert route(public(caller.client))[1] == "tier_above_local"
    finally:
        cloud.prompt_tokens = 11
    spent = usage(caller)
    assert (spent["cloud_tokens"], spent["cloud_tokens_left"]) == (703, 297)
    assert caller.client.get("/v1/streams/ai-budget/events").status_code == 404
    assert route(public(caller.client, max_tokens=300)) == ("local", "budget_spent")
    for _ in range(2):
        assert route(public(caller.client, max_tokens=150))[1] == "tier_above_local"
    events = caller.client.get("/v1/streams/ai-budget/events").json()["data"]
    assert [one["type"] for one in events] == ["ai.budget_warning"]
    assert events[0]["data"]["daily_cloud_tokens"] == 1000
    caller.client.put("/v1/ai/policy", json={"daily_cloud_tokens": 0}).raise_for_status()
    assert usage(caller)["spent"]
    assert route(public(caller.client)) == ("local", "budget_spent")


def test_a_hundred_requests_at_once_never_overspend(caller: Tenant, cloud: Cloud) -> None:
    caller.client.put("/v1/ai/policy", json={"daily_cloud_tokens": 300}).raise_for_status()
    cloud.fault = "slow"
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: public(caller.client, max_tokens=2), range(100)))
    spent = usage(caller)
    # What the local model can't queue either is refused, and took nothing.
    routes = [route(one) for one in answers if one.status_code != 429]
    went = sum(provider != "local" for provider, _ in routes)
    assert 1 <= went < 24
    assert (spent["calls"], spent["cloud_tokens_reserved"]) == (went, 0)
    assert spent["cloud_tokens"] == went * 14 <= 300
    assert {reason for provider, reason in routes if provider == "local"} == {"budget_spent"}


def test_the_day_of_a_budget_is_the_tenants(caller: Tenant) -> None:
    days = []
    # Twenty-five hours apart: it is never the same day in both.
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        caller.client.put("/v1/ai/policy", json={"timezone": zone}).raise_for_status()
        assert route(public(caller.client))[1] == "tier_above_local"
        spent = usage(caller)
        days.append(spent["day"])
        assert (spent["timezone"], spent["calls"]) == (zone, 1)
        midnight = datetime.fromisoformat(spent["resets_at"]).astimezone(ZoneInfo(zone))
        assert (midnight.hour, midnight.minute) == (0, 0)
        assert midnight.date() == date.fromisoformat(spent["day"]) + timedelta(days=1)
    assert days[0] > days[1]


def test_the_record_of_a_call_has_no_text(caller: Tenant, cloud: Cloud) -> None:
    secret = "the patient's name is Zebediah"
    messages = [{"role": "user", "content": secret}]
    for _ in range(2):
        public(caller.client, messages=messages)
    public(caller.client)
    listed = caller.client.get("/v1/ai/calls?limit=2").json()
    rest = caller.client.get(f"/v1/ai/calls?cursor={listed['next_cursor']}").json()
    third, second, first = [*listed["data"], *rest["data"]]
    assert first["prompt_hash"] == second["prompt_hash"] != third["prompt_hash"]
    assert (first["outcome"], first["privacy"], first["tier"]) == ("answered", "public", "advanced")
    assert first["key_id"]
    assert first["usd"] > 0
    assert "Zebediah" not in json.dumps([listed, rest])
    exported = monolite("tenant", "export", caller.name, "--data", caller.server.data).stdout
    assert exported.count(b'"kind":"ai_call"') == 3
    assert b"Zebediah" not in exported


def test_streams_in_openais_shape(caller: Tenant, cloud: Cloud) -> None:
    with openai.OpenAI(
        base_url=f"{caller.server.url}/v1", api_key=caller.key, max_retries=0
    ) as client:
        stream = client.chat.completions.create(
            model="cloud-model",
            messages=HELLO,  # type: ignore[arg-type]
            max_tokens=8,
            stream=True,
            extra_body={"privacy": "public"},
        )
        chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "From the cloud."
    assert chunks[-1].choices[0].finish_reason == "stop"
    eventually(lambda: usage(caller)["cloud_tokens"] == 14, "the call is settled")


def test_a_schema_is_normalised_and_held_to(caller: Tenant, cloud: Cloud) -> None:
    cloud.words = ['{"n"', ": 4}"]
    answer = public(caller.client, response_format=FORM, max_tokens=20)
    assert route(answer)[1] == "tier_above_local"
    assert json.loads(answer.json()["choices"][0]["message"]["content"]) == {"n": 4}
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    cloud.words = ['{"n"', ': "four"}']
    answer = public(caller.client, response_format=FORM, max_tokens=20)
    assert route(answer) == ("local", "cloud_answer_unfit")
    assert isinstance(json.loads(answer.json()["choices"][0]["message"]["content"])["n"], int)
    cloud.words = ["[1]"]
    answer = public(caller.client, response_format={"type": "json_object"}, max_tokens=40)
    assert route(answer) == ("local", "cloud_answer_unfit")


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_calls_pass_through(caller: Tenant, cloud: Cloud, streamed: bool) -> None:
    cloud.tool = {"name": "weather", "arguments": '{"city": "Ulm"}'}
    wish = {"tools": [WEATHER], "tool_choice": "auto"}
    with openai.OpenAI(
        base_url=f"{caller.server.url}/v1", api_key=caller.key, max_retries=0
    ) as client:
        wish |= {"model": "cloud-model", "messages": HELLO}
        extra = {"privacy": "public"}
        if streamed:
            with client.chat.completions.stream(**wish, extra_body=extra) as stream:  # type: ignore[arg-type]
                answer: Any = stream.get_final_completion()
        else:
            answer = client.chat.completions.create(**wish, extra_body=extra)  # type: ignore[call-overload]
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Ulm"})
    assert answer.choices[0].finish_reason == "tool_calls"
    back = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call.model_dump(exclude={"parsed_arguments"})]},
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    cloud.tool = None
    assert route(public(caller.client, messages=back, tools=[WEATHER]))[0] != "local"
    assert "rain" in json.dumps(cloud.received[-1][2]["messages"])


def test_a_tool_that_must_be_called_can_not_be_by_the_local_model(
    caller: Tenant, cloud: Cloud
) -> None:
    free = ask(caller.client, tools=[WEATHER], privacy="private")
    assert route(free) == ("local", "private")
    forced = ask(caller.client, tools=[WEATHER], tool_choice="required", privacy="private")
    assert (forced.status_code, forced.json()["error"]["param"]) == (422, "tool_choice")
    assert cloud.received == []
    assert route(ask(caller.client, tools=[WEATHER], privacy="public"))[1] == "tools"


def test_images_go_or_are_refused(caller: Tenant, cloud: Cloud) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    refused = ask(caller.client, messages=messages)
    assert refused.status_code == 422
    assert "image_url" in refused.json()["error"]["message"]
    assert cloud.received == []
    assert route(ask(caller.client, messages=messages, privacy="public"))[1] == "image"
    assert "aGk=" in json.dumps(cloud.received[-1][2])


def test_a_model_that_was_added_as_more_keeps_more_here(tmp_path: Path) -> None:
    data = tmp_path / "data"
    file = ROOT / "monolite" / "models" / "SmolLM2-135M-Instruct.gguf"
    added = monolite("model", "add", file, "--name", "big", "--tier", "advanced", "--data", data)
    assert added.returncode == 0, added.stderr
    with (
        running_cloud() as cloud,
        running_server(data, **cloud_settings(cloud)) as server,
        Tenant(server) as tenant,
    ):
        assert route(public(tenant.client, model="big")) == ("local", "within_local")
        assert route(public(tenant.client, tier="advanced"))[1] == "tier_above_local"
        shipped = route(public(tenant.client, model="big", max_tokens=600))
        assert shipped[1] == "tokens_beyond_local"


def test_a_token_is_as_private_as_its_key(caller: Tenant, cloud: Cloud) -> None:
    _, key = caller.key_with("admin", "ai:local", "ai:cloud", privacy="private", tier="advanced")
    with caller.server.client(key) as client:
        wish = {"scopes": ["ai:local", "ai:cloud"], "ttl_s": 60}
        token = client.post("/v1/tokens", json=wish).json()["token"]
    with caller.server.client(token) as client:
        assert route(public(client)) == ("local", "private")
    assert cloud.received == []
