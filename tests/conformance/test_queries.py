"""Filters, orders and pages against an evaluation in Python, over random queries."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolite.documents.fields import Field
from monolite.documents.filters import Condition, FilterParser, Group, Target, kind_of
from monolite.documents.query import Order, parse_order
from tests.server_process import ServerProcess, Tenant

C = "/v1/collections/things"
MISSING = object()
FIELDS = (
    Field("whole", "$.a", "integer", True),
    Field("word", "$.b", "string", True),
    Field("real", "$.c.x", "number", False),
    Field("flag", "$.d", "boolean", True),
)
SCALARS: list[Any] = [
    *(-2, 0, 1, 2, 10, 2**53 - 1, 1.5, 2.0, -0.25),
    *("", "a", "ab", "A", "é", "10", "a*b", "a%b", "a_b", "[a]", "it's", 'a"b', "x" * 600),
    *(True, False, None),
]
PLACES = ("a", "b", "c", "c.x", "d", "e", "e[0]", "e[1].k", '"a key"', "never")
NAMES = ("whole", "word", "real", "flag", "id", "revision", *PLACES)


@dataclass
class Stored:
    """A document, with its place in the order of making."""

    id: str
    data: Any
    at: int


def documents(count: int) -> list[dict[str, Any]]:
    """Documents in which each place holds anything, or nothing."""
    choose = random.Random(4)

    def value(depth: int) -> Any:
        if depth == 0 or choose.random() < 0.7:
            return choose.choice(SCALARS)
        if choose.random() < 0.5:
            return [value(depth - 1) for _ in range(choose.randrange(3))]
        return {key: value(depth - 1) for key in ("k", "x", "y") if choose.random() < 0.6}

    made = []
    for _ in range(count):
        keys = [key for key in ("a", "b", "d", "e", "a key") if choose.random() < 0.8]
        document = {key: value(2) for key in keys}
        if choose.random() < 0.8:
            document["c"] = {"x": choose.choice(SCALARS), "y": choose.choice(SCALARS)}
        made.append(document)
    return made


class Collection:
    """What is stored, and who asks for it."""

    def __init__(self, client: httpx.Client, stored: list[Stored]) -> None:
        self.client = client
        self.stored = stored


@pytest.fixture(scope="module")
def things(server: ServerProcess) -> Iterator[Collection]:
    with Tenant(server) as tenant:
        client = tenant.client
        fields = {f.name: {"path": f.path, "type": f.kind, "index": f.index} for f in FIELDS}
        client.put(C, json={"fields": fields}).raise_for_status()
        for wish in (["word", "whole"], ["flag", "real"]):
            client.post(f"{C}/indexes", json={"fields": wish}).raise_for_status()
        stored = []
        for at, data in enumerate(documents(160)):
            made = client.put(f"{C}/documents/d{at * 7919 % 1000:03}", json=data).json()
            stored.append(Stored(made["id"], data, at))
        while any(i["state"] != "ready" for i in client.get(f"{C}/indexes").json()["data"]):
            pass
        yield Collection(client, stored)


# ── The evaluation ─────────────────────────────────────────────────────────────────────────────


def at_place(data: Any, steps: tuple[str | int, ...]) -> Any:
    for step in steps:
        fits = isinstance(data, dict) if isinstance(step, str) else isinstance(data, list)
        if not fits:
            return MISSING
        try:
            data = data[step]
        except (KeyError, IndexError):
            return MISSING
    return data


def of_kind(kind: str, value: Any) -> Any:
    """The value where it is of the kind, else None."""
    if value is MISSING or value is None:
        return None
    if kind == "boolean" or isinstance(value, bool):
        return value if kind == "boolean" and isinstance(value, bool) else None
    if kind == "string":
        return value if isinstance(value, str) else None
    if not isinstance(value, int | float):
        return None
    if kind == "integer":
        return int(value) if value == int(value) else None
    return value


def column(document: Stored, target: Target) -> Any:
    if target.built_in is not None:
        return {"id": document.id, "revision": 1}[target.built_in]
    assert target.field is not None
    value = of_kind(target.field.kind, at_place(document.data, target.field.steps))
    return None if isinstance(value, str) and len(value.encode()) > 512 else value


def contains(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(
            key in value and contains(value[key], inner) for key, inner in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(value, list) and all(
            any(contains(element, inner) for element in value) for inner in wanted
        )
    return type(value) in _ALIKE[type(wanted)] and bool(value == wanted)


_ALIKE: dict[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int, float),
    float: (int, float),
    str: (str,),
    type(None): (type(None),),
}
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "neq": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "gte": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "lte": lambda a, b: a <= b,
}


def like(value: str, pattern: str) -> bool:
    first, *rest = pattern.split("*")
    if not rest:
        return value == pattern
    if not value.startswith(first):
        return False
    at = len(first)
    for part in rest[:-1]:
        found = value.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(value) - at >= len(rest[-1]) and value.endswith(rest[-1])


def all_of(parts: list[bool | None]) -> bool | None:
    return False if False in parts else None if None in parts else True


def any_of(parts: list[bool | None]) -> bool | None:
    return True if True in parts else None if None in parts else False


def passes(document: Stored, member: Condition | Group) -> bool | None:
    """SQL's three values."""
    if isinstance(member, Group):
        parts = [passes(document, inner) for inner in member.members]
        result = (all_of if member.joint == "and" else any_of)(parts)
    else:
        result = compared(document, member)
    return result if result is None or not member.negated else not result


