"""Filters in PostgREST's operators: what they find, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server_process import Tenant

C = "/v1/collections/orders"
FIELDS = {
    "tier": {"path": "$.config.tier", "type": "integer", "index": True},
    "region": {"path": "config.region", "type": "text", "index": True},
    "weight": {"path": "$.weight", "type": "number"},
    "paid": {"path": "$.paid", "type": "boolean", "index": True},
}
ORDERS: list[dict[str, Any]] = [
    {"n": 0, "config": {"tier": 1, "region": "us-east"}, "weight": 1.5, "paid": True},
    {"n": 1, "config": {"tier": 3, "region": "us-east"}, "weight": 3, "tags": ["a", "b"]},
    {"n": 2, "config": {"tier": 4, "region": "eu-west"}, "paid": False, "tags": ["b"]},
    {"n": 3, "config": {"tier": "4", "region": "us-east"}, "note": "a,b (c)"},
    {"n": 4, "config": {"tier": 5, "region": "us-east*"}, "note": None, "o": {"k": [1, {"x": 2}]}},
    {"n": 5},
]


@pytest.fixture
def orders(tenant: Tenant) -> Tenant:
    for order in ORDERS:
        assert tenant.client.post(f"{C}/documents", json=order).status_code == 201
    assert tenant.client.put(C, json={"fields": FIELDS}).status_code == 200
    return tenant


def found(tenant: Tenant, **filters: str) -> list[int]:
    answer = tenant.client.get(f"{C}/documents", params=filters)
    assert answer.status_code == 200, answer.text
    return [document["data"]["n"] for document in answer.json()["data"]]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"tier": "gte.3"}, [1, 2, 4]),
        ({"tier": "gte.3", "region": "eq.us-east"}, [1]),
        ({"tier": "in.(1,4)"}, [0, 2]),
        ({"tier": "neq.3"}, [0, 2, 4]),
        ({"tier": "not.eq.3"}, [0, 2, 4]),
        ({"tier": "is.null"}, [3, 5]),
        ({"tier": "not.is.null"}, [0, 1, 2, 4]),
        ({"region": "like.us-*"}, [0, 1, 3, 4]),
        ({"region": "like.*%"}, [0, 1, 2, 3, 4]),
        ({"region": "like.us?east"}, []),
        ({"region": 'in.("us-east*",eu-west)'}, [2, 4]),
        ({"weight": "gt.1.5"}, [1]),
        ({"weight": "lte.3"}, [0, 1]),
        ({"paid": "is.true"}, [0]),
        ({"paid": "eq.false"}, [2]),
        ({"paid": "is.null"}, [1, 3, 4, 5]),
        ({"n": "gte.4"}, [4, 5]),
        ({"config.tier": "eq.4"}, [2]),
        ({"config.tier": 'eq."4"'}, [3]),
        ({"config.tier": "neq.4"}, [0, 1, 3, 4]),
        ({"$.config.region": "eq.eu-west"}, [2]),
        ({"note": "is.null"}, [0, 1, 2, 4, 5]),
        ({"note": 'eq."a,b (c)"'}, [3]),
        ({"tags": "cs.{b}"}, [1, 2]),
        ({"tags": 'cs.["a","b"]'}, [1]),
        ({"o": 'cs.{"k":[{"x":2}]}'}, [4]),
        ({"tags[0]": "eq.b"}, [2]),
        ({"or": "(tier.eq.1,region.eq.eu-west)"}, [0, 2]),
        ({"or": "(tier.gte.5,and(paid.is.false,tags.cs.{b}))"}, [2, 4]),
        ({"not.or": "(tier.eq.1,tier.gte.4)"}, [1]),
        ({"and": "(tier.gte.1,tier.lt.4)", "region": "eq.us-east"}, [0, 1]),
        ({"revision": "eq.1", "n": "lt.2"}, [0, 1]),
        ({"created_at": "gte.2100-01-01T00:00:00Z"}, []),
        ({"created_at": "gt.2020-01-01T00:00:00+01:00", "n": "eq.5"}, [5]),
        ({"order": "tier.desc"}, [5, 3, 4, 2, 1, 0]),
        ({"order": "tier"}, [0, 1, 2, 4, 3, 5]),
        ({"order": "region,tier.desc", "tier": "gte.1"}, [2, 1, 0, 4]),
        ({"order": "note"}, [3, 0, 1, 2, 4, 5]),
        ({"order": "created_at.desc", "tier": "gte.3"}, [4, 2, 1]),
    ],
)
def test_a_filter_finds(orders: Tenant, filters: dict[str, str], expected: list[int]) -> None:
    assert found(orders, **filters) == expected


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("tier=3", "?tier"),
        ("tier=foo.3", "?tier"),
        ("tier=eq.x", "?tier"),
        ("tier=eq.3.5", "?tier"),
        ("tier=gte.99999999999999999999", "?tier"),
        ("tier=like.3*", "?tier"),
        ("tier=is.true", "?tier"),
        ("tier=is.maybe", "?tier"),
        ("tier=cs.{1}", "?tier"),
        ("tier=in.3", "?tier"),
        ("tier=in.()", "?tier"),
        ("paid=gt.true", "?paid"),
        ("paid=eq.1", "?paid"),
        ("created_at=gt.yesterday", "?created_at"),
        ("created_at=gt.2026-01-01T00:00:00", "?created_at"),
        ("../x=eq.1", "?../x"),
        ("a..b=eq.1", "?a..b"),
        ("a[x]=eq.1", "?a[x]"),
        ("or=tier.eq.1", "?or"),
        ("or=(tier.eq.1", "?or"),
        ("or=()", "?or"),
        ("or=(tier.1)", "?or"),
        ("tags=cs.5", "?tags"),
        ("order=tier.down..", "?order"),
        ("order=a,b,c,d,e", "?order"),
        ("select=a..b", "?select"),
        ("count=all", "?count"),
        ("limit=0", "?limit"),
        ("&".join(f"x{n}=eq.1" for n in range(40)), "?"),
        ("x=eq." + "y" * 3000, "?x"),
    ],
)
def test_a_bad_filter_is_422_and_says_where(orders: Tenant, query: str, pointer: str) -> None:
    for path in (f"{C}/documents", f"{C}/explain"):
        answer = orders.client.get(f"{path}?{query}")
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["pointer"] == pointer


def test_pages_follow_each_other_in_any_order_while_documents_come(orders: Tenant) -> None:
    for order in ("tier.desc,region", "region.desc,weight", "note", "created_at.desc"):
        seen: list[int] = []
        cursor: str | None = None
        while True:
            params = {"order": order, "limit": "2"} | ({"cursor": cursor} if cursor else {})
            page = orders.client.get(f"{C}/documents", params=params).json()
            seen += [document["data"].get("n", -1) for document in page["data"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
            orders.client.post(f"{C}/documents", json={"late": True})
        assert sorted(n for n in seen if n >= 0) == list(range(6)), order


def test_a_cursor_is_of_its_filter(orders: Tenant) -> None:
    assert orders.client.get(f"{C}/documents?cursor=AAAA").status_code == 422
    cursor = orders.client.get(f"{C}/documents?tier=gte.1&limit=1").json()["next_cursor"]
    assert orders.client.get(f"{C}/documents?tier=gte.1&cursor={cursor}").status_code == 200
    assert orders.client.get(f"{C}/documents?tier=gte.2&cursor={cursor}").status_code == 422


def test_an_exact_count_counts_what_the_filter_finds(orders: Tenant) -> None:
    for filters, count in (("", 6), ("&tier=gte.3", 3), ("&tier=gte.3&region=eq.us-east", 1)):
        answer = orders.client.get(f"{C}/documents?limit=1&count=exact{filters}").json()
        assert answer["total"] == count
    assert "total" not in orders.client.get(f"{C}/documents").json()


def test_select_shows_only_its_places(orders: Tenant) -> None:
    answer = orders.client.get(
        f"{C}/documents?n=eq.1&select=tier,tags[0],config.region,none"
    ).json()
    (document,) = answer["data"]
    assert document["data"] == {"tier": 3, "tags": {"0": "a"}, "config": {"region": "us-east"}}
    assert document["revision"] == 1


def test_explain_tells_the_index_and_whether_json_is_parsed(orders: Tenant) -> None:
    def explain(query: str) -> dict[str, Any]:
        answer: dict[str, Any] = orders.client.get(f"{C}/explain?{query}").json()
        return answer

    served = explain("tier=eq.3")
    assert served["plan"]
    if served["engine"] == "sqlite":
        assert served["index"] == "tier"
        assert not served["parses_json_per_row"]
        assert not explain("tier=gte.3&region=eq.us-east")["parses_json_per_row"]
        assert explain("weight=gt.1")["parses_json_per_row"]
    for query in ("config.other=eq.1", "order=note"):
        unserved = explain(query)
        # PostgreSQL may find the collection itself by any index that begins with it.
        assert unserved["index"] is None or unserved["engine"] == "postgresql"
        assert unserved["parses_json_per_row"]
    assert not explain("")["parses_json_per_row"]


def test_an_unknown_collection_is_404(tenant: Tenant) -> None:
    for path in ("", "/documents", "/explain", "/indexes", "/changes"):
        assert tenant.client.get(f"/v1/collections/never{path}").status_code == 404
