"""What jobs refuse, what tenants see of each other, and what an export brings along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.conformance.test_jobs import Q, add, claim, counts, end, look, refused
from tests.server_process import Tenant


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"priority": 1 << 40}, "#/priority"),
        ({"run_at": "tomorrow"}, "#/run_at"),
        ({"run_at": "2026-01-01T00:00:00"}, "#/run_at"),
        ({"max_attempts": 0}, "#/max_attempts"),
        ({"timeout_s": 0}, "#/timeout_s"),
        ({"unique_key": ""}, "#/unique_key"),
        ({"unique_key": "a\0b"}, "#/unique_key"),
        ({"concurrency_key": "k", "concurrency_limit": 0}, "#/concurrency_limit"),
        ({"concurrency_limit": 2}, "#/concurrency_limit"),
        ({"colour": "red"}, "#"),
    ],
)
def test_a_bad_job_is_refused_by_name(
    client: httpx.Client, fields: dict[str, Any], pointer: str
) -> None:
    answer = client.post(f"{Q}/jobs", json={"payload": 1, **fields})
    assert refused(answer, 422, "invalid")["errors"][0]["pointer"] == pointer
    assert client.get(Q).status_code == 404, "nothing is half written"


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"lease_s": 0}, "#/lease_s"),
        ({"lease_s": 31_536_000}, "#/lease_s"),
        ({"limit": 0}, "#/limit"),
        ({"wait_ms": -1}, "#/wait_ms"),
        ({"worker": ""}, "#/worker"),
    ],
)
def test_a_bad_claim_is_refused_by_name(
    client: httpx.Client, fields: dict[str, Any], pointer: str
) -> None:
    answer = client.post(f"{Q}/claim", json={"worker": "w", **fields})
    assert refused(answer, 422, "invalid")["errors"][0]["pointer"] == pointer


def test_a_payload_of_ten_megabytes_is_refused(client: httpx.Client) -> None:
    answer = client.post(f"{Q}/jobs", json={"payload": "x" * 10_000_000})
    refused(answer, 413, "body_too_large")
    add(client, "x" * 1_000_000)
    (job,) = claim(client)
    refused(end(client, job, "complete", result="x" * 2_000_000), 413, "body_too_large")
    assert end(client, job, "complete").status_code == 200


def test_tenants_have_queues_of_their_own(client: httpx.Client, other: httpx.Client) -> None:
    job_id = add(client, 1)
    assert claim(other) == []
    assert other.get("/v1/queues").json()["data"] == []
    for path in ("", "/cancel", "/retry"):
        method = "POST" if path else "GET"
        assert other.request(method, f"/v1/jobs/{job_id}{path}").status_code == 404
    assert len(claim(client)) == 1


def test_an_export_brings_queues_jobs_and_schedules_along(
    tenant: Tenant, new_tenant: Callable[[], Tenant]
) -> None:
    client = tenant.client
    client.put(Q, json={"rate": {"count": 5}, "retention_s": 77})
    done, running, waiting = (add(client, n, unique_key=f"u{n}") for n in range(3))
    later = add(client, {"later": 1.50}, run_at="2099-01-01T00:00:00Z", concurrency_key="k")
    jobs = claim(client, limit=2)
    end(client, jobs[0], "complete", result={"a": 1.50})
    client.put("/v1/schedules/s", json={"cron": "0 0 1 1 *", "queue": "mail", "payload": [1]})
    with tenant.server.client(tenant.server.operator_key) as operator:
        export = operator.get(f"/v1/tenants/{tenant.name}/export").content
        name = f"{tenant.name}-copy"
        headers = {"Content-Type": "application/x-ndjson"}
        made = operator.post(f"/v1/tenants/{name}/import", content=export, headers=headers)
    assert made.status_code == 201, made.text
    with tenant.server.client(made.json()["key"]) as copy:
        assert counts(copy) == {"completed": 1, "available": 2, "scheduled": 1}
        assert look(copy, done)["result"] == {"a": 1.50}
        again = look(copy, running)
        assert (again["state"], again["attempt"]) == ("available", 0)
        assert look(copy, later)["concurrency_key"] == "k"
        assert copy.get(Q).json()["rate"] == {"count": 5, "per_s": 1.0}
        assert copy.get("/v1/schedules/s").json()["payload"] == [1]
        same = copy.post(f"{Q}/jobs", json={"payload": 0, "unique_key": "u2"})
        assert (same.status_code, same.json()["id"]) == (200, waiting)
        assert {job["id"] for job in claim(copy)} == {running, waiting}
