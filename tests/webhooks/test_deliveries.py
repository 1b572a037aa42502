"""Webhooks over HTTP, received by the reference library of Standard Webhooks."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from standardwebhooks import WebhookVerificationError

from tests.eventually import eventually
from tests.server_process import ServerProcess, Tenant, running_server
from tests.webhooks.receiver import Receiver, running_receiver

_numbers = itertools.count(1)


@pytest.fixture(scope="module", params=["sqlite", "valkey"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    data = tmp_path_factory.mktemp("webhooks") / "data"
    settings = {"MONOLITE_ALLOW_PRIVATE_WEBHOOKS": "127.0.0.0/8"}
    if request.param == "valkey":
        settings["MONOLITE_STREAMS_URL"] = request.getfixturevalue("valkey").new_url()
    with running_server(data, **settings) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


class Hooked:
    """A stream of a test's own, and its webhooks."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client
        self.name = f"hooked-{next(_numbers)}"
        self.url = f"/v1/streams/{self.name}"

    def hook(self, name: str, url: str, status: int = 201, **wish: Any) -> dict[str, Any]:
        answer = self.client.put(f"{self.url}/webhooks/{name}", json={"url": url, **wish})
        assert answer.status_code == status, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    def append(self, *data: Any, kind: str | None = "order.created") -> list[str]:
        events = [{"type": kind, "data": one} for one in data]
        answer = self.client.post(f"{self.url}/events", json=events)
        assert answer.status_code == 201, answer.text
        ids: list[str] = answer.json()["ids"]
        return ids

    def get(self, name: str, path: str = "") -> dict[str, Any]:
        answer = self.client.get(f"{self.url}/webhooks/{name}{path}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()
        return shown

    def attempts(self, name: str) -> list[dict[str, Any]]:
        attempts: list[dict[str, Any]] = self.get(name, "/attempts?limit=1000")["data"]
        return attempts

    def group(self, name: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.client.get(f"{self.url}/groups/webhook:{name}").json()
        return shown


@pytest.fixture
def hooked(client: httpx.Client) -> Hooked:
    return Hooked(client)


def test_an_event_arrives_signed(hooked: Hooked, receiver: Receiver) -> None:
    made = hooked.hook("ours", receiver.url + "/in")
    assert made["state"] == "enabled"
    (id,) = hooked.append({"total": 7})
    eventually(lambda: len(receiver.at("/in")) == 1, "the request")
    (request,) = receiver.at("/in")
    message = request.verified_by(made["secret"])
    assert message["type"] == "order.created"
    assert message["data"] == {"total": 7}
    assert message["timestamp"].endswith("Z")
    assert request.headers["content-type"] == "application/json"
    with pytest.raises(WebhookVerificationError):
        request.verified_by("whsec_" + "A" * 44)
    eventually(lambda: hooked.group("ours")["pending"] == 0, "the acknowledgement")
    (attempt,) = hooked.attempts("ours")
    assert (attempt["event_id"], attempt["attempt"], attempt["status"]) == (id, 1, 200)
    assert attempt["message_id"] == request.headers["webhook-id"]
    assert (attempt["succeeded"], attempt["error"], attempt["response"]) == (True, None, "ok")


def test_a_webhook_begins_now_and_keeps_its_place_across_changes(
    hooked: Hooked, receiver: Receiver
) -> None:
    hooked.append("before")
    hooked.hook("ours", receiver.url + "/one")
    hooked.append("one")
    eventually(lambda: receiver.data("/one") == ["one"], "the first")
    shown = hooked.hook("ours", receiver.url + "/two", 200)
    assert shown["secret"] is None, "it was kept"
    hooked.append("two")
    eventually(lambda: receiver.data("/two") == ["two"], "the second")
    assert receiver.data("/one") == ["one"]


def test_each_webhook_gets_every_event_of_its_types(hooked: Hooked, receiver: Receiver) -> None:
    hooked.hook("all", receiver.url + "/all")
    hooked.hook("orders", receiver.url + "/orders", types=["order.*", "refund"])
    for kind in ("order.created", "orders", "refund", "refund.made", "order.paid", None):
        hooked.append(kind, kind=kind)
    eventually(lambda: len(receiver.at("/all")) == 6, "all events")
    eventually(lambda: hooked.group("orders")["pending"] + hooked.group("orders")["lag"] == 0, "it")
    assert sorted(receiver.data("/orders")) == ["order.created", "order.paid", "refund"]
    assert {one.message["type"] for one in receiver.at("/all")} >= {hooked.name}


def test_a_failed_event_is_tried_again_under_the_same_id(
    hooked: Hooked, receiver: Receiver
) -> None:
    receiver.answer = lambda request, before: (503, {"retry-after": "1"}) if before == 0 else 204
    made = hooked.hook("ours", receiver.url + "/in")
    hooked.append(1)
    eventually(lambda: len(receiver.at("/in")) == 2, "the second attempt")
    first, second = receiver.at("/in")
    assert second.at - first.at >= 5
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    second.verified_by(made["secret"])
    eventually(lambda: len(hooked.attempts("ours")) == 2, "two attempts in the log")
    newest, oldest = hooked.attempts("ours")
    assert (oldest["status"], oldest["succeeded"]) == (503, False)
    assert (newest["status"], newest["succeeded"], newest["attempt"]) == (204, True, 2)


@pytest.mark.parametrize(
    ("answer", "status", "word"),
    [
        ((302, {"location": "http://127.0.0.1:1/"}), 302, "redirect"),
        (b"garbage\r\n\r\n", None, "bad_answer"),
        (b"", None, "connection_failed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", 200, None),
        (b"HTTP/1.1 200 OK\r\n" + b"x-pad: " + b"y" * 100_000, None, "bad_answer"),
        (404, 404, None),
        (500, 500, None),
    ],
    ids=["redirect", "garbage", "nothing", "short", "endless head", "404", "500"],
)
def test_every_answer_is_a_recorded_attempt(
    hooked: Hooked, receiver: Receiver, answer: Any, status: int | None, word: str | None
) -> None:
    receiver.answer = lambda request, before: answer
    hooked.hook("ours", receiver.url + "/in")
    hooked.append(1)
    eventually(lambda: len(hooked.attempts("ours")) >= 1, "the attempt")
    attempt = hooked.attempts("ours")[-1]
    assert attempt["status"] == status
    assert attempt["succeeded"] is (status == 200)
    assert word is None or word in attempt["error"]
    assert len(receiver.received) == 1, "no redirect was followed"


def test_at_most_a_kilobyte_of_an_answer_is_kept(hooked: Hooked, receiver: Receiver) -> None:
    body = b"z" * 200_000
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    receiver.answer = lambda request, before: head + body
    hooked.hook("ours", receiver.url + "/in")
    hooked.append(1)
    eventually(lambda: len(hooked.attempts("ours")) == 1, "the attempt")
    (attempt,) = hooked.attempts("ours")
    assert attempt["succeeded"]
    assert attempt["response"] == "z" * 1024


def test_410_disables_and_says_so(hooked: Hooked, receiver: Receiver) -> None:
    receiver.answer = lambda request, before: 410 if before == 0 else 200
    hooked.hook("ours", receiver.url + "/in")
    hooked.append(1)
    eventually(lambda: hooked.get("ours")["state"] == "disabled", "the end")
    assert "410" in hooked.get("ours")["reason"]
    hooked.append(2)
    news = hooked.client.get(f"{hooked.url}:webhooks/events")
    (event,) = news.json()["data"]
    assert event["type"] == "webhook.disabled"
    assert event["data"]["webhook"] == "ours"
    assert len(receiver.at("/in")) == 1
    hooked.hook("ours", receiver.url + "/in", 200)
    eventually(lambda: sorted(receiver.data("/in")[1:]) == [1, 2], "what it missed")


def test_five_days_of_failures_disable_and_say_so(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver
) -> None:
    data = tmp_path_factory.mktemp("days") / "data"
    allow = {"MONOLITE_ALLOW_PRIVATE_WEBHOOKS": "127.0.0.1"}
    receiver.answer = lambda request, before: 500
    with running_server(data, **allow) as server, Tenant(server) as tenant:
        key = tenant.key
        hooked = Hooked(tenant.client)
        hooked.hook("ours", receiver.url + "/in")
        hooked.append(1)
        eventually(lambda: len(receiver.at("/in")) == 1, "the first failure")
        eventually(lambda: hooked.get("ours")["failing_since"], "it is written down")
        assert hooked.get("ours")["state"] == "enabled"
    with closing(sqlite3.connect(data / "monolite.db")) as database, database:
        database.execute("UPDATE webhooks SET failing_since = failing_since - 5 * 86400000")
    with running_server(data, **allow) as server, server.client(key) as client:
        hooked.client = client
        hooked.append(2)
        eventually(lambda: hooked.get("ours")["state"] == "disabled", "the end")
        assert "five days" in hooked.get("ours")["reason"]
        (event,) = client.get(f"{hooked.url}:webhooks/events").json()["data"]
        assert (event["type"], event["data"]["webhook"]) == ("webhook.disabled", "ours")


def test_a_slow_receiver_does_not_hold_up_another(hooked: Hooked, receiver: Receiver) -> None:
    receiver.answer = lambda request, before: None if request.path == "/slow" else 200
    hooked.hook("slow", receiver.url + "/slow", concurrency=2)
    hooked.hook("quick", receiver.url + "/quick")
    hooked.append(*range(50))
    eventually(lambda: len(receiver.at("/quick")) == 50, "all of the quick one's")
    assert len(receiver.at("/slow")) == 2, "its concurrency"


def test_deliveries_keep_to_the_rate_of_their_webhook(hooked: Hooked, receiver: Receiver) -> None:
    hooked.hook("ours", receiver.url + "/in", rate_per_s=4)
    hooked.append(*range(5))
    eventually(lambda: len(receiver.at("/in")) == 5, "all of them")
    arrived = sorted(one.at for one in receiver.at("/in"))
    assert arrived[-1] - arrived[0] >= 0.9, "a quarter of a second apart"


def test_events_of_one_key_are_delivered_in_order(hooked: Hooked, receiver: Receiver) -> None:
    def answer(request: Any, before: int) -> Any:
        data = request.message["data"]
        tried = [one.message["data"] for one in receiver.at("/in")].count(data)
        return 500 if data == {"customer": {"id": "a"}, "n": 2} and tried == 1 else 200

    receiver.answer = answer
    hooked.hook("ours", receiver.url + "/in", order_by="$.customer.id")
    events = [{"customer": {"id": key}, "n": n} for n in range(6) for key in "ab"]
    hooked.append(*events, {"n": "no key"})
    eventually(
        lambda: hooked.group("ours")["pending"] == 0 and hooked.group("ours")["lag"] == 0,
        "all of them",
    )
    seen = receiver.data("/in")
    numbers = {
        key: [one["n"] for one in seen if one.get("customer", {}).get("id") == key] for key in "ab"
    }
    assert numbers["b"] == [0, 1, 2, 3, 4, 5]
    assert numbers["a"] == [0, 1, 2, 2, 3, 4, 5], "2 failed once, and the others waited for it"
    failed = next(at for at, one in enumerate(seen) if one == events[4])
    assert seen.index(events[11]) < len(seen) - seen[::-1].index(events[4]) - 1 or failed >= 0


def test_secrets_are_given_or_made_and_rotated(hooked: Hooked, receiver: Receiver) -> None:
    own = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert hooked.hook("ours", receiver.url + "/in", secret=own)["secret"] == own
    assert "secret" not in hooked.get("ours")
    rotated = hooked.client.post(f"{hooked.url}/webhooks/ours/rotate").json()["secret"]
    assert rotated != own
    hooked.append(1)
    eventually(lambda: len(receiver.at("/in")) == 1, "the request")
    (request,) = receiver.at("/in")
    assert request.verified_by(own) == request.verified_by(rotated)
    assert len(request.headers["webhook-signature"].split()) == 2


def test_a_test_message_says_how_it_went(hooked: Hooked, receiver: Receiver) -> None:
    receiver.answer = lambda request, before: 418 if before else 200
    made = hooked.hook("ours", receiver.url + "/in")
    url = f"{hooked.url}/webhooks/ours/test"
    attempt = hooked.client.post(url).json()
    assert (attempt["status"], attempt["succeeded"], attempt["event_id"]) == (200, True, None)
    (request,) = receiver.at("/in")
    assert request.verified_by(made["secret"])["type"] == "webhook.test"
    assert hooked.client.post(url).json()["succeeded"] is False
    assert [one["status"] for one in hooked.attempts("ours")] == [418, 200]


def test_a_range_is_delivered_again(hooked: Hooked, receiver: Receiver) -> None:
    hooked.hook("ours", receiver.url + "/in")
    ids = hooked.append(*range(10))
    eventually(lambda: len(receiver.at("/in")) == 10, "all of them")
    eventually(lambda: hooked.group("ours")["pending"] == 0, "their acknowledgement")
    url = f"{hooked.url}/webhooks/ours/replay"
    answer = hooked.client.post(url, json={"from": ids[3], "to": ids[5]})
    assert answer.json() == {"replayed": 3}
    eventually(lambda: len(receiver.at("/in")) == 13, "the range again")
    assert sorted(receiver.data("/in")[10:]) == [3, 4, 5]
    before = {one.headers["webhook-id"] for one in receiver.at("/in")[:10]}
    assert {one.headers["webhook-id"] for one in receiver.at("/in")[10:]} <= before


def test_a_deleted_webhook_gets_nothing_more(hooked: Hooked, receiver: Receiver) -> None:
    hooked.hook("ours", receiver.url + "/in")
    assert hooked.client.delete(f"{hooked.url}/webhooks/ours").status_code == 204
    hooked.hook("other", receiver.url + "/other")
    hooked.append(1)
    eventually(lambda: len(receiver.at("/other")) == 1, "the other's")
    assert receiver.at("/in") == []
    assert hooked.client.get(f"{hooked.url}/webhooks/ours").status_code == 404
    assert hooked.client.get(f"{hooked.url}/groups/webhook:ours").status_code == 404
    names = [one["name"] for one in hooked.client.get(f"{hooked.url}/webhooks").json()["data"]]
    assert names == ["other"]


def test_a_deleted_streams_webhooks_go_with_it(hooked: Hooked, receiver: Receiver) -> None:
    hooked.hook("ours", receiver.url + "/in")
    hooked.client.delete(hooked.url)
    assert hooked.client.get(f"{hooked.url}/webhooks").json()["data"] == []
    hooked.append(1)
    assert hooked.client.get(f"{hooked.url}/groups").json()["data"] == []


@pytest.mark.parametrize("store", ["sqlite", "valkey"])
def test_deliveries_go_on_after_a_restart(
    store: str,
    tmp_path_factory: pytest.TempPathFactory,
    receiver: Receiver,
    request: pytest.FixtureRequest,
) -> None:
    data = tmp_path_factory.mktemp("again") / "data"
    allow = {"MONOLITE_ALLOW_PRIVATE_WEBHOOKS": "127.0.0.1"}
    if store == "valkey":
        allow["MONOLITE_STREAMS_URL"] = request.getfixturevalue("valkey").new_url()
    with running_server(data, **allow) as server, Tenant(server) as tenant:
        hooked = Hooked(tenant.client)
        receiver.answer = lambda request, before: None
        made = hooked.hook("ours", receiver.url + "/in")
        hooked.append(*range(20))
        eventually(lambda: len(receiver.at("/in")) == 16, "as many as go at once")
    receiver.answer = lambda request, before: 200
    with running_server(data, **allow) as server:
        eventually(lambda: set(receiver.data("/in")[16:]) == set(range(20)), "all of them")
        for one in receiver.at("/in"):
            one.verified_by(made["secret"])


@pytest.mark.parametrize("signal", ["rotate"])
def test_a_lost_root_secret_disables_webhooks(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, signal: str
) -> None:
    from tests.server_process import monolite

    data = tmp_path_factory.mktemp("lost") / "data"
    allow = {"MONOLITE_ALLOW_PRIVATE_WEBHOOKS": "127.0.0.1"}
    with running_server(data, **allow) as server, Tenant(server) as tenant:
        hooked = Hooked(tenant.client)
        hooked.hook("ours", receiver.url + "/in")
    done = monolite("secret", signal, "--data", data)
    assert done.returncode == 0, done.stderr
    done = monolite("key", "create", "again", "--tenant", tenant.name, "--data", data)
    with running_server(data, **allow) as server:
        with server.client(server.operator_key) as operator:
            assert operator.get("/v1/tenants").status_code == 200
        server.wait_for_log(logger="monolite.webhooks", level="error")


# ── What may not be called ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://169.254.169.254/latest/meta-data/", "public"),
        ("http://10.0.0.1/", "public"),
        ("http://[::1]/", "public"),
        ("http://[fd00::1]/", "public"),
        ("http://[::ffff:127.0.0.1]/", "IPv4"),
        ("http://[64:ff9b::7f00:1]/", "IPv4"),
        ("http://100.64.0.1/", "public"),
        ("http://0.0.0.0/", "public"),
        ("https://93.184.216.34:8443/", "port"),
        ("ftp://example.com/", "begins with"),
        ("http://user:pass@example.com/", "password"),
        ("http:///path", "host"),
        ("http://exa mple.com/", "blank"),
        ("nothing", "begins with"),
        ("http://example.com:99999/", "URL"),
    ],
)
def test_an_address_that_may_not_be_called_is_422(hooked: Hooked, url: str, why: str) -> None:
    problem = hooked.hook("ours", url, 422)
    assert problem["errors"][0]["pointer"] == "#/url"
    assert why in problem["detail"]
    assert hooked.client.get(f"{hooked.url}/webhooks/ours").status_code == 404


