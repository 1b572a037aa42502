"""JSON Schemas as grammars: whatever is written by chance under one is valid, or it is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolite.inference.grammar import NotEnforceable, compiled, schema
from monolite.inference.grammar.constraint import GrammarConstraint
from monolite.inference.grammar.trie import Trie

CHECKER = jsonschema.FormatChecker()

ENFORCED: list[Any] = [
    True,
    {},
    {"type": "null"},
    {"type": "boolean"},
    {"type": ["string", "null"]},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uuid"},
    {"type": "integer"},
    {"type": "integer", "minimum": 7, "maximum": 1234},
    {"type": "integer", "minimum": -12, "exclusiveMaximum": 3},
    {"type": "integer", "exclusiveMinimum": 99},
    {"type": "number", "minimum": 0},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"enum": ["red", "green", 3, None, {"a": [1]}]},
    {"type": "string", "enum": ["red", 3]},
    {"const": {"deep": [True, "é"]}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False},
    {"type": "array", "prefixItems": [{"const": 1}, {"type": "null"}], "minItems": 1},
    {"type": "array", "maxItems": 0},
    {"type": "object"},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
            'quoted "name"': {"type": "boolean"},
        },
        "required": ["age", "tags"],
        "additionalProperties": False,
    },
    {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a", "b"]},
    {"anyOf": [{"type": "integer", "minimum": 5, "maximum": 6}, {"type": "null"}]},
    {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    {
        "oneOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "value": {"type": of}},
                "required": ["kind", "value"],
            }
            for kind, of in (("text", "string"), ("flag", "boolean"))
        ]
    },
    {"allOf": [{"type": "boolean"}]},
    {
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer", "minimum": 0, "maximum": 9},
                    "children": {
                        "type": "array",
                        "items": {"$ref": "#/$defs/tree"},
                        "maxItems": 2,
                    },
                },
                "required": ["value"],
            }
        },
        "$ref": "#/$defs/tree",
    },
]

REFUSED: list[tuple[Any, str | None, str | None]] = [
    ({"type": "string", "pattern": "^a"}, "pattern", "#/pattern"),
    ({"type": "string", "format": "hostname"}, "format", "#/format"),
    ({"type": "number", "minimum": 3}, "minimum", "#/minimum"),
    ({"type": "integer", "multipleOf": 3}, "multipleOf", "#/multipleOf"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems", "#/uniqueItems"),
    ({"type": "object", "minProperties": 2}, "minProperties", "#/minProperties"),
    ({"not": {"type": "null"}}, "not", "#/not"),
    ({"if": {}, "then": {}}, "if", "#/if"),
    ({"properties": {"a": {"pattern": "x"}}}, "pattern", "#/properties/a/pattern"),
    ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, "oneOf", "#/oneOf"),
    ({"allOf": [{"type": "integer"}, {"minimum": 3}]}, "allOf", "#/allOf"),
    ({"anyOf": [{}], "type": "string"}, "type", "#/type"),
    ({"$ref": "https://example.com/x"}, "$ref", "#/$ref"),
    ({"$ref": "#/$defs/none"}, "$ref", "#/$ref"),
    ({"$ref": "#"}, None, None),
    (False, None, None),
    ({"type": "string", "minLength": 3, "maxLength": 2}, None, None),
    ({"type": "integer", "minimum": 3, "maximum": 2}, None, None),
    ({"type": "colour"}, "type", "#/type"),
    ({"enum": []}, "enum", "#/enum"),
    ({"type": "object", "required": ["a"], "additionalProperties": False}, "required", "#"),
]


def written(constraint: GrammarConstraint, trie: Trie, chance: random.Random) -> str | None:
    """A text by chance, of tokens that the masks allow, ended the shortest way after a while."""
    text = b""
    for _ in range(60):
        token = int(chance.choice(list(np.flatnonzero(constraint.mask()))))
        if token in trie.ending:
            return text.decode()
        text += trie.tokens[token]
        constraint.accept(token)
    rest = constraint.completion()
    return None if rest is None else (text + rest).decode()


@pytest.mark.parametrize("given_schema", ENFORCED, ids=json.dumps)
def test_what_is_written_by_chance_is_valid(given_schema: Any, trie: Trie) -> None:
    masks = compiled(schema.parse(json.dumps(given_schema)), trie)
    chance = random.Random(1)
    validator = jsonschema.Draft202012Validator(given_schema, format_checker=CHECKER)
    for _ in range(12):
        text = written(GrammarConstraint(masks), trie, chance)
        assert text is not None
        validator.validate(json.loads(text))


@pytest.mark.parametrize(("given_schema", "construct", "pointer"), REFUSED)
def test_what_cannot_be_enforced_is_refused_by_its_place(
    given_schema: Any, construct: str | None, pointer: str | None, trie: Trie
) -> None:
    with pytest.raises(NotEnforceable) as refusal:
        compiled(schema.parse(json.dumps(given_schema)), trie)
    if construct is not None:
        assert (refusal.value.construct, refusal.value.pointer) == (construct, pointer)


@pytest.mark.parametrize(
    ("given_schema", "valid", "invalid"),
    [
        ({"type": "integer", "minimum": 7, "maximum": 1234}, "7 9 10 999 1234", "6 1235 07 7.0"),
        ({"type": "integer", "minimum": -12, "maximum": 3}, "-12 -1 0 3", "-13 4 -0 00"),
        ({"type": "integer", "exclusiveMinimum": 0}, "1 99 1000000", "0 -1"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "0 0.85 1 1.0", "1.1 -0.1 2"),
    ],
)
def test_bounds_of_numbers_hold_exactly(
    given_schema: Any,
    valid: str,
    invalid: str,
    trie: Trie,
    accepts: Callable[[GrammarConstraint, str], bool],
) -> None:
    masks = compiled(schema.parse(json.dumps(given_schema)), trie)
    assert all(accepts(GrammarConstraint(masks), one) for one in valid.split())
    assert not any(accepts(GrammarConstraint(masks), one) for one in invalid.split())


@settings(max_examples=60, deadline=None)
@given(least=st.integers(-3000, 3000), size=st.integers(0, 3000), value=st.integers(-7000, 7000))
def test_any_bounds_of_integers_hold(trie: Trie, least: int, size: int, value: int) -> None:
    bounds = {"type": "integer", "minimum": least, "maximum": least + size}
    constraint = GrammarConstraint(compiled(schema.parse(json.dumps(bounds)), trie))
    for one in (value, least, least + size, least - 1, least + size + 1):
        place = constraint._automaton.walk(constraint.place, str(one).encode())
        accepted = place is not None and place.is_whole
        assert accepted == (least <= one <= least + size)
