"""Schedules over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.conformance.engine import Engine
from tests.eventually import eventually
from tests.server_process import Tenant, running_server

S = "/v1/schedules/nightly"


def put(client: httpx.Client, cron: str, **fields: Any) -> httpx.Response:
    given = {"cron": cron, "queue": "reports", "payload": {"report": 1}, **fields}
    return client.put(S, json=given)


def jobs(client: httpx.Client) -> list[dict[str, Any]]:
    answer = client.get("/v1/queues/reports/jobs")
    found: list[dict[str, Any]] = answer.json()["data"] if answer.status_code == 200 else []
    return found


def test_a_schedule_adds_a_job_at_each_tick(client: httpx.Client) -> None:
    made = put(client, "* * * * * *", priority=3)
    assert made.status_code == 201
    eventually(lambda: len(jobs(client)) >= 2, "it ticks each second")
    assert put(client, "0 0 1 1 *").status_code == 200
    found = jobs(client)
    assert all(job["run_at"].endswith(".000Z") for job in found)
    assert len({job["run_at"] for job in found}) == len(found), "a job for each tick, once"
    assert {(job["priority"], str(job["payload"])) for job in found} == {(3, "{'report': 1}")}
    shown = client.get(S).json()
    assert shown["last_job_id"] in {job["id"] for job in found}


def test_the_next_runs_are_shown_in_utc(client: httpx.Client) -> None:
    shown = put(client, "30 2 1 7 *", timezone="Europe/Berlin").json()
    assert [run[4:] for run in shown["next_runs"]] == ["-07-01T00:30:00.000Z"] * 5
    assert shown["next_run_at"] == shown["next_runs"][0]
    assert shown["last_run_at"] is None


def test_a_schedule_is_run_now_beside_its_ticks(client: httpx.Client) -> None:
    put(client, "0 0 1 1 *")
    before = client.get(S).json()["next_run_at"]
    ran = client.post(f"{S}/run")
    assert ran.status_code == 201
    assert [job["id"] for job in jobs(client)] == [ran.json()["id"]]
    assert client.get(S).json()["next_run_at"] == before


def test_a_paused_schedule_does_not_tick(client: httpx.Client) -> None:
    put(client, "* * * * * *", paused=True)
    assert client.get(S).json()["next_runs"] == []
    resumed = client.post(f"{S}/resume").json()
    assert resumed["next_run_at"] is not None
    eventually(lambda: len(jobs(client)) >= 1, "it ticks again")
    assert client.post(f"{S}/pause").json()["paused"] is True


def test_schedules_are_listed_and_deleted(client: httpx.Client, other: httpx.Client) -> None:
    put(client, "@daily")
    assert [one["name"] for one in client.get("/v1/schedules").json()["data"]] == ["nightly"]
    assert other.get("/v1/schedules").json()["data"] == []
    assert other.delete(S).status_code == 404
    assert client.delete(S).status_code == 204
    assert client.get(S).status_code == 404
    assert client.delete(S).status_code == 404


def test_ticks_missed_while_no_server_ran_collapse_to_one(engine: Engine) -> None:
    with running_server(engine.data, **engine.settings) as server, Tenant(server) as tenant:
        put(tenant.client, "* * * * * *")
        eventually(lambda: len(jobs(tenant.client)) >= 1, "it ticks")
        put(tenant.client, "* * * * * *", queue="after")
        key = tenant.key
    import time

    time.sleep(3)
    with running_server(engine.data, **engine.settings) as server, server.client(key) as client:

        def runs() -> list[str]:
            answer = client.get("/v1/queues/after/jobs")
            found = answer.json()["data"] if answer.status_code == 200 else []
            return sorted(job["created_at"] for job in found)

        eventually(lambda: len(runs()) >= 3, "it ticks on")
        seconds = [at[:19] for at in runs()]
        assert len(set(seconds)) >= len(seconds) - 1, "the missed ones came as one"


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"cron": "nonsense"}, "#/cron", "invalid_cron"),
        ({"cron": "0 0 31 2 *"}, "#/cron", "invalid_cron"),
        ({"cron": "61 * * * *"}, "#/cron", "invalid_cron"),
        ({"cron": "* * * * * * *"}, "#/cron", "invalid_cron"),
        ({"cron": "0 0 30 2 *"}, "#/cron", "invalid_cron"),
        ({"timezone": "Mars/Olympus"}, "#/timezone", "invalid"),
        ({"timezone": "../../etc/passwd"}, "#/timezone", "invalid"),
        ({"queue": "a b"}, "#/queue", "invalid"),
        ({"concurrency_key": "k", "concurrency_limit": 0}, "#/concurrency_limit", "invalid"),
    ],
)
def test_a_bad_schedule_is_refused_by_name(
    client: httpx.Client, fields: dict[str, Any], pointer: str, code: str
) -> None:
    answer = client.put(S, json={"cron": "@daily", "queue": "reports", "payload": 1, **fields})
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert client.get(S).status_code == 404
