"""Queues and schedules move between SQLite and PostgreSQL: nothing is lost, nothing comes twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.postgres_server import PostgresServer
from tests.server_process import ServerProcess, Tenant, monolite, running_server

Q = "/v1/queues/q"
LATER = "2100-01-01T00:00:00Z"


def fill(client: httpx.Client) -> None:
    """Jobs in each state, with what producers may say of them, and schedules."""

    def add(payload: Any, **fields: Any) -> None:
        assert client.post(f"{Q}/jobs", json={"payload": payload, **fields}).status_code == 201

    def claim() -> dict[str, Any]:
        (job,) = client.post(f"{Q}/claim", json={"worker": "w", "limit": 1}).json()["jobs"]
        found: dict[str, Any] = job
        return found

    def end(verb: str, **fields: Any) -> None:
        job = claim()
        path = f"/v1/jobs/{job['id']}/{verb}"
        assert client.post(path, json={"token": job["token"], **fields}).status_code == 200

    add("completed")
    end("complete", result={"n": 1})
    add("retryable", unique_key="r")
    end("fail", error="no", retry_in_s=3600)
    add("discarded", max_attempts=1)
    end("fail", error="never")
    add("cancelled")
    (job,) = client.get(f"{Q}/jobs", params={"state": "available"}).json()["data"]
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
    add("running", priority=9)
    claim()
    add("scheduled", run_at=LATER, unique_key="s", timeout_s=None)
    add("limited", concurrency_key="k", concurrency_limit=2, timeout_s=7)
    answer = client.post(f"{Q}/jobs", json=[{"payload": n, "priority": n % 3} for n in range(500)])
    assert answer.status_code == 201
    assert client.put(Q, json={"rate": {"count": 1000, "per_s": 60}}).is_success
    given = {"cron": "0 7 * * MON-FRI", "timezone": "Europe/Berlin", "queue": "q", "payload": 1}
    assert client.put("/v1/schedules/sales", json=given).status_code == 201
    assert client.put("/v1/schedules/off", json={**given, "paused": True}).status_code == 201


def everything(client: httpx.Client) -> tuple[list[Any], Any, Any]:
    """All jobs, schedules and queues, as far as they are the same in a copy."""
    jobs: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = client.get(f"{Q}/jobs", params={"limit": "200", **cursor}).json()
        jobs += page["data"]
        if page.get("next_cursor") is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    for job in jobs:
        if job["state"] == "running":  # its worker holds it where it came from
            job.update(state="available", attempt=job["attempt"] - 1)
        job.pop("worker", None)
        job.pop("lease_expires_at", None)
    schedules = client.get("/v1/schedules").json()["data"]
    (queue,) = client.get("/v1/queues").json()["data"]
    counts = queue["counts"]
    counts["available"] += counts.pop("running")
    return sorted(jobs, key=lambda job: str(job["id"])), schedules, {**queue, "counts": counts}


def move(name: str, there: ServerProcess, exported: bytes) -> str:
    with there.client(there.operator_key) as operator:
        headers = {"Content-Type": "application/x-ndjson"}
        answer = operator.post(f"/v1/tenants/{name}/import", content=exported, headers=headers)
    assert answer.status_code == 201, answer.text
    key: str = answer.json()["key"]
    return key


def export(server: ServerProcess, name: str) -> bytes:
    done = monolite("tenant", "export", name, "--data", server.data)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_queue_moves_to_postgresql_and_back_with_all_its_jobs(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.new_database()
    with (
        running_server(tmp_path / "a") as first,
        running_server(tmp_path / "b", MONOLITE_DATABASE_URL=url) as second,
        running_server(tmp_path / "c") as third,
        Tenant(first) as tenant,
    ):
        fill(tenant.client)
        before = everything(tenant.client)
        with second.client(move("moved", second, export(first, tenant.name))) as there:
            assert everything(there) == before
            with third.client(move("back", third, export(second, "moved"))) as back:
                assert everything(back) == before
                # What has a unique key still has it; what was live is done, each once, in order.
                again = back.post(f"{Q}/jobs", json={"payload": 1, "unique_key": "s"})
                assert again.status_code == 200
                done: list[str] = []
                asked = {"worker": "w", "limit": 100}
                while jobs := back.post(f"{Q}/claim", json=asked).json()["jobs"]:
                    held = [{"id": job["id"], "token": job["token"]} for job in jobs]
                    assert back.post("/v1/jobs/complete", json={"jobs": held}).is_success
                    done += [job["id"] for job in jobs]
                assert len(done) == len(set(done)) == 502
                assert back.get(f"/v1/jobs/{done[0]}").json()["payload"] == "running"


def emptied(client: httpx.Client) -> list[str]:
    """The ids of all that can be claimed, completed."""
    done: list[str] = []
    while jobs := client.post(f"{Q}/claim", json={"worker": "w", "limit": 100}).json()["jobs"]:
        held = [{"id": job["id"], "token": job["token"]} for job in jobs]
        assert client.post("/v1/jobs/complete", json={"jobs": held}).is_success
        done += [job["id"] for job in jobs]
    return done


def test_one_command_moves_a_live_queue_to_postgresql_and_back(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url, first, second = postgres.new_database(), tmp_path / "a", tmp_path / "b"
    with running_server(first) as server, Tenant(server) as tenant:
        fill(tenant.client)
        before = everything(tenant.client)
        name = tenant.name
        move = ("migrate", "--tenant", name, "--data", first, "--to", second)
        refused = monolite(*move, "--to-database", url)
        assert refused.returncode != 0
        assert b"stop it" in refused.stderr
    # There, where no server runs.
    moved = monolite(*move, "--to-database", url)
    assert moved.returncode == 0, moved.stderr
    assert b"Moved and compared" in moved.stderr
    assert (first / f"{name}.ndjson").stat().st_size > 0
    with (
        running_server(second, MONOLITE_DATABASE_URL=url) as there,
        there.client(moved.stdout.decode().strip()) as client,
    ):
        assert everything(client) == before
    assert name.encode() not in monolite("tenant", "list", "--data", first).stdout
    # And back, to one that serves.
    with running_server(first) as server:
        back = monolite(
            *("migrate", "--tenant", name, "--data", second, "--to", first),
            MONOLITE_DATABASE_URL=url,
        )
        assert back.returncode == 0, back.stderr
        with server.client(back.stdout.decode().strip()) as client:
            assert everything(client) == before
            done = emptied(client)
            assert len(done) == len(set(done)) == 502


def test_a_move_that_can_not_be_made_leaves_all_as_it_was(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert monolite("tenant", "create", "acme", "--data", first).returncode == 0
    move = ("migrate", "--tenant", "acme", "--data", first)
    for arguments, why in (
        ((*move, "--to", first), b"already"),
        (move, b"go together"),
        ((*move, "--to", second, "--streams", "redis://127.0.0.1:1/0"), b"not both"),
        (("migrate", "--tenant", "other", "--data", first, "--to", second), b"no tenant"),
    ):
        done = monolite(*arguments)
        assert (done.returncode != 0, done.stdout) == (True, b""), why
        assert why in done.stderr
    assert monolite("tenant", "create", "acme", "--data", second).returncode == 0
    taken = monolite(*move, "--to", second)
    assert taken.returncode != 0
    assert b"acme" in monolite("tenant", "list", "--data", first).stdout
