"""`/v1/embeddings` as OpenAI's own client and as curl see it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from monolite.models.registry import DEFAULT_NAME
from tests.server_process import ServerProcess, Tenant, running_server

TEXTS = ["How do I reset my password?", "Click the link to recover it.", "Bananas are yellow."]


@pytest.fixture
def ai(tenant: Tenant) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{tenant.server.url}/v1", api_key=tenant.key, max_retries=0
    ) as client:
        yield client


def post(client: httpx.Client, wish: Any) -> httpx.Response:
    return client.post("/v1/embeddings", json=wish)


def refused(answer: httpx.Response, status: int, param: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["param"] == param
    return error


def test_the_official_client_gets_vectors_that_mean_something(ai: openai.OpenAI) -> None:
    # It asks for base64 by itself, and decodes it.
    answer = ai.embeddings.create(model="default", input=TEXTS)
    assert answer.model == DEFAULT_NAME
    assert [one.index for one in answer.data] == [0, 1, 2]
    vectors = np.array([one.embedding for one in answer.data])
    assert vectors.shape == (3, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.3 > vectors[0] @ vectors[2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 9 + 9 + 6


def test_float_and_base64_are_the_same_numbers(ai: openai.OpenAI, client: httpx.Client) -> None:
    floats = post(client, {"input": TEXTS[0], "encoding_format": "float"}).json()
    coded = post(client, {"input": TEXTS[0], "encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(coded["data"][0]["embedding"]), "<f4")
    assert np.float32(floats["data"][0]["embedding"]).tolist() == decoded.tolist()
    by_client = ai.embeddings.create(model=DEFAULT_NAME, input=TEXTS[0], encoding_format="float")
    assert by_client.data[0].embedding == floats["data"][0]["embedding"]


def test_fewer_dimensions_are_the_first_ones_at_length_1(ai: openai.OpenAI) -> None:
    whole = np.array(ai.embeddings.create(model="default", input=TEXTS[0]).data[0].embedding)
    answer = ai.embeddings.create(model="default", input=TEXTS[0], dimensions=64)
    short = np.array(answer.data[0].embedding)
    assert short == pytest.approx(whole[:64] / np.linalg.norm(whole[:64]), abs=1e-6)
    with pytest.raises(openai.UnprocessableEntityError, match="384"):
        ai.embeddings.create(model="default", input=TEXTS[0], dimensions=385)


def test_token_ids_give_the_vector_of_their_text(ai: openai.OpenAI, server: ServerProcess) -> None:
    from monolite.models.registry import SHIPPED, Models

    ids = Models([SHIPPED]).encoder().tokenize([TEXTS[0]]).ids[0].tolist()
    wanted = ai.embeddings.create(model="default", input=TEXTS[0]).data[0].embedding
    inputs: list[Any] = [ids, ids[1:-1], [ids], [ids[1:-1]]]
    for given in inputs:
        answer = ai.embeddings.create(model="default", input=given)
        assert answer.data[0].embedding == wanted
        assert answer.usage.prompt_tokens == len(ids)


def test_a_text_of_its_own_and_in_a_batch_has_one_vector(ai: openai.OpenAI) -> None:
    texts = [f"{text} {number}" * (number % 17 + 1) for number in range(100) for text in TEXTS]
    batch = ai.embeddings.create(model="default", input=texts).data
    assert [one.index for one in batch] == list(range(300))
    for number in (0, 1, 150, 299):
        alone = ai.embeddings.create(model="default", input=texts[number]).data[0].embedding
        assert batch[number].embedding == pytest.approx(alone, abs=1e-5)


def test_a_text_that_is_cut_says_so(client: httpx.Client) -> None:
    answer = post(client, {"input": ["short", "word " * 300, "word " * 200_000]}).json()
    assert [one["truncated"] for one in answer["data"]] == [False, True, True]
    assert [one["tokens"] for one in answer["data"]] == [3, 256, 256]
    assert answer["monolite"]["tokens_max"] == 256
    assert answer["data"][1]["embedding"] == answer["data"][2]["embedding"]
    assert answer["usage"]["total_tokens"] == 3 + 256 + 256


def test_a_million_characters_without_a_space_are_one_unknown_word(client: httpx.Client) -> None:
    answer = post(client, {"input": "a" * 1_000_000})
    assert answer.status_code == 200
    assert answer.json()["data"][0]["tokens"] == 3


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": " \t\n"}, "input"),
        ({"input": "\x00\x01\x7f"}, "input"),
        ({"input": []}, "input"),
        ({"input": [[]]}, "input[0]"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": ["a", 5]}, "input[1]"),
        ({"input": [5, "a"]}, "input[1]"),
        ({"input": [[5], 5]}, "input[1]"),
        ({"input": [5, 30522]}, "input[1]"),
        ({"input": [[5], [5, -1]]}, "input[1][1]"),
        ({"input": ["a"] * 10_000}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": [None]}, "input[0]"),
        ({"input": 5}, "input"),
        ({}, None),
        ({"input": "a", "encoding_format": "binary"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 10**9}, "dimensions"),
        ({"input": "a", "dimensions": "many"}, "dimensions"),
        ({"input": "a", "model": None}, "model"),
        ({"input": "a", "input_type": "question"}, "input_type"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_bad_input_is_named(client: httpx.Client, wish: Any, param: str | None) -> None:
    error = refused(post(client, wish), 422, param)
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "invalid"


def test_errors_have_openais_shape_wherever_they_come_from(
    server: ServerProcess, tenant: Tenant, client: httpx.Client
) -> None:
    assert refused(post(client, {"input": "a", "model": "none"}), 404)["code"] == "model_not_found"
    assert refused(client.get("/v1/models/none"), 404)["code"] == "model_not_found"
    json_type = {"content-type": "application/json"}
    for body, status in ((b"{", 400), (b'{"input":"\\ud800"}', 400), (b"\xff", 400)):
        refused(client.post("/v1/embeddings", content=body, headers=json_type), status)
    refused(client.post("/v1/embeddings", content=b"x" * (9 << 20), headers=json_type), 413)
    text_type = {"content-type": "text/plain"}
    refused(client.post("/v1/embeddings", content=b"a", headers=text_type), 415)
    assert client.get("/v1/embeddings").headers["allow"] == "POST"
    refused(client.get("/v1/embeddings"), 405)
    with server.client() as nobody:
        answer = post(nobody, {"input": "a"})
        assert refused(answer, 401)["type"] == "authentication_error"
        assert answer.headers["www-authenticate"] == "Bearer"
    _, key = tenant.key_with("documents:read")
    with server.client(key) as weak:
        assert refused(post(weak, {"input": "a"}), 403)["code"] == "missing_scope"
        refused(weak.get("/v1/models"), 403)


def test_the_official_client_raises_its_own_errors(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        ai.embeddings.create(model="text-embedding-3-small", input="a")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.UnprocessableEntityError) as empty:
        ai.embeddings.create(model="default", input="")
    assert empty.value.param == "input"
    with pytest.raises(openai.AuthenticationError):
        ai.with_options(api_key="mk_wrong").embeddings.create(model="default", input="a")


def test_installed_models_are_listed(ai: openai.OpenAI) -> None:
    listed = {model.id: model for model in ai.models.list()}
    default = ai.models.retrieve("default")
    assert listed[DEFAULT_NAME] == default
    facts = default.model_dump()
    assert facts["dimensions"] == 384
    assert facts["licence"] == "apache-2.0"
    assert len(facts["source_sha256"]) == 64


def test_a_damaged_model_is_refused_by_its_name_and_spares_the_others(tmp_path: Path) -> None:
    from monolite.models.registry import SHIPPED

    content = bytearray((SHIPPED / f"{DEFAULT_NAME}.model").read_bytes())
    content[len(content) // 2] ^= 4
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "flipped.model").write_bytes(content)
    (folder / f"{DEFAULT_NAME}.model").write_bytes(content)
    with (
        running_server(tmp_path / "data", MONOLITE_MODELS=str(folder)) as server,
        Tenant(server) as tenant,
    ):
        error = refused(post(tenant.client, {"input": "a"}), 503)
        assert error["code"] == "model_unusable"
        assert DEFAULT_NAME in error["message"]
        # Another name than its file's.
        error = refused(post(tenant.client, {"input": "a", "model": "flipped"}), 503)
        assert "flipped" in error["message"]
        # What is removed shows what it hid.
        (folder / f"{DEFAULT_NAME}.model").unlink()
        assert post(tenant.client, {"input": "a"}).status_code == 200
        assert httpx.get(f"{server.url}/healthz").status_code == 200