def compared(document: Stored, condition: Condition) -> bool | None:
    target, operator, operand = condition.target, condition.operator, condition.value
    if target.column is not None:
        value = column(document, target)
        if operator == "is":
            return value is operand
        if value is None:
            return None
        if operator == "in":
            return value in operand
        return like(value, operand) if operator == "like" else COMPARE[operator](value, operand)
    raw = at_place(document.data, target.steps)
    if operator == "is":
        return raw is operand or (operand is None and raw is MISSING)
    if operator == "cs":
        return None if raw is MISSING else contains(raw, operand)
    if operator == "in":
        return any_of(
            [None if (v := of_kind(kind_of(o), raw)) is None else v == o for o in operand]
        )
    value = of_kind("string" if operator == "like" else kind_of(operand), raw)
    if operator == "neq":
        exists = None if raw is MISSING else raw is not None
        return all_of([exists, value is None or value != operand])
    if value is None:
        return None
    return like(value, operand) if operator == "like" else COMPARE[operator](value, operand)


def sort_key(document: Stored, target: Target) -> tuple[int, Any]:
    if target.column is not None:
        value = column(document, target)
        return (1, 0) if value is None else (0, value)
    raw = at_place(document.data, target.steps)
    for rank, kind in enumerate(("number", "string")):
        value = of_kind(kind, raw)
        if value is not None:
            return rank, value
    return 2, 0


def in_order(found: list[Stored], orders: tuple[Order, ...]) -> list[str]:
    def compare(a: Stored, b: Stored) -> int:
        for order in orders:
            one, two = sort_key(a, order.target), sort_key(b, order.target)
            if one != two:
                return (1 if one > two else -1) * (-1 if order.descending else 1)
        newest_first = bool(orders) and orders[-1].descending
        return (a.at - b.at) * (-1 if newest_first else 1)

    return [document.id for document in sorted(found, key=cmp_to_key(compare))]


# ── Random queries ─────────────────────────────────────────────────────────────────────────────

TEXTS = [
    *("-2", "0", "1", "2", "10", "1.5", "2.0", "-0.25", "9007199254740991", "true", "false"),
    *('""', "a", "ab", "A", "é", '"10"', "a*b", "a%b", "a_b", "[a]", "it's", "d1*", "*", "*b"),
]


@st.composite
def condition_texts(draw: st.DrawFn) -> str:
    """An operator with an operand; some don't fit their field, and are refused."""
    negation = draw(st.sampled_from(("", "", "not.")))
    operator = draw(
        st.sampled_from(("eq", "neq", "gt", "gte", "lt", "lte", "in", "like", "is", "cs"))
    )
    text = draw(st.sampled_from(TEXTS))
    if operator == "in":
        text = (
            "("
            + ",".join(draw(st.lists(st.sampled_from(TEXTS[:14]), min_size=1, max_size=3)))
            + ")"
        )
    elif operator == "is":
        text = draw(st.sampled_from(("null", "true", "false")))
    elif operator == "cs":
        text = draw(
            st.sampled_from(
                (
                    "{a}",
                    "{2,ab}",
                    '["a",1]',
                    '{"k":1}',
                    '{"x":"a"}',
                    '{"x":2}',
                    "[[]]",
                    "{}",
                    '[{"k":2}]',
                    "[null]",
                )
            )
        )
    return f"{negation}{operator}.{text}"


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, str]:
    if draw(st.integers(0, 3)):
        return draw(st.sampled_from(NAMES)), draw(condition_texts())
    joint = draw(st.sampled_from(("or", "and", "not.or", "not.and")))
    members = draw(
        st.lists(st.tuples(st.sampled_from(NAMES[:8]), condition_texts()), min_size=1, max_size=3)
    )
    return joint, "(" + ",".join(f"{name}.{text}" for name, text in members) + ")"


