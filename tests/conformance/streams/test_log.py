"""Appending and reading: Redis's ids, ranges, trims."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.conformance.streams.conftest import StreamClient
from tests.server_process import Tenant


def parts(id: str) -> tuple[int, int]:
    ms, _, n = id.partition("-")
    return int(ms), int(n)


def walk(stream: StreamClient, **query: Any) -> list[dict[str, Any]]:
    """Every page of a stream's events."""
    found: list[dict[str, Any]] = []
    after: dict[str, Any] = {}
    while True:
        page = stream.events(**query, **after)
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        after = {"after": page["next_cursor"]}


def test_a_stream_exists_from_its_first_event(stream: StreamClient) -> None:
    assert stream.client.get(f"{stream.url}/events").status_code == 404
    answer = stream.client.post(
        f"{stream.url}/events", json={"type": "order.created", "data": {"a": 1}}
    )
    assert answer.status_code == 201
    (id,) = answer.json()["ids"]
    assert stream.events() == {
        "data": [{"id": id, "type": "order.created", "data": {"a": 1}}],
        "next_cursor": None,
    }


def test_ids_are_redis_and_only_grow(stream: StreamClient) -> None:
    ids = [id for _ in range(5) for id in stream.append(*range(30))]
    assert all(one < two for one, two in pairwise(map(parts, ids)))
    assert parts(ids[0])[1] == 0
    assert [event["id"] for event in walk(stream, count=7)] == ids
    assert [event["data"] for event in walk(stream, count=1000)] == [*range(30)] * 5


