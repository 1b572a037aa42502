"""Two servers on one PostgreSQL: they share queues, schedules and lines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.test_jobs import add, claim, counts, end, look
from tests.conformance.test_locks import acquire, release, token
from tests.eventually import eventually
from tests.postgres_server import PostgresServer
from tests.server_process import Tenant, running_server


@pytest.fixture
def both(postgres: PostgresServer, tmp_path: Path) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """A client of one tenant at each of two servers."""
    settings = {"MONOLITE_DATABASE_URL": postgres.new_database()}
    with running_server(tmp_path / "a", **settings) as first:
        secret = (tmp_path / "a" / "root.secret").read_text().strip()
        second_settings = {**settings, "MONOLITE_ROOT_SECRET": secret}
        running = running_server(tmp_path / "b", **second_settings)
        with running as second, Tenant(first) as tenant, second.client(tenant.key) as other:
            yield tenant.client, other


def test_a_worker_at_one_server_is_woken_by_a_job_added_at_the_other(
    both: tuple[httpx.Client, httpx.Client],
) -> None:
    here, there = both
    got: list[Any] = []
    worker = threading.Thread(target=lambda: got.extend(claim(there, wait_ms=30_000)))
    worker.start()
    job_id = add(here, "x")
    worker.join(20)
    assert [job["id"] for job in got] == [job_id]
    assert look(here, job_id)["state"] == "running"
    assert end(here, got[0], "complete").status_code == 200
    assert counts(there) == {"completed": 1}


def test_workers_at_both_servers_share_a_queue(both: tuple[httpx.Client, httpx.Client]) -> None:
    both[0].post("/v1/queues/mail/jobs", json=[{"payload": n} for n in range(150)])
    for n in range(6):
        add(both[0], f"one at a time {n}", concurrency_key="k")
    done: list[Any] = []

    def work(client: httpx.Client) -> None:
        while jobs := claim(client, limit=7, wait_ms=500):
            held = [{"id": job["id"], "token": job["token"]} for job in jobs]
            limited = [job for job in jobs if isinstance(job["payload"], str)]
            assert len(limited) <= 1
            answer = client.post("/v1/jobs/complete", json={"jobs": held})
            assert answer.json()["stale"] == []
            done.extend(job["payload"] for job in jobs)

    workers = [threading.Thread(target=work, args=(both[n % 2],)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(done) == len(set(done)) == 156
    assert counts(both[1]) == {"completed": 156}


def test_locks_whose_names_have_one_hash_are_apart(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.new_database()
    # From now on every name has the same hash in this database.
    postgres.execute(
        "DO $do$ BEGIN SET LOCAL allow_system_table_mods = on;"
        " ALTER FUNCTION pg_catalog.hashtextextended(text, bigint) RENAME TO hashed_before;"
        " CREATE FUNCTION pg_catalog.hashtextextended(text, bigint) RETURNS bigint"
        " LANGUAGE sql IMMUTABLE AS 'SELECT 7::bigint'; END $do$",
        url,
    )
    hashes = "SELECT hashtextextended('a', 7), hashtextextended('b', 7)"
    assert tuple(postgres.execute(hashes, url)[0]) == (7, 7)
    with (
        running_server(tmp_path / "a", MONOLITE_DATABASE_URL=url) as server,
        Tenant(server) as tenant,
    ):
        client = tenant.client
        first = token(client, "a", "/v1/locks/n/first")
        second = token(client, "b", "/v1/locks/n/second")
        assert second > first
        waiting = threading.Thread(
            target=token, args=(client, "c", "/v1/locks/n/first"), kwargs={"wait_ms": 30_000}
        )
        waiting.start()
        eventually(lambda: bool(client.get("/v1/locks").json()["data"][0]["waiters"]), "c waits")
        assert token(client, "d", "/v1/locks/n/third") > second
        assert release(client, "b", second, "/v1/locks/n/second").status_code == 204
        assert acquire(client, "b", "/v1/locks/n/first").status_code == 409
        assert release(client, "a", first, "/v1/locks/n/first").status_code == 204
        waiting.join(20)
        shown = {one["key"]: one["owner"] for one in client.get("/v1/locks").json()["data"]}
        assert shown == {"first": "c", "third": "d"}


def test_two_servers_bring_a_tick_once(both: tuple[httpx.Client, httpx.Client]) -> None:
    given = {"cron": "* * * * * *", "queue": "ticks", "payload": 1}
    assert both[0].put("/v1/schedules/s", json=given).status_code == 201

    def runs() -> list[str]:
        answer = both[1].get("/v1/queues/ticks/jobs")
        data = answer.json()["data"] if answer.status_code == 200 else []
        return [job["run_at"] for job in data]

    eventually(lambda: len(runs()) >= 4, "it ticks")
    found = runs()
    assert len(found) == len(set(found))


def test_a_line_goes_through_both_servers(both: tuple[httpx.Client, httpx.Client]) -> None:
    here, there = both
    number = token(here, "holder")
    order: list[str] = []

    def wait(client: httpx.Client, owner: str) -> None:
        got = token(client, owner, wait_ms=30_000)
        order.append(owner)
        assert release(client, owner, got).status_code == 204

    def waiting() -> int:
        (lock,) = here.get("/v1/locks").json()["data"]
        return len(lock["waiters"])

    threads = []
    for n in range(4):
        threads.append(threading.Thread(target=wait, args=(both[n % 2], f"w{n}")))
        threads[-1].start()
        eventually(lambda n=n: waiting() == n + 1, "it stands in line")  # type: ignore[misc]
    assert acquire(there, "late").status_code == 409
    release(here, "holder", number)
    for thread in threads:
        thread.join(30)
    assert order == ["w0", "w1", "w2", "w3"]
