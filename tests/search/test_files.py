"""The mapped file: whatever becomes of it, a search finds what the rows hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import httpx
import numpy as np
import pytest

from tests.eventually import eventually
from tests.server_process import Tenant, running_server

INDEX = "/v1/indexes/points"
LINES = {"content-type": "application/x-ndjson"}
COUNT = 700


def put(client: httpx.Client, first: int, count: int = COUNT) -> None:
    rng = np.random.default_rng(first)
    lines = [
        json.dumps({"id": f"p{first + i}", "vector": rng.normal(size=16).tolist()})
        for i in range(count)
    ]
    answer = client.post(f"{INDEX}/documents", content="\n".join(lines), headers=LINES)
    assert answer.json()["indexed"] == count, answer.text


def nearest(client: httpx.Client) -> list[tuple[str, float]]:
    vector = np.random.default_rng(99).normal(size=16).tolist()
    answer = client.post(f"{INDEX}/search", json={"vector": vector, "k": 20})
    assert answer.status_code == 200, answer.text
    return [(hit["id"], hit["score"]) for hit in answer.json()["hits"]]


class Place:
    """A data directory whose server comes and goes."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.key: str | None = None

    @property
    def file(self) -> Path:
        (found,) = (self.data / "search").glob("*.vectors")
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "data")


@contextmanager
def run(place: Place, *, kill: bool = False) -> Iterator[httpx.Client]:
    """A server on the place: its tenant's client. `kill` ends it as a crash would."""
    with running_server(place.data) as server:
        if place.key is None:
            with server.client(server.operator_key) as operator:
                place.key = operator.post("/v1/tenants", json={"name": "acme"}).json()["key"]
        with server.client(place.key) as client:
            yield client
        if kill:
            server.process.kill()
            server.process.wait()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size * 3 // 4)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x10]))


def blank(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(bytes(size))


def other_count(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(24)
        file.write((5).to_bytes(8, "little"))


@pytest.mark.parametrize("damage", [Path.unlink, cut, flip, blank, other_count])
@pytest.mark.parametrize("kill", [False, True])
def test_damaged_file_is_made_again(
    place: Place, damage: Callable[[Path], None], kill: bool
) -> None:
    with run(place, kill=kill) as client:
        put(client, 0)
        client.delete(f"{INDEX}/documents/p5")
        expected = nearest(client)
    damage(place.file)
    with run(place) as client:
        assert nearest(client) == expected
        assert client.get(INDEX).json()["documents"] == COUNT - 1


def test_file_of_another_past_is_dropped(place: Place) -> None:
    with run(place) as client:
        put(client, 0)
        nearest(client)
    database = place.data / "monolite.db"
    past = database.read_bytes()
    with run(place) as client:
        put(client, 5000)
        nearest(client)
        kept = place.file.read_bytes()
    for leftover in place.data.glob("monolite.db-*"):
        leftover.unlink()
    database.write_bytes(past)
    place.file.write_bytes(kept)
    with run(place) as client:
        # The same keys again, with other vectors.
        put(client, 9000)
        found = [name for name, _ in nearest(client)]
        assert not any(name.startswith("p5") and len(name) == 5 for name in found)
        expected = nearest(client)
    place.file.unlink()
    with run(place) as client:
        assert nearest(client) == expected


def test_dead_rows_are_compacted_and_answers_stay(place: Place) -> None:
    with run(place) as client:
        put(client, 0, 3000)
        expected = nearest(client)
        before = place.file.stat().st_ino
        keep = {name for name, _ in expected}
        for i in range(1500):
            if f"p{i}" not in keep:
                client.delete(f"{INDEX}/documents/p{i}")
        assert nearest(client) == expected
        eventually(lambda: place.file.stat().st_ino != before, "the file is made anew beside")
        assert nearest(client) == expected
        put(client, 5000, 300)
        fresh = nearest(client)
    place.file.unlink()
    with run(place) as client:
        assert nearest(client) == fresh


def test_prefiltered_search_finds_what_an_exact_one_does(tenant: Tenant) -> None:
    client = tenant.client
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(50, 64))
    for first in range(0, 24_000, 4000):
        points = centres[rng.integers(0, 50, 4000)] + 0.6 * rng.normal(size=(4000, 64))
        lines = [
            json.dumps({"id": f"p{first + i}", "vector": [round(x, 4) for x in point]})
            for i, point in enumerate(points.tolist())
        ]
        client.post(f"{INDEX}/documents", content="\n".join(lines), headers=LINES)
    shown = client.get(INDEX).json()
    assert shown["documents"] == 24_000
    assert shown["scan"] == "prefiltered"
    assert shown["recall"]["samples"] > 0
    assert shown["recall"]["value"] >= 0.95
    query = (centres[0] + 0.6 * rng.normal(size=64)).tolist()

    def found(**rest: object) -> set[str]:
        answer = client.post(f"{INDEX}/search", json={"vector": query, "k": 10, **rest})
        return {hit["id"] for hit in answer.json()["hits"]}

    assert len(found() & found(exact=True)) >= 9


def rows_of(data: Path, table: str) -> int:
    with closing(apsw.Connection(str(data / "monolite.db"), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_deleted_index_and_tenant_leave_nothing(place: Place) -> None:
    with run(place) as client:
        put(client, 0)
        nearest(client)
        client.put("/v1/indexes/words", json={})
        client.post("/v1/indexes/words/documents", json={"id": "a", "text": "words"})
        client.delete(INDEX)
        eventually(lambda: rows_of(place.data, "search_vectors") == 1, "its rows go")
        eventually(lambda: rows_of(place.data, "search_indexes") == 1, "and itself")
        eventually(lambda: not list((place.data / "search").iterdir()), "its file goes")
    with run(place) as client:
        put(client, 0)
    with running_server(place.data) as server, server.client(server.operator_key) as operator:
        assert operator.delete("/v1/tenants/acme").status_code == 204
    with running_server(place.data):
        for table in ("indexes", "documents", "vectors", "words_docsize", "removals"):
            eventually(
                lambda table=table: rows_of(place.data, f"search_{table}") == 0,
                f"a deleted tenant's search_{table} go",
            )
        assert not list((place.data / "search").iterdir())
