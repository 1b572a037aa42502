"""Rankings and filters of search against an evaluation in Python, over random documents."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server_process import ServerProcess, Tenant

INDEX = "/v1/indexes/things"
WORDS = ("red", "green", "blue", "été", "naïve", "x_1", "日", "a", "the", "zebra")
SCALARS: list[Any] = [
    *(-2, 0, 1, 2, 1.5, 2.0, 10, 2**53, 2**53 + 1, -0.25),
    *("", "a", "ab", "B", "é", "10", "\U0001f600", "\uffee", "a.b", "it's", 'a"b'),
    *(True, False, None),
]
PLACES = ("a", "b", "c.x", "c.y", "never")
ORDER = {"gt": gt, "gte": ge, "lt": lt, "lte": le}
WIDTH = 12


@dataclass
class Things:
    client: httpx.Client
    stored: list[dict[str, Any]]

    def search(self, **body: Any) -> httpx.Response:
        return self.client.post(f"{INDEX}/search", json=body)


def documents(count: int) -> list[dict[str, Any]]:
    choose = random.Random(11)
    vectors = np.random.default_rng(5).normal(size=(count, WIDTH)).round(4)

    def value() -> Any:
        kind = choose.random()
        if kind < 0.7:
            return choose.choice(SCALARS)
        if kind < 0.9:
            return [choose.choice([*SCALARS, {"k": 1}, [1]]) for _ in range(choose.randrange(4))]
        return {"k": choose.choice(SCALARS)}

    made = []
    for number in range(count):
        metadata: dict[str, Any] = {key: value() for key in "ab" if choose.random() < 0.8}
        if choose.random() < 0.7:
            metadata["c"] = choose.choice([{"x": value(), "y": value()}, {"x": value()}, [1], 3])
        text = " ".join(choose.choices(WORDS, range(len(WORDS), 0, -1), k=choose.randrange(30)))
        made.append(
            {
                "id": f"d{number}",
                "text": text,
                "vector": vectors[number].tolist(),
                "metadata": metadata,
            }
        )
    return made


@pytest.fixture(scope="module")
def things(server: ServerProcess) -> Iterator[Things]:
    with Tenant(server) as tenant:
        stored = documents(150)
        for gone in documents(190)[140:]:
            tenant.client.post(f"{INDEX}/documents", json=gone | {"text": "red zebra zebra"})
        assert tenant.client.post(f"{INDEX}/documents", json=stored).status_code == 200
        for number in range(150, 190):
            assert tenant.client.delete(f"{INDEX}/documents/d{number}").status_code == 204
        yield Things(tenant.client, stored)


# ── What is right ──────────────────────────────────────────────────────────────────────────────


def same(one: Any, other: Any) -> bool:
    """As in JSON, where true is not 1."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def element_passes(element: Any, operator: str, wanted: Any) -> bool:
    if isinstance(element, (dict, list)):
        return False
    if operator == "eq":
        return same(element, wanted)
    if operator == "neq":
        return not same(element, wanted)
    if operator == "in":
        return any(same(element, one) for one in wanted)
    is_text = isinstance(wanted, str)
    if isinstance(element, bool) or element is None or isinstance(element, str) != is_text:
        return False
    return bool(ORDER[operator](element, wanted))


def passes(metadata: dict[str, Any], filter: dict[str, dict[str, Any]]) -> bool:
    for name, operators in filter.items():
        value: Any = metadata
        for step in name.split("."):
            if not isinstance(value, dict) or step not in value:
                return False
            value = value[step]
        elements = value if isinstance(value, list) else [value]
        for operator, wanted in operators.items():
            if not any(element_passes(one, operator, wanted) for one in elements):
                return False
    return True


def words_of(text: str) -> list[str]:
    return [word.replace("é", "e").replace("ï", "i") for word in text.lower().split()]


