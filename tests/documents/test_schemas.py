"""JSON Schema per collection: what it accepts, what it refuses, what it may cost."""

from __future__ import annotations

from typing import Any

import pytest

from monolite.documents.schemas import SCHEMA_BYTES_MAX, compile_schema
from monolite.errors import Invalid
from tests.server_process import Tenant

ORDER = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "tier": {"type": "integer", "minimum": 0},
        "tags": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
    },
}


@pytest.mark.parametrize(
    ("schema", "fitting", "other"),
    [
        ({"required": ["a"]}, {"a": 1}, {}),
        ({"properties": {"a": {"type": "integer"}}}, {"a": 3.0}, {"a": 3.5}),
        ({"properties": {"a": {"enum": [1, "x"]}}}, {"a": "x"}, {"a": 2}),
        ({"properties": {"a": {"const": None}}}, {"a": None}, {"a": False}),
        ({"properties": {"a": {"pattern": "^[a-z]+$"}}}, {"a": "abc"}, {"a": "aBc"}),
        ({"patternProperties": {"^n_": {"type": "number"}}}, {"n_a": 1}, {"n_a": "1"}),
        ({"additionalProperties": False, "properties": {"a": True}}, {"a": 1}, {"b": 1}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [1, True, "1"]}, {"a": [1, 1.0]}),
        ({"properties": {"a": {"uniqueItems": True}}}, {"a": [{"x": 1}]}, {"a": [{"x": 1}] * 2}),
        ({"properties": {"a": {"prefixItems": [{"type": "null"}]}}}, {"a": [None]}, {"a": [1]}),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1, "b": 1}, {"a": 1}),
        ({"if": {"required": ["a"]}, "then": {"required": ["b"]}}, {}, {"a": 1}),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"a": 1}, {"a": 1, "b": 1}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"maxProperties": 1}}}, {}, {"a": 1, "b": 1}),
        ({"properties": {"$ref": {"type": "string"}}}, {"$ref": "x"}, {"$ref": 1}),
        (
            {"unevaluatedProperties": False, "allOf": [{"properties": {"a": {}}}]},
            {"a": 1},
            {"b": 1},
        ),
    ],
)
def test_keywords_accept_and_refuse(schema: Any, fitting: Any, other: Any) -> None:
    compiled = compile_schema(schema)
    compiled.check(fitting)
    with pytest.raises(Invalid) as caught:
        compiled.check(other)
    assert caught.value.code == "schema_mismatch"


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        (False, "#/schema"),
        ({"not": {}}, "#/schema"),
        ({"type": "string"}, "#/schema"),
        ({"type": ["array", "null"]}, "#/schema"),
        ({"const": 1}, "#/schema"),
        ({"enum": [1, []]}, "#/schema"),
        ({"minProperties": 2, "maxProperties": 1}, "#/schema"),
        ({"required": ["a"], "properties": {"a": False}}, "#/schema"),
        ({"required": ["a"], "additionalProperties": False}, "#/schema"),
        ({"allOf": [{"type": "array"}]}, "#/schema"),
        ({"anyOf": [False, {"type": "null"}]}, "#/schema"),
        ({"type": 5}, "#/schema/type"),
        ({"properties": {"a": {"minLength": "x"}}}, "#/schema/properties/a/minLength"),
        ({"properties": {"a/b": {"pattern": "("}}}, "#/schema/properties/a~1b/pattern"),
        ({"$ref": "https://example.com/schema"}, "#/schema/$ref"),
        ({"$ref": "#/$defs/none"}, "#/schema/$ref"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "#/schema/$schema"),
        ({"description": "x" * SCHEMA_BYTES_MAX}, "#/schema"),
    ],
)
def test_a_schema_that_is_none_or_matches_nothing_is_refused(schema: Any, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        compile_schema(schema)
    assert caught.value.code == "invalid_schema"
    assert caught.value.errors[0].pointer == pointer


def test_a_true_schema_takes_everything() -> None:
    compile_schema(True).check({"a": 1})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {
            "$ref": "#/$defs/d0",
            "$defs": {
                **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)},
                "d30": {},
            },
        },
    ],
)
def test_a_schema_that_never_ends_is_told_so(schema: Any) -> None:
    with pytest.raises(Invalid) as caught:
        compile_schema(schema).check({"a": 1})
    assert caught.value.code == "schema_too_costly"


def test_a_pattern_that_backtracks_for_ever_is_broken_off() -> None:
    schema = compile_schema({"properties": {"a": {"pattern": r"^(\w+\s?)*\.$"}}})
    with pytest.raises(Invalid) as caught:
        schema.check({"a": "word " * 40 + "!"})
    assert caught.value.code in ("schema_too_costly", "schema_mismatch")


def test_writes_are_held_to_the_schema_and_leave_nothing_when_they_fail(tenant: Tenant) -> None:
    client = tenant.client
    assert client.put("/v1/collections/orders", json={"schema": ORDER}).status_code == 201
    documents = "/v1/collections/orders/documents"
    bad = client.post(documents, json={"name": "", "tags": ["a", "a"]})
    assert bad.status_code == 422
    assert {e["pointer"] for e in bad.json()["errors"]} == {"#/name", "#/tags"}
    made = client.post(documents, json={"name": "x", "tier": 1})
    assert made.status_code == 201
    path = f"{documents}/{made.json()['id']}"
    for answer in (
        client.patch(path, json={"name": None}),
        client.put(path, json={"tier": 1}),
        client.put(f"{documents}/new", json={"name": 5}),
    ):
        assert answer.status_code == 422
        assert answer.json()["code"] == "schema_mismatch"
    assert client.get(path).json()["revision"] == 1
    listed = client.get(documents).json()["data"]
    assert [document["data"] for document in listed] == [{"name": "x", "tier": 1}]


def test_a_changed_schema_holds_for_the_next_write_and_not_for_the_past(tenant: Tenant) -> None:
    client = tenant.client
    made = client.post("/v1/collections/orders/documents", json={"a": "text"}).json()
    schema = {"properties": {"a": {"type": "integer"}}}
    assert client.put("/v1/collections/orders", json={"schema": schema}).status_code == 200
    path = f"/v1/collections/orders/documents/{made['id']}"
    assert client.get(path).status_code == 200
    assert client.patch(path, json={"b": 1}).status_code == 422
    assert client.get("/v1/collections/orders").json()["schema"] == schema
    assert client.put("/v1/collections/orders", json={}).status_code == 200
    assert client.patch(path, json={"b": 1}).status_code == 200