orders = st.lists(
    st.tuples(st.sampled_from((*NAMES, "created_at")), st.sampled_from(("", ".asc", ".desc"))),
    max_size=2,
).map(lambda keys: ",".join(name + direction for name, direction in keys if name != "created_at"))


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(query=st.lists(pairs(), max_size=3), order=orders, limit=st.sampled_from((1, 7, 40, 500)))
def test_lists_counts_and_pages_are_what_python_computes(
    things: Collection, query: list[tuple[str, str]], order: str, limit: int
) -> None:
    params: list[tuple[str, Any]] = [*query, ("limit", limit), ("count", "exact")]
    if order:
        params.append(("order", order))
    first = things.client.get(f"{C}/documents", params=params)
    if first.status_code == 422:
        assert first.json()["errors"][0]["pointer"].startswith("?")
        return
    assert first.status_code == 200, first.text
    parser = FilterParser(FIELDS)
    where = parser.parse(query)
    matching = [document for document in things.stored if passes(document, where)]
    expected = in_order(matching, parse_order(order or None, parser))
    assert first.json()["total"] == len(expected)
    got = [document["id"] for document in first.json()["data"]]
    cursor = first.json()["next_cursor"]
    while cursor is not None and len(got) <= 60 + limit:
        page = things.client.get(f"{C}/documents", params=[*params, ("cursor", cursor)]).json()
        got += [document["id"] for document in page["data"]]
        cursor = page["next_cursor"]
    assert got == expected[: len(got)]
    assert cursor is not None or len(got) == len(expected)


SQL = st.sampled_from(
    (
        "'; DROP TABLE documents; --",
        '"; DROP TABLE documents; --',
        "' OR '1'='1",
        "1); DELETE FROM documents",
        "$1",
        "?1",
        ":a",
        "x'00'",
        "\\",
        "%",
        "*",
        "''",
        "a' || (SELECT id FROM keys) || '",
        "{",
        "(",
        "\u2028",
        "{0}",
        "%s",
        "%(a)s",
        "NULL",
        "a]b",
        "$.a'b",
        '$."a\'b"',
        "data->>'x'",
        "id) UNION SELECT 1 --",
    )
) | st.text(max_size=20)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=SQL, other=SQL)
def test_sql_in_any_string_is_data_or_refused(things: Collection, text: str, other: str) -> None:
    client, documents_path = things.client, f"{C}/documents"
    odd = {"path": text, "type": "string", "index": True}
    named = {"path": "$.a", "type": "string", "index": False}
    answers = [
        client.get(documents_path, params={text: f"eq.{other}"}),
        client.get(documents_path, params={"word": f"eq.{text}"}),
        client.get(documents_path, params={"word": f"like.{text}", "b": f"like.{other}*"}),
        client.get(documents_path, params={"word": f"in.({text},{other})"}),
        client.get(documents_path, params={"e": f"cs.{text}", "or": f"(a.eq.{other},{text})"}),
        client.get(documents_path, params={f'"{text}"': "eq.1", "order": other}),
        client.get(documents_path, params={"order": text, "select": other}),
        client.get(documents_path, params={"cursor": text, "limit": other}),
        client.get(f"{C}/explain", params={"b": f"eq.{text}", "order": f'"{other}"'}),
        client.get(f"{C}/changes", params={"since": text + "x"}),
        client.put("/v1/collections/other", json={"fields": {"f": odd}}),
        client.put("/v1/collections/other", json={"fields": {text[:60]: named}}),
        client.put("/v1/collections/other", json={"schema": {"pattern": text, "const": other}}),
        client.post(f"{C}/indexes", json={"fields": [text], "name": other}),
    ]
    client.delete("/v1/collections/other")
    for answer in answers:
        assert answer.status_code < 500, (answer.request.url, answer.request.content, answer.text)
    total = client.get(documents_path, params={"count": "exact", "limit": 1}).json()["total"]
    assert total == len(things.stored)