def bm25(stored: list[dict[str, Any]], query: list[str]) -> dict[str, float]:
    """FTS5's formula, over all that is stored."""
    texts = {one["id"]: words_of(one["text"]) for one in stored}
    lengths = [len(words) for words in texts.values() if words]
    mean = sum(lengths) / len(lengths)
    scores: dict[str, float] = {}
    for word in dict.fromkeys(query):
        having = sum(word in words for words in texts.values())
        weight = math.log((len(lengths) - having + 0.5) / (having + 0.5))
        for name, words in texts.items():
            count = Counter(words)[word]
            if count:
                norm = 1.2 * (0.25 + 0.75 * len(words) / mean)
                gain = max(weight, 1e-6) * count * 2.2 / (count + norm)
                scores[name] = scores.get(name, 0.0) + gain
    return scores


def cosines(stored: list[dict[str, Any]], query: list[float]) -> dict[str, float]:
    wanted = np.array(query) / np.linalg.norm(query)
    return {
        one["id"]: float(np.array(one["vector"]) @ wanted / np.linalg.norm(one["vector"]))
        for one in stored
    }


def assert_ranked(hits: list[dict[str, Any]], right: dict[str, float], k: int) -> None:
    """The k best, in an order that equal scores alone may change."""
    assert len(hits) == min(k, len(right))
    best = sorted(right.values(), reverse=True)[: len(hits)]
    assert [hit["score"] for hit in hits] == pytest.approx(best, abs=2e-6)
    for hit in hits:
        assert hit["score"] == pytest.approx(right[hit["id"]], abs=2e-6)


scalars = st.sampled_from(SCALARS)
comparable = st.sampled_from([one for one in SCALARS if one is not None and type(one) is not bool])
conditions = st.one_of(
    st.dictionaries(st.sampled_from(("eq", "neq")), scalars, min_size=1),
    st.dictionaries(st.just("in"), st.lists(scalars, min_size=1, max_size=4), min_size=1),
    st.dictionaries(st.sampled_from(tuple(ORDER)), comparable, min_size=1, max_size=2),
)
filters = st.dictionaries(st.sampled_from(PLACES[:-1]), conditions, min_size=1, max_size=2)
each_time = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@each_time
@given(filter=filters, k=st.sampled_from((1, 5, 200)), exact=st.booleans())
def test_filter_passes_what_it_says(
    things: Things, filter: dict[str, dict[str, Any]], k: int, exact: bool
) -> None:
    query = [1.0] * WIDTH
    answer = things.search(vector=query, k=k, filter=filter, exact=exact)
    assert answer.status_code == 200, answer.text
    passing = [one for one in things.stored if passes(one["metadata"], filter)]
    assert_ranked(answer.json()["hits"], cosines(passing, query), k)


@each_time
@given(
    query=st.lists(st.sampled_from(WORDS), min_size=1, max_size=4),
    filter=st.none() | filters,
    k=st.sampled_from((3, 200)),
)
def test_words_are_scored_over_the_index(
    things: Things, query: list[str], filter: dict[str, dict[str, Any]] | None, k: int
) -> None:
    answer = things.search(query=" ".join(query), mode="keyword", k=k, filter=filter)
    assert answer.status_code == 200, answer.text
    right = bm25(things.stored, words_of(" ".join(query)))
    by_id = {one["id"]: one for one in things.stored}
    if filter is not None:
        right = {id: score for id, score in right.items() if passes(by_id[id]["metadata"], filter)}
    assert_ranked(answer.json()["hits"], right, k)


@each_time
@given(query=st.lists(st.sampled_from(WORDS), min_size=1, max_size=3), seed=st.integers(0, 1000))
def test_hybrid_is_the_sum_of_reciprocal_ranks(things: Things, query: list[str], seed: int) -> None:
    vector = np.random.default_rng(seed).normal(size=WIDTH).tolist()
    text = " ".join(query)
    near = things.search(vector=vector, k=50).json()["hits"]
    worded = things.search(query=text, mode="keyword", k=50).json()["hits"]
    hits = things.search(query=text, vector=vector, mode="hybrid", k=10).json()["hits"]
    right: dict[str, float] = {}
    for ranking in (near, worded):
        for rank, hit in enumerate(ranking, 1):
            right[hit["id"]] = right.get(hit["id"], 0.0) + 1 / (60 + rank)
    assert_ranked(hits, right, 10)


def test_field_that_no_document_has_is_refused(things: Things) -> None:
    answer = things.search(vector=[1.0] * WIDTH, filter={"never": 1})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_field")
    assert answer.json()["errors"][0]["pointer"] == "#/filter/never"