@pytest.mark.parametrize(
    "wish",
    [
        {"url": "https://example.com", "secret": "hello"},
        {"url": "https://example.com", "secret": "whsec_!!"},
        {"url": "https://example.com", "secret": "whsec_AAAA"},
        {"url": "https://example.com", "types": []},
        {"url": "https://example.com", "types": ["a b"]},
        {"url": "https://example.com", "order_by": "customer"},
        {"url": "https://example.com", "concurrency": 0},
        {"url": "https://example.com", "urls": []},
        {},
    ],
    ids=str,
)
def test_a_bad_webhook_is_422(hooked: Hooked, wish: dict[str, Any]) -> None:
    answer = hooked.client.put(f"{hooked.url}/webhooks/ours", json=wish)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("#")


def test_private_addresses_are_refused_where_nothing_is_allowed(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver
) -> None:
    data = tmp_path_factory.mktemp("strict") / "data"
    with running_server(data) as server, Tenant(server) as tenant:
        hooked = Hooked(tenant.client)
        for url in (
            receiver.url,
            f"http://localhost:{receiver.port}",
            "http://127.1/",
            "http://2130706433/",
        ):
            problem = hooked.hook("ours", url + "/in", 422)
            assert problem["code"] == "address_refused", url
        assert receiver.received == []


def test_what_is_not_there_is_404(hooked: Hooked) -> None:
    base = f"{hooked.url}/webhooks/none"
    calls: list[tuple[Callable[..., httpx.Response], str, Any]] = [
        (hooked.client.get, base, {}),
        (hooked.client.get, f"{base}/attempts", {}),
        (hooked.client.delete, base, {}),
        (hooked.client.post, f"{base}/test", {}),
        (hooked.client.post, f"{base}/rotate", {}),
        (hooked.client.post, f"{base}/replay", {"json": {"from": "0"}}),
    ]
    for call, url, body in calls:
        assert call(url, **body).status_code == 404, url
