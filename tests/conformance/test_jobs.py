"""Jobs over HTTP: who gets which, what a lease is worth, and what becomes of a job."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.conformance.engine import Engine
from tests.eventually import eventually
from tests.server_process import Tenant, running_server

Q = "/v1/queues/mail"


def add(client: httpx.Client, payload: Any = None, queue: str = Q, **fields: Any) -> str:
    answer = client.post(f"{queue}/jobs", json={"payload": payload, **fields})
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def claim(client: httpx.Client, queue: str = Q, **fields: Any) -> list[dict[str, Any]]:
    answer = client.post(f"{queue}/claim", json={"worker": "w", **fields})
    assert answer.status_code == 200, answer.text
    jobs: list[dict[str, Any]] = answer.json()["jobs"]
    return jobs


def end(client: httpx.Client, job: dict[str, Any], how: str, **fields: Any) -> httpx.Response:
    return client.post(f"/v1/jobs/{job['id']}/{how}", json={"token": job["token"], **fields})


def look(client: httpx.Client, job_id: str) -> dict[str, Any]:
    answer = client.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    return job


def counts(client: httpx.Client, queue: str = Q) -> dict[str, int]:
    found: dict[str, int] = client.get(queue).json()["counts"]
    return {state: count for state, count in found.items() if count}


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    problem: dict[str, Any] = answer.json()
    return problem


def in_s(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


# ── Adding ─────────────────────────────────────────────────────────────────────────────────────


def test_a_job_is_added_claimed_and_completed(client: httpx.Client) -> None:
    made = client.post(f"{Q}/jobs", json={"payload": {"to": "ada", "n": 1.50}})
    assert made.status_code == 201
    job_id = made.json()["id"]
    assert made.json() == {"id": job_id, "queue": "mail", "state": "available"}
    assert made.headers["location"] == f"/v1/jobs/{job_id}"
    (job,) = claim(client)
    assert job.keys() == {"id", "payload", "attempt", "token", "lease_expires_at"}
    assert (job["id"], job["payload"], job["attempt"]) == (job_id, {"to": "ada", "n": 1.50}, 1)
    running = look(client, job_id)
    assert (running["state"], running["worker"]) == ("running", "w")
    assert running["lease_expires_at"] == job["lease_expires_at"]
    assert claim(client) == []
    done = end(client, job, "complete", result={"sent": [1, 2]})
    assert (done.status_code, done.json()) == (200, {"id": job_id, "state": "completed"})
    finished = look(client, job_id)
    assert (finished["state"], finished["result"]) == ("completed", {"sent": [1, 2]})
    assert finished["finished_at"]
    assert finished["worker"] is None
    assert counts(client) == {"completed": 1}


def test_a_payload_comes_back_as_it_was_written(client: httpx.Client) -> None:
    body = '{"payload": {"big": 12345678901234567890.50, "a": "\\u0000\\ud83d\\ude00", "a": 1}}'
    headers = {"Content-Type": "application/json"}
    assert client.post(f"{Q}/jobs", content=body, headers=headers).status_code == 201
    text = client.post(f"{Q}/claim", json={"worker": "w"}).text
    assert '{"big": 12345678901234567890.50, "a": "\\u0000\\ud83d\\ude00", "a": 1}' in text


def test_many_are_added_together_or_not_at_all(client: httpx.Client) -> None:
    made = client.post(f"{Q}/jobs", json=[{"payload": n} for n in range(3)])
    assert made.status_code == 201
    assert [job["state"] for job in made.json()["jobs"]] == ["available"] * 3
    bad = client.post(f"{Q}/jobs", json=[{"payload": 1}, {"payload": 2, "priority": "x"}])
    assert refused(bad, 422, "invalid")["errors"][0]["pointer"] == "#/1/priority"
    lines = b'{"payload": 3}\n\n{"payload": 4}\n'
    headers = {"Content-Type": "application/x-ndjson"}
    assert client.post(f"{Q}/jobs", content=lines, headers=headers).status_code == 201
    bad = client.post(f"{Q}/jobs", content=b'{"payload": 5}\n{"payload"', headers=headers)
    assert bad.status_code == 400
    bad = client.post(f"{Q}/jobs", content=b'{"payload": 5}\n{"x": 1}', headers=headers)
    assert refused(bad, 422, "invalid")["errors"][0]["pointer"].startswith("#/1")
    assert [job["payload"] for job in claim(client)] == [0, 1, 2, 3, 4]


def test_an_idempotency_key_adds_once(client: httpx.Client) -> None:
    given: dict[str, Any] = {"json": {"payload": 1}, "headers": {"Idempotency-Key": "once"}}
    first, again = client.post(f"{Q}/jobs", **given), client.post(f"{Q}/jobs", **given)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()
    assert len(claim(client)) == 1


def test_a_live_unique_key_stands_in_for_the_second_job(client: httpx.Client) -> None:
    first = add(client, 1, unique_key="report-7")
    second = client.post(f"{Q}/jobs", json={"payload": 2, "unique_key": "report-7"})
    assert (second.status_code, second.json()["id"]) == (200, first)
    (job,) = claim(client)
    third = client.post(f"{Q}/jobs", json={"payload": 3, "unique_key": "report-7"})
    assert (third.status_code, third.json()["state"]) == (200, "running")
    end(client, job, "complete")
    assert add(client, 4, unique_key="report-7") != first
    assert add(client, 5, unique_key="report-7", queue="/v1/queues/other") != first


def test_of_many_producers_with_one_unique_key_one_adds_a_job(client: httpx.Client) -> None:
    answers: list[int] = []

    def produce() -> None:
        given = {"payload": 1, "unique_key": "k"}
        answers.append(client.post(f"{Q}/jobs", json=given).status_code)

    producers = [threading.Thread(target=produce) for _ in range(8)]
    for producer in producers:
        producer.start()
    for producer in producers:
        producer.join()
    assert sorted(answers) == [200] * 7 + [201]
    assert len(claim(client)) == 1


# ── Order ──────────────────────────────────────────────────────────────────────────────────────


def test_priority_goes_first_then_time_then_the_order_of_adding(client: httpx.Client) -> None:
    add(client, "late", run_at=in_s(-1))
    add(client, "early", run_at=in_s(-60))
    add(client, "low", priority=-5)
    add(client, "first", priority=3)
    add(client, "second", priority=3)
    add(client, "1970", run_at="1970-01-01T00:00:00Z")
    got = [job["payload"] for job in claim(client)]
    assert got == ["first", "second", "1970", "early", "late", "low"]


def test_a_job_of_the_future_is_claimed_when_it_is_due(client: httpx.Client) -> None:
    add(client, "never", run_at="9999-12-31T23:59:59Z", priority=100)
    soon = add(client, "soon", run_at=in_s(0.3), priority=50)
    assert look(client, soon)["state"] == "scheduled"
    add(client, "now")
    assert [job["payload"] for job in claim(client)] == ["now"]
    assert counts(client) == {"running": 1, "scheduled": 2}
    assert [job["payload"] for job in claim(client, wait_ms=5000)] == ["soon"]
    assert counts(client) == {"running": 2, "scheduled": 1}


def test_no_job_goes_to_two_workers(client: httpx.Client) -> None:
    client.post(f"{Q}/jobs", json=[{"payload": n} for n in range(200)])
    got: list[int] = []

    def work() -> None:
        while jobs := claim(client, limit=7):
            got.extend(job["payload"] for job in jobs)

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(got) == list(range(200))


# ── Leases ─────────────────────────────────────────────────────────────────────────────────────


def test_an_expired_lease_is_claimed_by_another_and_the_first_changes_nothing(
    client: httpx.Client,
) -> None:
    add(client, "x")
    (first,) = claim(client, lease_s=0.2)
    (second,) = claim(client, wait_ms=5000)
    assert (second["id"], second["attempt"]) == (first["id"], 2)
    assert second["token"] != first["token"]
    for how in ("complete", "extend"):
        assert refused(end(client, first, how), 409, "lease_lost")["state"] == "running"
    refused(end(client, first, "fail", error="late"), 409, "lease_lost")
    assert end(client, second, "complete").status_code == 200
    shown = look(client, first["id"])
    assert (shown["state"], shown["attempt"]) == ("completed", 2)
    assert [error["attempt"] for error in shown["errors"]] == [1]
    assert "lease" in shown["errors"][0]["error"]


def test_a_lease_that_ends_on_the_last_attempt_discards_the_job(client: httpx.Client) -> None:
    job_id = add(client, "x", max_attempts=1, unique_key="u")
    claim(client, lease_s=0.1)
    eventually(lambda: look(client, job_id)["state"] == "discarded", "it is taken back unasked")
    assert counts(client) == {"discarded": 1}
    assert add(client, "y", unique_key="u") != job_id


def test_a_heartbeat_keeps_a_job(client: httpx.Client) -> None:
    add(client, "x")
    (job,) = claim(client, lease_s=0.4)
    longer = end(client, job, "extend", lease_s=30)
    assert longer.status_code == 200
    assert longer.json()["lease_expires_at"] > job["lease_expires_at"]
    assert claim(client, wait_ms=800) == []
    assert look(client, job["id"])["lease_expires_at"] == longer.json()["lease_expires_at"]
    assert end(client, job, "complete").status_code == 200


def test_a_time_out_ends_an_attempt_whatever_was_extended(client: httpx.Client) -> None:
    add(client, "x", timeout_s=0.3)
    (job,) = claim(client)
    end(client, job, "extend", lease_s=60)
    (again,) = claim(client, wait_ms=5000)
    assert (again["id"], again["attempt"]) == (job["id"], 2)
    assert look(client, job["id"])["errors"][0]["error"] == "timed out"


def test_a_time_out_is_60_s_unless_its_producer_says_another_or_none(client: httpx.Client) -> None:
    ordinary = add(client, "x")
    added = {ordinary: 60, add(client, "y", timeout_s=None): None, add(client, "z", timeout_s=9): 9}
    assert {one: look(client, one)["timeout_s"] for one in added} == added
    ends = {job["id"]: job["lease_expires_at"] for job in claim(client, lease_s=3600)}
    began = datetime.now(UTC)
    for one, timeout_s in added.items():
        held_s = (datetime.fromisoformat(ends[one]) - began).total_seconds()
        assert held_s == pytest.approx(timeout_s or 3600, abs=5 if timeout_s == 9 else 30)
    alone = add(client, "alone")
    (job,) = claim(client, lease_s=1)
    assert job["id"] == alone
    extended = end(client, job, "extend", lease_s=3600).json()["lease_expires_at"]
    assert (datetime.fromisoformat(extended) - began).total_seconds() < 90


def test_a_worker_cannot_complete_anothers_job(client: httpx.Client, other: httpx.Client) -> None:
    add(client, 1)
    add(client, 2)
    (mine,) = claim(client, limit=1)
    (theirs,) = claim(client, limit=1)
    stolen = {**theirs, "token": mine["token"]}
    refused(end(client, stolen, "complete"), 409, "lease_lost")
    for guess in ("0" * 16, "1", "x" * 16, "\N{DIGIT ONE}" * 16, "-000000000000001"):
        refused(end(client, {**theirs, "token": guess}, "complete"), 409, "lease_lost")
    refused(end(other, theirs, "complete"), 404, "not_found")
    assert look(client, theirs["id"])["state"] == "running"


def test_a_batch_completes_what_stands_and_names_the_rest(client: httpx.Client) -> None:
    client.post(f"{Q}/jobs", json=[{"payload": n} for n in range(4)])
    jobs = claim(client)
    end(client, jobs[0], "complete")
    given = [{"id": job["id"], "token": job["token"], "result": job["payload"]} for job in jobs]
    given[1]["token"] = "0" * 16
    given.append({"id": "unknown", "token": "0" * 16})
    answer = client.post("/v1/jobs/complete", json={"jobs": given})
    assert answer.status_code == 200
    assert answer.json() == {
        "completed": 2,
        "stale": [
            {"id": jobs[0]["id"], "state": "completed"},
            {"id": jobs[1]["id"], "state": "running"},
            {"id": "unknown", "state": None},
        ],
    }
    assert look(client, jobs[3]["id"])["result"] == 3
    assert counts(client) == {"completed": 3, "running": 1}
    twice = [given[1], given[1]]
    refused(client.post("/v1/jobs/complete", json={"jobs": twice}), 422, "invalid")


# ── Failures ───────────────────────────────────────────────────────────────────────────────────


def test_a_failed_job_waits_longer_each_time_and_is_discarded_at_last(
    client: httpx.Client,
) -> None:
    job_id = add(client, "x", max_attempts=3)
    waits = []
    for attempt in (1, 2):
        (job,) = claim(client)
        failed = end(client, job, "fail", error=f"no {attempt}").json()
        assert (failed["state"], failed["attempt"]) == ("retryable", attempt)
        assert counts(client) == {"retryable": 1}
        now = datetime.now(UTC)
        waits.append((datetime.fromisoformat(failed["run_at"]) - now).total_seconds())
        assert claim(client) == []
        assert client.post(f"/v1/jobs/{job_id}/retry").json()["state"] == "available"
    assert waits[1] > waits[0] > 0.5
    (job,) = claim(client)
    failed = end(client, job, "fail", error="no 3").json()
    assert (failed["state"], failed["attempt"]) == ("discarded", 3)
    assert [error["error"] for error in failed["errors"]] == ["no 1", "no 2", "no 3"]
    assert counts(client) == {"discarded": 1}


def test_a_worker_says_itself_when_to_retry(client: httpx.Client) -> None:
    add(client, "x")
    (job,) = claim(client)
    assert end(client, job, "fail", error="", retry_in_s=0).json()["state"] == "available"
    (job,) = claim(client)
    assert end(client, job, "fail", error="", retry_in_s=0.3).json()["state"] == "retryable"
    (job,) = claim(client, wait_ms=5000)
    assert job["attempt"] == 3


def test_a_discarded_job_is_retried_for_an_attempt_more(client: httpx.Client) -> None:
    job_id = add(client, "x", max_attempts=1, unique_key="u")
    (job,) = claim(client)
    end(client, job, "fail", error="no")
    assert client.post(f"/v1/jobs/{job_id}/retry").json()["state"] == "available"
    (job,) = claim(client)
    assert job["attempt"] == 2
    refused(client.post(f"/v1/jobs/{job_id}/retry"), 409, "job_running")
    end(client, job, "complete")
    taken = add(client, "y", unique_key="u")
    assert refused(client.post(f"/v1/jobs/{job_id}/retry"), 409, "unique_key_taken")["job"] == taken


# ── Cancelling ─────────────────────────────────────────────────────────────────────────────────


def test_a_waiting_job_is_cancelled(client: httpx.Client) -> None:
    ids = [add(client, 1), add(client, 2, run_at=in_s(60)), add(client, 3, unique_key="u")]
    for job_id in ids:
        cancelled = client.post(f"/v1/jobs/{job_id}/cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
        assert client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
    assert counts(client) == {"cancelled": 3}
    assert claim(client) == []
    assert add(client, 4, unique_key="u") not in ids


def test_the_worker_of_a_cancelled_job_is_told_at_its_next_heartbeat(client: httpx.Client) -> None:
    job_id = add(client, 1)
    (job,) = claim(client)
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert refused(end(client, job, "extend"), 409, "lease_lost")["state"] == "cancelled"
    refused(end(client, job, "complete"), 409, "lease_lost")
    assert counts(client) == {"cancelled": 1}


def test_a_finished_job_cannot_be_cancelled(client: httpx.Client) -> None:
    job_id = add(client, 1)
    (job,) = claim(client)
    end(client, job, "complete")
    refused(client.post(f"/v1/jobs/{job_id}/cancel"), 409, "job_finished")
    assert client.post("/v1/jobs/unknown/cancel").status_code == 404


# ── Concurrency keys, rates, pauses ────────────────────────────────────────────────────────────


def test_one_job_of_a_concurrency_key_runs_at_a_time(client: httpx.Client) -> None:
    for n in range(3):
        add(client, n, concurrency_key="tenant-9")
    add(client, "free")
    jobs = claim(client)
    assert [job["payload"] for job in jobs] == [0, "free"]
    assert claim(client) == []
    assert counts(client) == {"available": 2, "running": 2}
    end(client, jobs[0], "complete")
    (job,) = claim(client)
    assert job["payload"] == 1
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
    (job,) = claim(client, wait_ms=1000)
    assert job["payload"] == 2
    assert end(client, job, "fail", error="", retry_in_s=0).json()["state"] == "available"
    assert [job["payload"] for job in claim(client)] == [2]


def test_a_concurrency_limit_lets_so_many_run(client: httpx.Client) -> None:
    for n in range(6):
        add(client, n, concurrency_key="k", concurrency_limit=2)
    jobs = claim(client)
    assert [job["payload"] for job in jobs] == [0, 1]
    waiting = add(client, "behind")
    assert client.post(f"/v1/jobs/{waiting}/cancel").json()["state"] == "cancelled"
    end(client, jobs[1], "complete")
    end(client, jobs[0], "complete")
    assert [job["payload"] for job in claim(client)] == [2, 3]


def test_a_concurrency_key_is_free_again_when_a_lease_ends(client: httpx.Client) -> None:
    add(client, "dies", concurrency_key="k", max_attempts=1)
    add(client, "next", concurrency_key="k")
    assert len(claim(client, lease_s=0.2)) == 1
    assert [job["payload"] for job in claim(client, wait_ms=5000)] == ["next"]


def test_a_blocked_job_can_be_cancelled(client: httpx.Client) -> None:
    add(client, "runs", concurrency_key="k")
    blocked = add(client, "blocked", concurrency_key="k")
    (job,) = claim(client)
    assert look(client, blocked)["state"] == "available"
    client.post(f"/v1/jobs/{blocked}/cancel")
    end(client, job, "complete")
    assert claim(client) == []
    assert counts(client) == {"cancelled": 1, "completed": 1}


def test_a_cancelled_job_lets_the_next_of_its_concurrency_key_go(client: httpx.Client) -> None:
    ids = [add(client, n, concurrency_key="k") for n in range(3)]
    (job,) = claim(client)
    end(client, job, "complete")
    client.post(f"/v1/jobs/{ids[1]}/cancel")
    assert [job["id"] for job in claim(client)] == [ids[2]]


def test_a_rate_lets_so_many_jobs_go(client: httpx.Client) -> None:
    put = client.put(Q, json={"rate": {"count": 3, "per_s": 1000}})
    assert put.status_code == 201
    client.post(f"{Q}/jobs", json=[{"payload": n} for n in range(5)])
    assert [job["payload"] for job in claim(client, limit=2)] == [0, 1]
    assert [job["payload"] for job in claim(client)] == [2]
    assert claim(client) == []
    assert client.put(Q, json={"rate": {"count": 1, "per_s": 0.2}}).status_code == 200
    assert [job["payload"] for job in claim(client)] == [3]
    assert [job["payload"] for job in claim(client, wait_ms=5000)] == [4]
    assert client.put(Q, json={}).json()["rate"] is None


def test_a_paused_queue_gives_nothing_until_it_is_resumed(client: httpx.Client) -> None:
    add(client, 1)
    assert client.post(f"{Q}/pause").json()["paused"] is True
    assert claim(client) == []
    add(client, 2)
    got: list[Any] = []
    worker = threading.Thread(target=lambda: got.extend(claim(client, wait_ms=20_000)))
    worker.start()
    assert client.post(f"{Q}/resume").json()["paused"] is False
    worker.join()
    assert [job["payload"] for job in got] == [1, 2]
    assert client.post("/v1/queues/none/pause").status_code == 404


# ── Waiting ────────────────────────────────────────────────────────────────────────────────────


def test_a_waiting_worker_is_woken_by_the_first_job_of_a_new_queue(client: httpx.Client) -> None:
    got: list[Any] = []
    worker = threading.Thread(target=lambda: got.extend(claim(client, wait_ms=30_000)))
    worker.start()
    time.sleep(0.1)
    add(client, "x")
    worker.join(10)
    assert not worker.is_alive()
    assert [job["payload"] for job in got] == ["x"]


def test_each_of_several_jobs_wakes_a_worker(client: httpx.Client) -> None:
    got: list[Any] = []
    workers = [
        threading.Thread(target=lambda: got.extend(claim(client, limit=1, wait_ms=30_000)))
        for _ in range(5)
    ]
    for worker in workers:
        worker.start()
    time.sleep(0.1)
    client.post(f"{Q}/jobs", json=[{"payload": n} for n in range(5)])
    for worker in workers:
        worker.join(10)
    assert sorted(job["payload"] for job in got) == [0, 1, 2, 3, 4]


def test_a_worker_that_went_while_it_waited_is_given_nothing(tenant: Tenant) -> None:
    with tenant.server.client(tenant.key) as gone, pytest.raises(httpx.ReadTimeout):
        gone.post(f"{Q}/claim", json={"worker": "gone", "wait_ms": 60_000}, timeout=0.3)
    time.sleep(0.2)
    add(tenant.client, "x")
    assert [job["payload"] for job in claim(tenant.client, wait_ms=2000)] == ["x"]


# ── Looking ────────────────────────────────────────────────────────────────────────────────────


def test_jobs_are_listed_by_state_a_page_at_a_time(client: httpx.Client) -> None:
    for n in range(4):
        add(client, n)
    add(client, "later", run_at=in_s(600))
    (done, failed, held) = claim(client, limit=3)
    end(client, done, "complete")
    end(client, failed, "fail", error="x")
    found = {}
    for state in ("scheduled", "available", "running", "retryable", "completed", "cancelled"):
        page = client.get(f"{Q}/jobs", params={"state": state}).json()
        found[state] = [job["payload"] for job in page["data"]]
        assert {job["state"] for job in page["data"]} <= {state}
    assert found == {
        "scheduled": ["later"],
        "available": [3],
        "running": [held["payload"]],
        "retryable": [failed["payload"]],
        "completed": [done["payload"]],
        "cancelled": [],
    }
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 2}
    while True:
        page = client.get(f"{Q}/jobs", params=params).json()
        seen += [job["id"] for job in page["data"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert len(seen) == len(set(seen)) == 5
    refused(client.get(f"{Q}/jobs", params={"state": "lost"}), 422, "invalid")
    assert client.get("/v1/queues/none/jobs").status_code == 404


def test_queues_are_listed_with_their_counts(client: httpx.Client) -> None:
    for name in ("b", "a", "c"):
        add(client, 1, queue=f"/v1/queues/{name}")
    page = client.get("/v1/queues", params={"limit": 2}).json()
    assert [queue["name"] for queue in page["data"]] == ["a", "b"]
    assert page["data"][0]["counts"]["available"] == 1
    params = {"limit": 2, "cursor": page["next_cursor"]}
    rest = client.get("/v1/queues", params=params).json()
    assert [queue["name"] for queue in rest["data"]] == ["c"]


def test_finished_jobs_go_after_their_queues_retention(engine: Engine) -> None:
    with running_server(engine.data, **engine.settings) as server, Tenant(server) as tenant:
        tenant.client.put(Q, json={"retention_s": 0})
        job_id = add(tenant.client, 1)
        kept = add(tenant.client, 1, queue="/v1/queues/kept")
        for queue in (Q, "/v1/queues/kept"):
            (job,) = claim(tenant.client, queue=queue)
            end(tenant.client, job, "complete")
    # What is over goes at the start, and every minute.
    running = running_server(engine.data, **engine.settings)
    with running as server, server.client(tenant.key) as again:
        eventually(lambda: again.get(f"/v1/jobs/{job_id}").status_code == 404, "it goes")
        assert again.get(f"/v1/jobs/{kept}").json()["state"] == "completed"
        assert again.get(Q).json()["counts"]["completed"] == 0
