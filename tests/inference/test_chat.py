"""`/v1/chat/completions` and `/v1/completions` as OpenAI's own client and as curl see them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from monolite.models.language_models import DEFAULT_NAME
from tests.eventually import eventually
from tests.models.gguf_files import small_file
from tests.server_process import Tenant, running_server

QUESTION = [{"role": "user", "content": "Name three fruits."}]
GREEDY: dict[str, Any] = {"model": "default", "temperature": 0}


@pytest.fixture
def ai(tenant: Tenant) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{tenant.server.url}/v1", api_key=tenant.key, max_retries=0
    ) as client:
        yield client


def ask(client: httpx.Client, **wish: Any) -> httpx.Response:
    return client.post(
        "/v1/chat/completions", json={**GREEDY, "messages": QUESTION, "max_tokens": 4, **wish}
    )


def refused(answer: httpx.Response, status: int, param: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    if param is not None:
        assert error["param"] == param
    return error


def test_openais_client_gets_an_answer(ai: openai.OpenAI) -> None:
    answer = ai.chat.completions.create(**GREEDY, messages=QUESTION, max_tokens=40)  # type: ignore[arg-type]
    choice = answer.choices[0]
    assert "anana" in (choice.message.content or "")
    assert choice.finish_reason in ("stop", "length")
    assert answer.model == DEFAULT_NAME
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 40
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    particulars = answer.model_dump()["monolite"]
    assert particulars["provider"] == "local"
    assert particulars["kv_bytes"] > 0
    assert {"route_reason", "adapter", "draft_accepted", "draft_proposed"} <= particulars.keys()


def test_a_stream_says_what_the_whole_answer_says(ai: openai.OpenAI) -> None:
    wish = {**GREEDY, "messages": QUESTION, "max_tokens": 24, "seed": 5, "temperature": 0.7}
    whole = ai.chat.completions.create(**wish)
    pieces, reasons, usage = [], [], None
    with closing(
        ai.chat.completions.create(**wish, stream=True, stream_options={"include_usage": True})
    ) as chunks:
        for chunk in chunks:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                pieces.append(choice.delta.content or "")
                reasons.append(choice.finish_reason)
    assert "".join(pieces) == whole.choices[0].message.content
    assert [one for one in reasons if one] == [whole.choices[0].finish_reason]
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_a_second_turn_reuses_the_first(ai: openai.OpenAI) -> None:
    first = ai.chat.completions.create(**GREEDY, messages=QUESTION, max_tokens=30)  # type: ignore[arg-type]
    turns = [
        *QUESTION,
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "And three vegetables?"},
    ]
    second = ai.chat.completions.create(**GREEDY, messages=turns, max_tokens=8)  # type: ignore[arg-type]
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens or 0
    assert cached >= first.usage.prompt_tokens


def test_another_tenant_reuses_nothing(ai: openai.OpenAI, other: httpx.Client) -> None:
    ai.chat.completions.create(**GREEDY, messages=QUESTION, max_tokens=4)  # type: ignore[arg-type]
    answer = ask(other).json()
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_stop_string_ends_the_answer_before_it(client: httpx.Client) -> None:
    free = ask(client, max_tokens=30).json()["choices"][0]["message"]["content"]
    stop = free[6:11]
    for stream in (False, True):
        answer = ask(client, max_tokens=30, stop=[stop, "never"], stream=stream)
        if stream:
            lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
            choices = [json.loads(line)["choices"][0] for line in lines]
            text = "".join(choice["delta"].get("content", "") for choice in choices)
            reason = choices[-1]["finish_reason"]
            assert answer.text.rstrip().endswith("data: [DONE]")
        else:
            choice = answer.json()["choices"][0]
            text, reason = choice["message"]["content"], choice["finish_reason"]
        assert text == free[: free.index(stop)]
        assert reason == "stop"


def test_the_same_seed_gives_the_same_answer(client: httpx.Client) -> None:
    def text(seed: int) -> str:
        answer = ask(client, seed=seed, temperature=1.2, max_tokens=16).json()
        return str(answer["choices"][0]["message"]["content"])

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_choices_and_logprobs_are_as_many_as_asked_for(ai: openai.OpenAI) -> None:
    answer = ai.chat.completions.create(
        model="default",
        messages=QUESTION,  # type: ignore[arg-type]
        max_tokens=5,
        n=3,
        logprobs=True,
        top_logprobs=4,
        seed=3,
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.content is not None
        for token in choice.logprobs.content:
            assert token.logprob <= 0
            assert len(token.top_logprobs) == 4
            values = [one.logprob for one in token.top_logprobs]
            assert values == sorted(values, reverse=True)


def test_a_bias_forbids_and_forces_tokens(client: httpx.Client) -> None:
    forced = ask(client, logit_bias={"2": 100}).json()
    assert forced["choices"][0]["finish_reason"] == "stop"
    assert forced["choices"][0]["message"]["content"] == ""
    refused(ask(client, logit_bias={"99999999": 1}), 422, "logit_bias")


def test_a_text_is_gone_on_with(ai: openai.OpenAI) -> None:
    answer = ai.completions.create(**GREEDY, prompt="The capital of France is", max_tokens=3)
    assert answer.choices[0].text.startswith(" Paris")


@pytest.mark.parametrize(
    ("wish", "status", "param"),
    [
        ({"temperature": -1}, 422, "temperature"),
        ({"temperature": 9}, 422, "temperature"),
        ({"top_p": 0}, 422, "top_p"),
        ({"n": 0}, 422, "n"),
        ({"n": 10**9}, 422, "n"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"messages": []}, 422, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, 422, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, 422, "messages[0].content"),
        ({"stop": "x" * 1_000_000}, 422, "stop"),
        ({"model": "nobody"}, 404, None),
        ({"adapter": "nobody"}, 422, "adapter"),
        ({"privacy": "secret"}, 422, "privacy"),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, 422, "messages"),
        ({"top_logprobs": 3}, 422, "top_logprobs"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:,"}}],
                    }
                ]
            },
            422,
            "messages[0].content[0]",
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(
    client: httpx.Client, wish: dict[str, Any], status: int, param: str | None
) -> None:
    refused(ask(client, **wish), status, param)


def test_a_prompt_over_the_context_is_told_by_its_code(client: httpx.Client) -> None:
    long = [{"role": "user", "content": "word " * 9000}]
    error = refused(ask(client, messages=long), 422)
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "wish",
    [
        {"grammar": "root ::= root | word"},
        {"grammar": 'root ::= root "x"'},
        {"grammar": "this is none"},
        {"response_format": {"type": "yaml"}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "^a"}},
            }
        },
    ],
)
def test_an_answer_is_never_free_where_a_form_was_asked_for(
    client: httpx.Client, wish: dict[str, Any]
) -> None:
    for stream in (False, True):
        error = refused(ask(client, **wish, stream=stream), 400)
        assert error["code"] == "not_enforceable"


@pytest.mark.parametrize("temperature", [0, 0.8, 2])
def test_a_grammar_holds_at_any_temperature(client: httpx.Client, temperature: float) -> None:
    grammar = 'root ::= "[" number ("," " " number){2} "]"\nnumber ::= [1-9] [0-9]?'
    for seed in range(3):
        answer = ask(
            client, grammar=grammar, temperature=temperature, seed=seed, max_tokens=40
        ).json()
        choice = answer["choices"][0]
        assert choice["finish_reason"] == "stop"
        numbers = json.loads(choice["message"]["content"])
        assert len(numbers) == 3
        assert all(0 < number < 100 for number in numbers)


def test_what_a_grammar_leaves_no_choice_of_is_in_the_answer(client: httpx.Client) -> None:
    grammar = 'root ::= "{\\"verdict\\": \\"" ("yes" | "no") "\\"}"'
    answer = ask(client, grammar=grammar, max_tokens=40, logprobs=True).json()
    verdict = json.loads(answer["choices"][0]["message"]["content"])
    assert verdict["verdict"] in ("yes", "no")


@pytest.mark.parametrize("temperature", [0.7, 1.2])
def test_an_object_is_json_whenever_it_is_whole(client: httpx.Client, temperature: float) -> None:
    whole = 0
    for seed in range(4):
        answer = ask(
            client,
            messages=[{"role": "user", "content": "Describe a cat as JSON: name, age, color."}],
            response_format={"type": "json_object"},
            temperature=temperature,
            seed=seed,
            max_tokens=250,
        ).json()
        choice = answer["choices"][0]
        if choice["finish_reason"] == "stop":
            whole += 1
            assert isinstance(json.loads(choice["message"]["content"]), dict)
        else:
            assert choice["finish_reason"] == "length"
    assert whole


def test_openais_client_gets_an_answer_of_its_schema(ai: openai.OpenAI) -> None:
    cat = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 30},
            "color": {"enum": ["black", "white", "red"]},
        },
        "required": ["name", "age", "color"],
        "additionalProperties": False,
    }
    for temperature in (0, 1, 2):
        answer = ai.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": "Describe a cat."}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "cat", "schema": cat, "strict": True},
            },
            temperature=temperature,
            max_tokens=120,
            seed=1,
        )
        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(answer.choices[0].message.content or ""), cat)


def test_a_schema_names_what_it_is_refused_for(client: httpx.Client) -> None:
    given = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^a"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": given}}
    error = refused(ask(client, response_format=form), 400)
    assert "pattern" in error["message"]
    assert "properties" in error["param"]


COPYING = [
    {
        "role": "user",
        "content": "Repeat this text word for word: The lighthouse keeper counted 214 steps every"
        " evening, wound the clockwork, and wrote down the weather: wind from the north-west, rain"
        " since noon, two fishing boats still out at sea.",
    }
]


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_drafts_change_the_time_and_not_the_answer(
    client: httpx.Client, temperature: float
) -> None:
    wish = {"messages": COPYING, "max_tokens": 80, "temperature": temperature, "seed": 11}
    plain = ask(client, **wish, speculate="off").json()
    drafted = ask(client, **wish, speculate="auto").json()
    assert drafted["choices"] == plain["choices"]
    assert drafted["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
    assert plain["monolite"]["draft_proposed"] == 0
    if temperature == 0:
        counted = drafted["monolite"]
        assert 0 < counted["draft_accepted"] <= counted["draft_proposed"]


def test_a_stop_string_within_a_draft_ends_the_answer_before_it(client: httpx.Client) -> None:
    wish = {"messages": COPYING, "max_tokens": 80, "stop": " clockwork"}
    plain = ask(client, **wish, speculate="off").json()["choices"]
    assert ask(client, **wish).json()["choices"] == plain
    # What the draft had read beyond the stop is no part of what the next turn takes over.
    assert ask(client, **wish).json()["choices"] == plain


def test_forms_and_free_answers_are_decoded_together(client: httpx.Client) -> None:
    def text(number: int) -> str:
        form = {} if number % 2 else {"grammar": 'root ::= "a" "b"{3,9} "c"'}
        answer = ask(client, max_tokens=16, **form)
        return str(answer.json()["choices"][0]["message"]["content"])

    alone = [text(number) for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(text, range(4))) == alone


def test_many_at_once_get_what_each_gets_alone(client: httpx.Client) -> None:
    def text(number: int) -> str:
        question = [{"role": "user", "content": f"Count to {number + 2}."}]
        answer = ask(client, messages=question, max_tokens=12)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    alone = [text(number) for number in range(6)]
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(text, range(6))) == alone


def test_one_that_hangs_up_frees_its_place(tenant: Tenant) -> None:
    wish = {**GREEDY, "messages": QUESTION, "max_tokens": 3000, "logit_bias": {"2": -100}}
    with httpx.Client(base_url=tenant.server.url, headers=tenant.client.headers) as client:
        for _ in range(3):
            with client.stream(
                "POST", "/v1/chat/completions", json={**wish, "stream": True}
            ) as answer:
                next(answer.iter_bytes())

    def decoding() -> int:
        metrics = httpx.get(f"{tenant.server.url}/metrics").text
        (line,) = [x for x in metrics.splitlines() if x.startswith("monolite_inference_running ")]
        return int(float(line.split()[1]))

    eventually(lambda: decoding() == 0, "nobody is decoded for")


def test_the_server_answers_others_while_it_decodes(tenant: Tenant) -> None:
    wish = {**GREEDY, "messages": QUESTION, "max_tokens": 200, "logit_bias": {"2": -100}}
    with ThreadPoolExecutor(1) as threads:
        decoding = threads.submit(
            lambda: tenant.client.post("/v1/chat/completions", json=wish, timeout=60)
        )
        answered = 0
        while not decoding.done():
            assert httpx.get(f"{tenant.server.url}/healthz").status_code == 200
            answered += 1
            time.sleep(0.01)
        assert decoding.result().json()["usage"]["completion_tokens"] == 200
    assert answered > 1


def test_the_models_list_has_the_language_model(client: httpx.Client) -> None:
    models = {one["id"]: one for one in client.get("/v1/models").json()["data"]}
    assert models[DEFAULT_NAME]["kind"] == "language"
    assert client.get(f"/v1/models/{DEFAULT_NAME}").json()["licence"] == "apache-2.0"


def test_models_are_asked_side_by_side(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for name in ("one", "two"):
        small_file(models / f"{name}.gguf", "llama")
    wish = {"prompt": "he", "max_tokens": 24, "temperature": 0}
    with (
        running_server(tmp_path / "data", MONOLITE_MODELS=str(models)) as server,
        Tenant(server) as tenant,
    ):

        def answer(model: str) -> tuple[int, str]:
            got = tenant.client.post("/v1/completions", json={**wish, "model": model})
            return got.status_code, got.json()["choices"][0]["text"]

        names = ["one", "two", DEFAULT_NAME]
        alone = {name: answer(name) for name in names}
        assert {status for status, _ in alone.values()} == {200}
        for name in [*names, *reversed(names)]:
            assert answer(name) == alone[name]
        with ThreadPoolExecutor(4) as threads:
            many = ["one", "two"] * 4
            assert list(threads.map(answer, many)) == [alone[name] for name in many]
