"""Jobs that name a URL, called by the server, over every engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conformance.engine import Engine
from tests.eventually import eventually
from tests.server_process import Tenant, running_server
from tests.webhooks.receiver import Receiver, running_receiver

Q = "/v1/queues/calls"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def caller(engine: Engine) -> Iterator[Tenant]:
    settings = {**engine.settings, "MONOLITE_ALLOW_PRIVATE_WEBHOOKS": "127.0.0.0/8"}
    with running_server(engine.data, **settings) as server, Tenant(server) as tenant:
        yield tenant


def add(client: httpx.Client, **job: Any) -> str:
    answer = client.post(f"{Q}/jobs", json={"payload": {"n": 1}, **job})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def job(client: httpx.Client, job_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = client.get(f"/v1/jobs/{job_id}").json()
    return shown


def test_a_job_is_posted_signed_and_completed(caller: Tenant, receiver: Receiver) -> None:
    client = caller.client
    secret = client.get("/v1/job-calls/secret").json()["secret"]
    job_id = add(client, url=receiver.url + "/in")
    eventually(lambda: job(client, job_id)["state"] == "completed", "the call is made")
    (request,) = receiver.at("/in")
    assert request.verified_by(secret) == {"n": 1}
    assert request.headers["webhook-id"] == f"job_{job_id}"
    assert job(client, job_id)["result"] == {"status": 200, "body": "ok"}
    claimed = client.post(f"{Q}/claim", json={"worker": "w"}).json()
    assert claimed == {"jobs": []}


def test_a_call_that_fails_is_made_again_and_then_given_up(
    caller: Tenant, receiver: Receiver
) -> None:
    receiver.answer = lambda request, before: (503, {"retry-after": "0"})
    client = caller.client
    job_id = add(client, url=receiver.url + "/down", max_attempts=3)
    eventually(lambda: job(client, job_id)["state"] == "discarded", "it is given up")
    assert [one.headers["x-job-attempt"] for one in receiver.at("/down")] == ["1", "2", "3"]
    assert len({one.headers["webhook-id"] for one in receiver.at("/down")}) == 1
    errors = job(client, job_id)["errors"]
    assert [one["attempt"] for one in errors] == [1, 2, 3]
    assert all("503" in one["error"] for one in errors)


def test_workers_and_the_server_take_their_own(caller: Tenant, receiver: Receiver) -> None:
    client = caller.client
    called = [add(client, url=f"{receiver.url}/each/{n}") for n in range(20)]
    mine = [add(client) for _ in range(5)]
    eventually(
        lambda: all(job(client, one)["state"] == "completed" for one in called), "all are called"
    )
    assert len(receiver.received) == 20
    claimed = client.post(f"{Q}/claim", json={"worker": "w"}).json()["jobs"]
    assert [one["id"] for one in claimed] == mine


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://169.254.169.254/latest", "address_refused"),
        ("http://10.0.0.1/", "address_refused"),
        ("ftp://example.com/", "invalid"),
        ("nonsense", "invalid"),
    ],
)
def test_a_url_that_may_not_be_called_is_422(client: httpx.Client, url: str, code: str) -> None:
    answer = client.post(f"{Q}/jobs", json={"payload": {}, "url": url})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.json()["errors"][0]["pointer"] == "#/url"
    many = client.post(f"{Q}/jobs", json=[{"payload": {}}, {"payload": {}, "url": url}])
    assert many.json()["errors"][0]["pointer"] == "#/1/url"
