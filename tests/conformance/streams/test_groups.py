"""Consumer groups: who gets what, how often, and what a late answer changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.streams.conftest import GroupClient, StreamClient
from tests.eventually import eventually


def data(events: list[dict[str, Any]]) -> list[Any]:
    return [event["data"] for event in events]


def tokens(events: list[dict[str, Any]]) -> list[str]:
    return [event["token"] for event in events]


def read_until(group: GroupClient, least: int, **wish: Any) -> list[dict[str, Any]]:
    """Read again and again until so many events came."""
    found: list[dict[str, Any]] = []

    def enough() -> bool:
        found.extend(group.read(**wish))
        return len(found) >= least

    eventually(enough, f"{least} events to read")
    return found


# ── Reading and acknowledging ──────────────────────────────────────────────────────────────────


def test_each_event_goes_to_one_consumer_of_each_group(stream: StreamClient) -> None:
    one, two = stream.group("one"), stream.group("two")
    ids = stream.append(*range(10))
    ann, bob = one.read("ann", count=6), one.read("bob", count=6)
    assert [event["id"] for event in ann + bob] == ids
    assert data(two.read("ann", count=20)) == list(range(10))
    assert {event["delivery"] for event in ann + bob} == {1}
    assert len(set(tokens(ann + bob))) == 10
    assert one.read("ann") == []


def test_an_acknowledged_event_is_done(stream: StreamClient) -> None:
    stream.append(*range(5))
    group = stream.group(claim_idle_ms=1)
    events = group.read(count=5)
    assert group.post("ack", tokens=tokens(events[:3])) == {"acked": 3, "stale": []}
    again = read_until(group, 2, consumer="bob")
    assert data(again) == [3, 4]
    assert group.post("ack", tokens=tokens(again)) == {"acked": 2, "stale": []}
    shown = group.get()
    assert (shown["pending"], shown["lag"], shown["dead"]) == (0, 0, 0)


def test_an_event_is_acknowledged_by_its_id_whoever_holds_it(stream: StreamClient) -> None:
    ids = stream.append(*range(4))
    group = stream.group()
    group.read("ann", count=2)
    group.read("bob", count=1)
    done = group.post("ack", ids=[*ids, "1-1"])
    assert done["acked"] == 3
    assert sorted(done["stale"]) == sorted([ids[3], "1-1"])
    assert group.get()["pending"] == 0


def test_an_ack_twice_counts_once(stream: StreamClient) -> None:
    stream.append(1)
    group = stream.group()
    (token,) = tokens(group.read())
    assert group.post("ack", tokens=[token, token])["acked"] == 1
    assert group.post("ack", tokens=[token]) == {"acked": 0, "stale": [token]}


def test_a_late_ack_acknowledges_nothing(stream: StreamClient) -> None:
    stream.append("once")
    group = stream.group(claim_idle_ms=50, max_deliveries=10)
    (early,) = group.read("ann")
    (late,) = read_until(group, 1, consumer="bob")
    assert late["delivery"] == early["delivery"] + 1
    assert group.post("ack", tokens=[early["token"]]) == {"acked": 0, "stale": [early["token"]]}
    nacked = group.post("nack", tokens=[early["token"]])
    assert nacked == {"nacked": 0, "dead": 0, "stale": [early["token"]]}
    assert group.get()["pending"] == 1
    assert group.post("ack", tokens=[late["token"]])["acked"] == 1


def test_tokens_of_another_group_and_made_up_ones_are_stale(stream: StreamClient) -> None:
    stream.append(1)
    one, two = stream.group("one"), stream.group("two")
    mine = tokens(one.read())
    theirs = tokens(two.read())
    strange = [
        "x",
        "",
        "1.1",
        "-1.5",
        "9" * 50,
        mine[0] + "0",
        "1.99999999999999999999",
        "²." + "1",
    ]
    done = one.post("ack", tokens=[*theirs, *strange])
    assert done["acked"] == 0
    assert sorted(done["stale"]) == sorted([*theirs, *strange])
    assert one.post("ack", tokens=mine)["acked"] == 1


def test_acknowledge_and_read_in_one_call(stream: StreamClient) -> None:
    stream.append(*range(6))
    group = stream.group()
    events = group.read(count=2)
    seen = data(events)
    while events:
        answer = group.post("read", consumer="ann", count=2, ack=[*tokens(events), "0.0"])
        assert answer["acked"] == len(events)
        assert answer["stale"] == ["0.0"]
        events = answer["events"]
        seen += data(events)
    assert seen == list(range(6))
    assert group.get()["pending"] == 0


# ── Where a group begins ───────────────────────────────────────────────────────────────────────


def test_a_group_begins_where_it_is_told(stream: StreamClient) -> None:
    ids = stream.append(*range(6))
    groups = {
        start: stream.group(f"g{at}", start=start) for at, start in enumerate(["0", "$", ids[2]])
    }
    stream.append(6)
    assert data(groups["0"].read()) == list(range(7))
    assert data(groups["$"].read()) == [6]
    assert data(groups[ids[2]].read()) == [3, 4, 5, 6]


def test_a_group_may_come_before_its_stream(stream: StreamClient) -> None:
    group = stream.group()
    assert group.read() == []
    stream.append(1)
    assert data(group.read()) == [1]


def test_putting_a_group_again_changes_its_settings_and_not_its_place(stream: StreamClient) -> None:
    stream.append(*range(3))
    answer = stream.client.put(f"{stream.url}/groups/g", json={})
    assert answer.status_code == 201
    group = GroupClient(stream, "g")
    group.read(count=2)
    answer = stream.client.put(f"{stream.url}/groups/g", json={"start": "0", "max_pending": 2})
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["max_pending"], shown["lag"], shown["pending"]) == (2, 1, 2)
    assert group.post("read", 429, consumer="ann")["code"] == "backpressure"


def test_a_group_can_be_moved(stream: StreamClient) -> None:
    ids = stream.append(*range(5))
    group = stream.group()
    events = group.read(count=4)
    moved = group.post("move", start=ids[1])
    assert (moved["lag"], moved["pending"]) == (3, 2)
    assert data(group.read()) == [2, 3, 4]
    done = group.post("ack", tokens=tokens(events))
    assert (done["acked"], len(done["stale"])) == (2, 2)
    assert group.post("move", start="$")["lag"] == 0
    assert group.read() == []


def test_a_deleted_group_is_gone_and_may_come_again(stream: StreamClient) -> None:
    stream.append(1)
    group = stream.group()
    old = tokens(group.read())
    assert stream.client.delete(group.url).status_code == 204
    assert stream.client.delete(group.url).status_code == 404
    assert stream.client.get(group.url).status_code == 404
    assert group.post("read", 404, consumer="ann")["code"] == "not_found"
    again = stream.group()
    assert data(again.read()) == [1]
    assert again.post("ack", tokens=old)["acked"] == 0


def test_groups_are_listed_with_their_lag(stream: StreamClient) -> None:
    stream.append(*range(4))
    stream.group("b").read(count=3)
    stream.group("a", start="$")
    listed = stream.client.get(f"{stream.url}/groups").json()["data"]
    assert [(g["name"], g["pending"], g["lag"]) for g in listed] == [("a", 0, 0), ("b", 3, 1)]


# ── Delivering again ───────────────────────────────────────────────────────────────────────────


def test_what_is_given_back_comes_again_after_its_delay(stream: StreamClient) -> None:
    stream.append(*range(3))
    group = stream.group()
    events = group.read(count=3)
    began = time.monotonic()
    group.post("nack", tokens=[events[1]["token"]], delay_ms=400)
    assert group.read("bob") == []
    (again,) = read_until(group, 1, consumer="bob")
    assert time.monotonic() - began >= 0.4
    assert (again["data"], again["delivery"]) == (1, 2)
    group.post("nack", tokens=[again["token"]])
    (third,) = group.read("cid")
    assert (third["data"], third["delivery"]) == (1, 3)
    assert group.post("ack", tokens=[again["token"]])["acked"] == 0


def test_what_a_consumer_holds_too_long_is_anothers(stream: StreamClient) -> None:
    stream.append(*range(10))
    group = stream.group(claim_idle_ms=1000)
    group.read("ann", count=10)
    again = read_until(group, 10, consumer="bob", count=4)
    assert data(again) == list(range(10))
    assert {event["delivery"] for event in again} == {2}


def test_a_claim_takes_what_was_held_so_long_and_no_more(stream: StreamClient) -> None:
    stream.append(*range(5))
    group = stream.group()
    group.read("ann", count=5)
    assert group.post("claim", consumer="bob", min_idle_ms=600_000)["events"] == []
    some = group.post("claim", consumer="bob", min_idle_ms=0, count=2)["events"]
    assert data(some) == [0, 1]
    assert {event["delivery"] for event in some} == {2}
    shown = group.get("/pending")
    assert shown["consumers"] == [{"name": "ann", "pending": 3}, {"name": "bob", "pending": 2}]


@pytest.mark.parametrize("how", ["idle", "nack", "claim"])
def test_after_max_deliveries_an_event_is_a_dead_letter(stream: StreamClient, how: str) -> None:
    ids = stream.append({"n": 1})
    claim_idle_ms = 30 if how == "idle" else 60_000
    group = stream.group(max_deliveries=3, claim_idle_ms=claim_idle_ms)
    deliveries = []
    for delivery in (1, 2, 3):
        if how == "claim" and delivery > 1:
            (event,) = group.post("claim", consumer="bob", min_idle_ms=0)["events"]
        else:
            (event,) = read_until(group, 1)
        deliveries.append(event["delivery"])
        if how == "nack":
            done = group.post("nack", tokens=[event["token"]], reason="it said no")
            assert done["dead"] == (1 if delivery == 3 else 0)
    assert deliveries == [1, 2, 3]
    if how == "claim":
        assert group.post("claim", consumer="bob", min_idle_ms=0)["events"] == []
    eventually(lambda: group.get()["dead"] == 1, "the dead letter")
    assert group.read() == []
    assert group.get()["pending"] == 0
    (letter,) = group.get("/dead")["data"]
    assert (letter["id"], letter["data"], letter["deliveries"]) == (ids[0], {"n": 1}, 3)
    assert letter["reason"] == ("it said no" if how == "nack" else letter["reason"])
    assert letter["consumer"] in ("ann", "bob")


def test_exhausted_events_die_though_nobody_reads(stream: StreamClient) -> None:
    stream.append(*range(3))
    group = stream.group(max_deliveries=1, claim_idle_ms=50)
    group.read(count=3)
    eventually(lambda: group.get()["dead"] == 3, "three dead letters")
    assert data(group.get("/dead")["data"]) == [0, 1, 2]


def test_dead_letters_are_a_stream_with_groups_of_its_own(stream: StreamClient) -> None:
    answer = stream.client.post(
        f"{stream.url}/events", json=[{"type": "paid", "data": n} for n in range(3)]
    )
    ids = answer.json()["ids"]
    group = stream.group(max_deliveries=1)
    group.post("nack", tokens=tokens(group.read()), reason="broken")
    graves = StreamClient(stream.client, f"{stream.name}:dlq")
    shown = graves.events()["data"]
    assert [event["type"] for event in shown] == ["paid"] * 3
    first = shown[0]["data"]
    assert (first["id"], first["data"], first["group"]) == (ids[0], 0, "g")
    assert (first["reason"], first["deliveries"], first["consumer"]) == ("broken", 1, "ann")
    mourners = graves.group("mourners", max_deliveries=1)
    events = mourners.read()
    assert len(events) == 3
    mourners.post("ack", tokens=tokens(events[:2]))
    mourners.post("nack", tokens=tokens(events[2:]))
    assert len(mourners.get("/dead")["data"]) == 1
    assert len(graves.events()["data"]) == 3, "the dead of the dead are in no further stream"


def test_dead_letters_are_delivered_again_as_if_new(stream: StreamClient) -> None:
    stream.append(*range(4))
    group = stream.group(max_deliveries=1)
    dead = group.read()
    group.post("nack", tokens=tokens(dead))
    ids = [letter["id"] for letter in group.get("/dead")["data"]]
    assert group.post("dead/redrive", ids=[ids[1], "1-1"]) == {"redriven": 1, "trimmed": ["1-1"]}
    (again,) = group.read()
    assert (again["data"], again["delivery"]) == (1, 1)
    assert group.post("ack", tokens=[dead[1]["token"]])["acked"] == 0, "its first token is stale"
    assert group.post("ack", tokens=[again["token"]])["acked"] == 1
    assert stream.client.post(f"{group.url}/dead/redrive").json() == {"redriven": 3, "trimmed": []}
    assert sorted(data(group.read())) == [0, 2, 3]
    assert group.get("/dead")["data"] == []


def test_a_dead_letter_outlives_its_event(stream: StreamClient) -> None:
    ids = stream.append("kept")
    group = stream.group(max_deliveries=1)
    group.post("nack", tokens=tokens(group.read()))
    stream.client.post(f"{stream.url}/trim", json={"maxlen": 0})
    (letter,) = group.get("/dead")["data"]
    assert letter["data"] == "kept"
    assert group.post("dead/redrive", ids=ids) == {"redriven": 0, "trimmed": ids}
    assert len(group.get("/dead")["data"]) == 1


def test_dead_letters_come_page_by_page(stream: StreamClient) -> None:
    stream.append(*range(5))
    group = stream.group(max_deliveries=1)
    group.post("nack", tokens=tokens(group.read()))
    found, cursor = [], {}
    while True:
        page = group.get("/dead", limit=2, **cursor)
        found += data(page["data"])
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert found == list(range(5))


# ── Backpressure ───────────────────────────────────────────────────────────────────────────────


def test_a_group_that_holds_enough_gets_no_more(stream: StreamClient) -> None:
    stream.append(*range(10))
    group = stream.group(max_pending=4)
    first = group.read(count=3)
    assert len(first) == 3
    second = group.read("bob", count=3)
    assert len(second) == 1, "up to the bound, not beyond"
    answer = stream.client.post(f"{group.url}/read", json={"consumer": "ann"})
    assert (answer.status_code, answer.json()["code"]) == (429, "backpressure")
    assert int(answer.headers["retry-after"]) >= 1
    group.post("ack", tokens=tokens(second))
    assert len(group.read(count=5)) == 1
    shown = group.post("read", consumer="ann", count=9, ack=tokens(first))
    assert (shown["acked"], data(shown["events"])) == (3, [5, 6, 7])


def test_what_is_due_again_comes_through_backpressure(stream: StreamClient) -> None:
    stream.append(*range(4))
    group = stream.group(max_pending=2)
    events = group.read(count=2)
    group.post("nack", tokens=[events[0]["token"]])
    assert data(group.read("bob", count=5)) == [0]


# ── What is held ───────────────────────────────────────────────────────────────────────────────


def test_pending_is_shown_in_both_of_redis_forms(stream: StreamClient) -> None:
    ids = stream.append(*range(8))
    group = stream.group()
    group.read("ann", count=3)
    bobs = group.read("bob", count=4)
    group.post("nack", tokens=[bobs[3]["token"]], delay_ms=600_000)
    shown = group.get("/pending")
    assert (shown["count"], shown["min_id"], shown["max_id"]) == (7, ids[0], ids[6])
    assert shown["consumers"] == [{"name": "ann", "pending": 3}, {"name": "bob", "pending": 3}]
    assert [(one["id"], one["consumer"], one["deliveries"]) for one in shown["data"]] == [
        *((id, "ann", 1) for id in ids[:3]),
        *((id, "bob", 1) for id in ids[3:6]),
        (ids[6], None, 1),
    ]
    assert all(0 <= one["idle_ms"] < 60_000 for one in shown["data"])
    listed = group.get("/pending", start=ids[1], end=ids[4])["data"]
    assert [one["id"] for one in listed] == ids[1:5]
    assert [one["id"] for one in group.get("/pending", consumer="bob")["data"]] == ids[3:6]
    assert group.get("/pending", min_idle_ms=600_000)["data"] == []
    page = group.get("/pending", count=2)
    rest = group.get("/pending", cursor=page["next_cursor"])
    assert [one["id"] for one in page["data"] + rest["data"]] == ids[:7]


def test_consumers_are_known_with_what_they_hold(stream: StreamClient) -> None:
    stream.append(*range(5))
    group = stream.group()
    group.read("ann", count=3)
    group.read("bob", count=5)
    group.read("cid")
    shown = group.get("/consumers")["data"]
    assert [(c["name"], c["pending"]) for c in shown] == [("ann", 3), ("bob", 2), ("cid", 0)]
    assert all(0 <= c["idle_ms"] < 60_000 for c in shown)
    assert shown[2]["inactive_ms"] is None
    answer = stream.client.delete(f"{group.url}/consumers/ann")
    assert answer.json() == {"released": 3}
    assert stream.client.delete(f"{group.url}/consumers/ann").status_code == 404
    again = group.read("cid")
    assert [(event["data"], event["delivery"]) for event in again] == [(0, 2), (1, 2), (2, 2)]


def test_trimmed_events_are_delivered_no_more(stream: StreamClient) -> None:
    stream.append(*range(10))
    group = stream.group(claim_idle_ms=50)
    events = group.read(count=4)
    stream.client.post(f"{stream.url}/trim", json={"maxlen": 3})
    assert data(group.read("bob")) == [7, 8, 9]
    shown = group.get()
    assert shown["lag"] == 0
    group.post("ack", tokens=tokens(events))
    eventually(
        lambda: group.get()["pending"] == 3 or not group.read("cid"), "what was trimmed is let go"
    )


# ── Bad input ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("verb", "body", "pointer"),
    [
        ("read", {}, "#"),
        ("read", {"consumer": ""}, "#/consumer"),
        ("read", {"consumer": "a\u0000b"}, "#/consumer"),
        ("read", {"consumer": "a\nb"}, "#/consumer"),
        ("read", {"consumer": "x" * 129}, "#/consumer"),
        ("read", {"consumer": "a", "count": 1_000_000}, "#/count"),
        ("read", {"consumer": "a", "count": 0}, "#/count"),
        ("read", {"consumer": "a", "block_ms": 10**9}, "#/block_ms"),
        ("read", {"consumer": "a", "blok_ms": 1}, "#"),
        ("ack", {}, "#"),
        ("ack", {"ids": ["x"]}, "#/ids/0"),
        ("ack", {"tokens": [5]}, "#/tokens/0"),
        ("ack", {"tokens": ["1.1"] * 10_001}, "#/tokens"),
        ("nack", {"tokens": []}, "#/tokens"),
        ("nack", {"tokens": ["1.1"], "delay_ms": -1}, "#/delay_ms"),
        ("claim", {"consumer": "a", "min_idle_ms": -1}, "#/min_idle_ms"),
        ("dead/redrive", {"ids": []}, "#/ids"),
        ("dead/redrive", {"ids": ["$"]}, "#/ids/0"),
        ("move", {"start": "yesterday"}, "#/start"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_call_is_422_and_names_the_field(
    stream: StreamClient, verb: str, body: dict[str, Any], pointer: str
) -> None:
    stream.append(1)
    group = stream.group()
    problem = group.post(verb, 422, **body)
    assert problem["errors"][0]["pointer"] == pointer
    assert group.get()["pending"] == 0


@pytest.mark.parametrize(
    "wish",
    [
        {"start": "x"},
        {"max_deliveries": 0},
        {"claim_idle_ms": 0},
        {"max_pending": 0},
        {"max_pendings": 5},
    ],
)
def test_a_bad_group_is_422(stream: StreamClient, wish: dict[str, Any]) -> None:
    assert stream.client.put(f"{stream.url}/groups/g", json=wish).status_code == 422
    assert stream.client.get(stream.url).status_code == 404, "nothing was made"


def test_what_is_not_there_is_404(
    stream: StreamClient, new_stream: Callable[[], StreamClient]
) -> None:
    stream.append(1)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("read", {"consumer": "ann"}),
        ("read", {"consumer": "ann", "block_ms": 5000}),
        ("ack", {"tokens": ["1.1"]}),
        ("nack", {"tokens": ["1.1"]}),
        ("claim", {"consumer": "ann"}),
        ("dead/redrive", {}),
        ("move", {"start": "0"}),
    ]
    for missing in (GroupClient(stream, "none"), GroupClient(new_stream(), "none")):
        for verb, body in calls:
            assert missing.post(verb, 404, **body)["code"] == "not_found", verb
        for path in ("", "/pending", "/consumers", "/dead"):
            assert missing.client.get(missing.url + path).status_code == 404, path