def test_data_is_kept_as_it_came(stream: StreamClient) -> None:
    body = b'{"data": {"n": 1.00000000000000000000000001, "big": 123456789012345678901234567890,'
    body += ' "é": "ü\\n\\u0041", "twice": 1, "twice": 2}}'.encode()
    answer = stream.client.post(
        f"{stream.url}/events", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 201
    shown = stream.client.get(f"{stream.url}/events").content
    assert body.removeprefix(b'{"data": ').removesuffix(b"}") in shown


def test_line_breaks_between_tokens_are_taken_out(stream: StreamClient) -> None:
    content = b'{"data": {\n  "a": "b\\nc",\r\n  "d": [1,\n 2.50]\n}}'
    stream.client.post(
        f"{stream.url}/events", content=content, headers={"content-type": "application/json"}
    )
    assert b'"data":{"a":"b\\nc","d":[1,2.50]}' in stream.client.get(f"{stream.url}/events").content


def test_any_json_is_data(stream: StreamClient) -> None:
    values = [None, True, 0, -1.5, "", "text", [], [1, [2]], {}, {"a": {"b": None}}]
    stream.append(*values)
    assert [event["data"] for event in stream.events()["data"]] == values


def test_lines_are_events(stream: StreamClient) -> None:
    content = b'{"data":1}\n\n{"type":"t","data":{"x":2}}\r\n{"data":3}'
    answer = stream.client.post(
        f"{stream.url}/events", content=content, headers={"content-type": "application/x-ndjson"}
    )
    assert answer.status_code == 201
    assert len(answer.json()["ids"]) == 3
    assert [event["data"] for event in stream.events()["data"]] == [1, {"x": 2}, 3]


def test_of_bad_lines_none_is_appended_and_the_first_is_named(stream: StreamClient) -> None:
    headers = {"content-type": "application/x-ndjson"}
    content = b'{"data":1}\n{"dat":2}\n'
    answer = stream.client.post(f"{stream.url}/events", content=content, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("#/1")
    content = b'{"data":1}\n{"data":\n'
    answer = stream.client.post(f"{stream.url}/events", content=content, headers=headers)
    assert answer.status_code == 400
    assert "Line 1" in answer.json()["detail"]
    assert stream.client.get(f"{stream.url}/events").status_code == 404


def test_a_caller_chooses_ids_that_grow(stream: StreamClient) -> None:
    def append(id: str) -> httpx.Response:
        return stream.client.post(f"{stream.url}/events", json={"id": id, "data": id})

    for id, given in [("5", "5-0"), ("5-3", "5-3"), ("5-*", "5-4"), ("7-*", "7-0"), ("9-1", "9-1")]:
        assert append(id).json() == {"ids": [given]}
    for id in ("9-1", "9-0", "8-5", "8-*", "1"):
        refused = append(id)
        assert (refused.status_code, refused.json()["code"]) == (409, "id_not_increasing")
        assert "9-1" in refused.json()["detail"]
    assert [event["id"] for event in stream.events()["data"]] == ["5-0", "5-3", "5-4", "7-0", "9-1"]
    # The clock goes on from there.
    (id,) = stream.append("now")
    assert parts(id) > (1_700_000_000_000, 0)


def test_an_id_beyond_the_clock_is_gone_on_from(stream: StreamClient) -> None:
    far = 4_000_000_000_000
    stream.client.post(f"{stream.url}/events", json={"id": f"{far}-5", "data": 0})
    assert stream.append(1, 2) == [f"{far}-6", f"{far}-7"]


def test_one_bad_id_of_many_appends_nothing(stream: StreamClient) -> None:
    events = [{"data": 1}, {"data": 2, "id": "5-1"}]
    answer = stream.client.post(f"{stream.url}/events", json=events)
    assert (answer.status_code, answer.json()["code"]) == (409, "id_not_increasing")
    assert stream.client.get(f"{stream.url}/events").status_code == 404
    stream.append(0)
    assert stream.client.post(f"{stream.url}/events", json=events).status_code == 409
    assert [event["data"] for event in stream.events()["data"]] == [0]


@pytest.mark.parametrize(
    "bad", ["x", "-1", "5-", "5-x", "0-0", "0", "1.5", "9" * 30, "05-1", "5-01"]
)
def test_what_is_no_id_is_422(stream: StreamClient, bad: str) -> None:
    answer = stream.client.post(f"{stream.url}/events", json={"id": bad, "data": 1})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/id"


def test_ranges_by_id_both_ways(stream: StreamClient) -> None:
    for ms in range(1, 11):
        stream.client.post(f"{stream.url}/events", json={"id": f"{ms}-1", "data": ms})

    def data(**query: Any) -> list[int]:
        return [event["data"] for event in walk(stream, **query)]

    assert data(after="3") == [3, 4, 5, 6, 7, 8, 9, 10]
    assert data(after="3-1") == [4, 5, 6, 7, 8, 9, 10]
    assert data(after="3-1", until="6-1") == [4, 5, 6]
    assert data(after="3-1", until="6") == [4, 5, 6], "all of that millisecond"
    assert data(after="3-1", until="6-0") == [4, 5]
    assert data(after="10-1") == []
    assert data(order="desc", count=3) == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert data(order="desc", after="8-1", until="5-1") == [7, 6, 5]
    assert data(order="desc", after="8") == [7, 6, 5, 4, 3, 2, 1]
    assert stream.events(count=3)["next_cursor"] == "3-1"
    assert stream.events(limit=3, cursor="3-1")["data"][0]["data"] == 4


def test_pages_of_large_events_hold_fewer_and_lose_none(stream: StreamClient) -> None:
    for n in range(12):
        stream.append({"n": n, "pad": "x" * 900_000})
    pages = []
    cursor: dict[str, Any] = {}
    while True:
        page = stream.events(count=100, **cursor)
        pages.append([event["data"]["n"] for event in page["data"]])
        if page["next_cursor"] is None:
            break
        cursor = {"after": page["next_cursor"]}
    assert len(pages) > 1
    assert [n for page in pages for n in page] == list(range(12))
    assert [e["data"]["n"] for e in walk(stream, order="desc")] == list(reversed(range(12)))


def test_appends_at_once_are_each_whole_and_in_order(stream: StreamClient, tenant: Tenant) -> None:
    ids: dict[int, list[str]] = {}

    def produce(number: int) -> None:
        with tenant.server.client(tenant.key) as client:
            mine = StreamClient(client, stream.name)
            ids[number] = [
                id for n in range(20) for id in mine.append([number, n, 0], [number, n, 1])
            ]

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = walk(stream, count=50)
    assert len(found) == 8 * 40
    by_id = {event["id"]: event["data"] for event in found}
    for number, mine in ids.items():
        assert [by_id[id] for id in mine] == [[number, n, i] for n in range(20) for i in (0, 1)]
    order = [event["data"] for event in found]
    for number, n, i in order:
        if i == 0:
            assert order[order.index([number, n, 0]) + 1] == [number, n, 1]


# ── Trimming ───────────────────────────────────────────────────────────────────────────────────


def test_maxlen_keeps_the_newest(stream: StreamClient) -> None:
    stream.append(*range(300))
    stream.append("last", maxlen=100)
    assert [e["data"] for e in walk(stream)] == [*range(201, 300), "last"]
    shown = stream.client.get(stream.url).json()
    assert shown["length"] == 100
    assert shown["first_id"] == walk(stream)[0]["id"]


def test_an_approximate_trim_keeps_at_least_as_many(stream: StreamClient) -> None:
    for n in range(400):
        stream.append(n)
    stream.append("last", maxlen=100, approximate=True)
    kept = [e["data"] for e in walk(stream)]
    assert len(kept) >= 100
    assert kept == [*range(401 - len(kept), 400), "last"]


def test_minid_drops_what_lies_below(stream: StreamClient) -> None:
    ids = stream.append(*range(10))
    answer = stream.client.post(f"{stream.url}/trim", json={"minid": ids[4]})
    assert answer.json() == {"trimmed": 4}
    assert [e["data"] for e in walk(stream)] == [4, 5, 6, 7, 8, 9]
    stream.append(10, minid=ids[8])
    assert [e["data"] for e in walk(stream)] == [8, 9, 10]


def test_a_trim_by_age_drops_the_old(stream: StreamClient) -> None:
    for ms in (1000, 2000):
        stream.client.post(f"{stream.url}/events", json={"id": str(ms), "data": ms})
    stream.append("young")
    answer = stream.client.post(f"{stream.url}/trim", json={"max_age_ms": 3_600_000})
    assert answer.json() == {"trimmed": 2}
    assert [e["data"] for e in walk(stream)] == ["young"]


def test_a_stream_trimmed_empty_goes_on_behind_its_last_id(stream: StreamClient) -> None:
    last = stream.append(1, 2, 3)[-1]
    assert stream.client.post(f"{stream.url}/trim", json={"maxlen": 0}).json() == {"trimmed": 3}
    shown = stream.client.get(stream.url).json()
    assert (shown["length"], shown["first_id"], shown["last_id"]) == (0, None, last)
    refused = stream.client.post(f"{stream.url}/events", json={"id": last, "data": 0})
    assert refused.status_code == 409
    (id,) = stream.append(4)
    assert parts(id) > parts(last)


def test_retention_is_applied_by_itself(stream: StreamClient) -> None:
    from tests.eventually import eventually

    answer = stream.client.put(stream.url, json={"max_length": 5})
    assert answer.status_code == 201
    assert answer.json()["retention"] == {"max_length": 5, "max_age_ms": None}
    stream.append(*range(20))
    eventually(lambda: stream.client.get(stream.url).json()["length"] == 5, "the retention")
    assert [e["data"] for e in walk(stream)] == [15, 16, 17, 18, 19]
    assert stream.client.put(stream.url, json={"max_age_ms": 1}).status_code == 200
    eventually(lambda: stream.client.get(stream.url).json()["length"] == 0, "the retention by age")


def test_streams_are_listed_by_name(tenant: Tenant) -> None:
    with Tenant(tenant.server) as own:
        for name in ("b", "a", "c"):
            StreamClient(own.client, name).append(1)
        page = own.client.get("/v1/streams", params={"limit": 2}).json()
        assert [stream["name"] for stream in page["data"]] == ["a", "b"]
        cursor = {"limit": 2, "cursor": page["next_cursor"]}
        rest = own.client.get("/v1/streams", params=cursor).json()
        assert [stream["name"] for stream in rest["data"]] == ["c"]
        assert rest["next_cursor"] is None


def test_a_deleted_stream_is_gone_whole(stream: StreamClient) -> None:
    old = stream.append(*range(5))
    stream.group("g")
    assert stream.client.delete(stream.url).status_code == 204
    assert stream.client.delete(stream.url).status_code == 404
    assert stream.client.get(f"{stream.url}/events").status_code == 404
    assert stream.client.get(f"{stream.url}/groups/g").status_code == 404
    (id,) = stream.append("new")
    assert [event["id"] for event in walk(stream)] == [id]
    assert id not in old


def test_an_append_is_repeated_by_its_key_and_done_once(stream: StreamClient) -> None:
    headers = {"idempotency-key": f"key-{stream.name}"}
    event = {"type": "t", "data": {"n": 1}}
    first = stream.client.post(f"{stream.url}/events", json=event, headers=headers)
    again = stream.client.post(f"{stream.url}/events", json=event, headers=headers)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert len(walk(stream)) == 1
    other = stream.client.post(f"{stream.url}/events", json={"data": 2}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_another_tenants_stream_is_not_there(stream: StreamClient, tenant: Tenant) -> None:
    stream.append(1)
    with Tenant(tenant.server) as other:
        assert other.client.get(f"{stream.url}/events").status_code == 404
        StreamClient(other.client, stream.name).append("other's")
    assert [e["data"] for e in walk(stream)] == [1]


# ── Bad input ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"data": tru}', 400),
        (b'{"data": "\xff"}', 400),
        (b'{"data": "\\ud800"}', 400),
        (b"[]", 422),
        (b"5", 422),
        (b"{}", 422),
        (b'{"data": 1, "more": 2}', 422),
        (b'{"type": "", "data": 1}', 422),
        (b'{"type": "a b", "data": 1}', 422),
        (b'{"type": "a\\tb", "data": 1}', 422),
        (b'{"type": "' + b"t" * 129 + b'", "data": 1}', 422),
        (b"[" * 100_000 + b"]" * 100_000, 400),
        (b'{"data": "' + b"x" * (10 << 20) + b'"}', 413),
        (b'{"data": "' + b"x" * (2 << 20) + b'"}', 413),
        (b"[" + b",".join([b'{"data":1}'] * 10_001) + b"]", 422),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_append_is_refused_and_leaves_nothing(
    stream: StreamClient, body: bytes, status: int
) -> None:
    answer = stream.client.post(
        f"{stream.url}/events", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["code"]
    assert stream.client.get(f"{stream.url}/events").status_code == 404


def test_names_with_a_colon_are_the_servers(stream: StreamClient) -> None:
    answer = stream.client.post(f"{stream.url}:dlq/events", json={"data": 1})
    assert answer.status_code == 422
    assert stream.client.get(f"{stream.url}:other/events").status_code == 422
    assert stream.client.get(f"{stream.url}:dlq/events").status_code == 404


@pytest.mark.parametrize(
    "query",
    ["count=1000000", "count=0", "after=x", "until=x", "order=up", "live=ws", "nothing=1"],
)
def test_a_bad_query_is_422(stream: StreamClient, query: str) -> None:
    stream.append(1)
    assert stream.client.get(f"{stream.url}/events?{query}").status_code == 422


@pytest.mark.parametrize("wish", [{}, {"maxlen": -1}, {"minid": "x"}, {"maxlen": "5"}, {"max": 1}])
def test_a_bad_trim_is_422(stream: StreamClient, wish: dict[str, Any]) -> None:
    stream.append(1)
    assert stream.client.post(f"{stream.url}/trim", json=wish).status_code == 422
    assert len(walk(stream)) == 1
