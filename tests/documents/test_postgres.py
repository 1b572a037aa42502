"""What only PostgreSQL does: several servers on one database, indexes built CONCURRENTLY."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from monolite.tenancy.secret import RootSecret
from tests.eventually import eventually
from tests.postgres_server import PostgresServer
from tests.server_process import ServerProcess, Tenant, running_server

C = "/v1/collections/orders"
TIER = {"path": "$.config.tier", "type": "integer", "index": True}


def fill(client: httpx.Client, count: int) -> None:
    lines = "\n".join(f'{{"n":{n},"config":{{"tier":{n % 500}}}}}' for n in range(count))
    answer = client.post(
        f"{C}/documents", content=lines, headers={"content-type": "application/x-ndjson"}
    )
    assert answer.json()["inserted"] == count, answer.text


def is_ready(client: httpx.Client) -> bool:
    answer = client.get(f"{C}/indexes")
    # A build that takes its locks may make others wait past their deadline.
    return answer.status_code == 200 and all(i["state"] == "ready" for i in answer.json()["data"])


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.new_database()


@pytest.fixture
def two(url: str, tmp_path: Path) -> Iterator[tuple[ServerProcess, ServerProcess, str]]:
    """Two servers on one database, and a key that both know."""
    shared = {"MONOLITE_DATABASE_URL": url, "MONOLITE_ROOT_SECRET": RootSecret.new().text()}
    with (
        running_server(tmp_path / "one", **shared) as one,
        running_server(tmp_path / "two", **shared) as other,
        Tenant(one) as tenant,
    ):
        yield one, other, tenant.key


def test_what_one_server_writes_the_other_follows(
    two: tuple[ServerProcess, ServerProcess, str],
) -> None:
    one, other, key = two
    with one.client(key) as writer, other.client(key) as reader:
        writer.put(f"{C}/documents/first", json={"n": -1}).raise_for_status()
        begun = threading.Event()
        seen: list[int] = []

        def follow() -> None:
            with reader.stream("GET", f"{C}/changes") as answer:
                lines = answer.iter_lines()
                next(lines)
                begun.set()
                for line in lines:
                    if line.startswith("data: "):
                        seen.append(msgspec.json.decode(line[6:])["data"]["n"])
                    if len(seen) == 20:
                        return

        thread = threading.Thread(target=follow)
        thread.start()
        assert begun.wait(10)
        for n in range(20):
            writer.post(f"{C}/documents", json={"n": n}).raise_for_status()
        thread.join(30)
        assert seen == list(range(20))


def test_a_definition_made_elsewhere_holds_for_the_next_write(
    two: tuple[ServerProcess, ServerProcess, str],
) -> None:
    one, other, key = two
    schema = {"properties": {"n": {"type": "integer"}}}
    with one.client(key) as first, other.client(key) as second:
        assert first.post(f"{C}/documents", json={"n": "a"}).status_code == 201
        assert second.put(C, json={"schema": schema}).status_code == 200
        assert first.post(f"{C}/documents", json={"n": "b"}).status_code == 422
        lines = first.post(
            f"{C}/documents",
            content='{"n":1}\n{"n":"c"}\n',
            headers={"content-type": "application/x-ndjson"},
        ).json()
        assert (lines["inserted"], len(lines["failed"])) == (1, 1)
        assert second.delete(C).status_code == 204
        assert first.get(f"{C}/documents").status_code == 404
        assert first.post(f"{C}/documents", json={"n": "d"}).status_code == 201


def test_writers_of_one_document_on_two_servers_make_one_history(
    two: tuple[ServerProcess, ServerProcess, str],
) -> None:
    one, other, key = two
    failures: list[Any] = []

    def write(server: ServerProcess) -> None:
        with server.client(key) as client:
            for n in range(60):
                made = client.put(f"{C}/documents/same", json={"n": n})
                if made.status_code not in (200, 201):
                    failures.append(made.text)
                if n % 7 == 0:
                    client.delete(f"{C}/documents/same")

    threads = [threading.Thread(target=write, args=(server,)) for server in (one, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with one.client(key) as client:
        client.put(f"{C}/documents/last", json={})
        revision = 0
        with closing(feed(client)) as changes:
            for change in changes:
                if change["id"] == "last":
                    break
                if change["type"] == "deleted":
                    assert change["revision"] == revision
                    revision = 0
                else:
                    assert change["revision"] == revision + 1
                    revision += 1


def feed(client: httpx.Client) -> Iterator[dict[str, Any]]:
    with client.stream("GET", f"{C}/changes", params={"since": "0"}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield msgspec.json.decode(line[6:])


def test_an_index_of_a_filled_table_is_an_expressions_and_the_planner_takes_it(
    url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    with (
        running_server(tmp_path / "data", MONOLITE_DATABASE_URL=url) as server,
        Tenant(server) as tenant,
    ):
        client = tenant.client
        client.put(C, json={"fields": {"early": {**TIER, "path": "$.early", "index": False}}})
        fill(client, 20_000)
        client.put(C, json={"fields": {"tier": TIER}}).raise_for_status()
        stop = threading.Event()
        slowest: list[float] = []

        def write() -> None:
            with server.client(tenant.key) as writer:
                while not stop.is_set():
                    started = time.monotonic()
                    writer.post(f"{C}/documents", json={"config": {"tier": 7}}).raise_for_status()
                    slowest.append(time.monotonic() - started)

        thread = threading.Thread(target=write)
        thread.start()
        eventually(lambda: is_ready(client), "the index is built")
        stop.set()
        thread.join()
        explained = client.get(f"{C}/explain?tier=eq.3").json()
        assert explained["index"] == "tier"
        assert not explained["parses_json_per_row"]
        found = client.get(f"{C}/documents?tier=eq.7&count=exact&limit=1").json()
        assert found["total"] == 40 + len(slowest)
        columns = postgres.execute(
            "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'monolite'"
            " AND table_name = 'documents' AND column_name LIKE 'promoted%'",
            url,
        )
        # `early` came while the table was empty, and went again; `tier` came too late for one.
        assert columns in ([(0,)], [(1,)])
        (listed,) = client.get(f"{C}/indexes").json()["data"]
        assert listed["bytes"] > 20_000 * 8


def test_an_index_cut_short_is_built_anew(
    url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    with (
        running_server(tmp_path / "data", MONOLITE_DATABASE_URL=url) as server,
        Tenant(server) as tenant,
    ):
        key = tenant.key
        fill(tenant.client, 5000)
        tenant.client.put(C, json={"fields": {"tier": TIER}}).raise_for_status()
        eventually(lambda: is_ready(tenant.client), "the index is built")
        server.process.kill()
        server.process.wait()
    ((name,),) = postgres.execute(
        "SELECT indexname FROM pg_indexes WHERE indexname LIKE 'documents_x%'", url
    )
    postgres.execute(
        f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'monolite.{name}'::regclass",
        url,
    )
    postgres.execute("UPDATE monolite.built_indexes SET state = 'building'", url)
    with (
        running_server(tmp_path / "data", MONOLITE_DATABASE_URL=url) as server,
        server.client(key) as client,
    ):
        eventually(lambda: is_ready(client), "the index is built anew")
        assert client.get(f"{C}/documents?tier=eq.3&count=exact").json()["total"] == 10
    (valid,) = postgres.execute(
        f"SELECT indisvalid FROM pg_index WHERE indexrelid = 'monolite.{name}'::regclass", url
    )
    assert valid == (True,)


def test_the_log_of_a_restored_dump_goes_on(
    url: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with running_server(data, MONOLITE_DATABASE_URL=url) as server, Tenant(server) as tenant:
        key = tenant.key
        for n in range(3):
            tenant.client.put(f"{C}/documents/a", json={"n": n})
    # As a dump from a cluster far ahead of this one would come.
    postgres.execute("UPDATE monolite.installation SET value = 'x' WHERE name = 'cluster'", url)
    for table in ("documents", "document_changes"):
        postgres.execute(f"UPDATE monolite.{table} SET xid = '900000000000'", url)
    with running_server(data, MONOLITE_DATABASE_URL=url) as server, server.client(key) as client:
        client.put(f"{C}/documents/a", json={"n": 3})
        with closing(feed(client)) as changes:
            seen = [change["data"]["n"] for change in itertools.islice(changes, 4)]
    assert seen == [0, 1, 2, 3]
