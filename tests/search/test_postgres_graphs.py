"""PostgreSQL's own: graphs of large indexes, several servers, and a database without pgvector."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np

from tests.eventually import eventually
from tests.postgres_server import PostgresServer
from tests.server_process import Tenant, running_server

INDEX = "/v1/indexes/points"
LINES = {"content-type": "application/x-ndjson"}
SOURCE = {"source": {"collection": "articles", "text": ["title"]}}
COUNT, WIDTH = 20_500, 16


def graphs(postgres: PostgresServer, url: str) -> list[str]:
    rows = postgres.execute(
        "SELECT relname FROM pg_class WHERE relname LIKE 'search_vectors_g%'", url
    )
    return [str(name) for (name,) in rows]


def test_large_index_has_a_graph_and_loses_it(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.new_database()
    rng = np.random.default_rng(3)
    points = rng.normal(size=(COUNT, WIDTH)).round(4)
    with running_server(tmp_path, MONOLITE_DATABASE_URL=url) as server, Tenant(server) as tenant:
        client = tenant.client
        lines = (
            json.dumps({"id": f"p{i}", "vector": point, "metadata": {"even": i % 2 == 0}}) + "\n"
            for i, point in enumerate(points.tolist())
        )
        answer = client.post(f"{INDEX}/documents", content="".join(lines), headers=LINES)
        assert answer.json()["indexed"] == COUNT, answer.text
        assert client.get(INDEX).json()["scan"] == "exact"
        # Upkeep looks again by itself; another index's definition makes it look now.
        client.put("/v1/indexes/other", json={})
        eventually(lambda: client.get(INDEX).json()["scan"] == "graph", "a graph is built")
        shown = client.get(INDEX).json()
        assert shown["recall"]["value"] >= 0.9
        query = points[77].tolist()

        def found(**rest: object) -> list[str]:
            answer = client.post(f"{INDEX}/search", json={"vector": query, "k": 10, **rest})
            assert answer.status_code == 200, answer.text
            return [hit["id"] for hit in answer.json()["hits"]]

        exact = found(exact=True)
        assert found()[0] == exact[0] == "p77"
        assert len(set(found()) & set(exact)) >= 8
        assert all(int(name[1:]) % 2 == 0 for name in found(filter={"even": True}))
        for name in exact[:5]:
            client.delete(f"{INDEX}/documents/{name}")
        assert not set(found()) & set(exact[:5])
        assert graphs(postgres, url)
        client.delete(INDEX)
        eventually(lambda: not graphs(postgres, url), "the graph goes with its index")


def test_another_server_follows_when_the_first_is_gone(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    url = postgres.new_database()
    settings = {"MONOLITE_DATABASE_URL": url}
    with (
        running_server(tmp_path / "one", **settings) as one,
        running_server(tmp_path / "two", **settings, **secret_of(tmp_path / "one")) as two,
        Tenant(one) as tenant,
        two.client(tenant.key) as other,
    ):
        other.put("/v1/indexes/articles", json=SOURCE)
        write(tenant.client, 0)
        for client in (tenant.client, other):
            eventually(lambda client=client: titles(client) == {"title 0"}, "it is followed")
        one.process.kill()
        one.process.wait()
        write(other, 1)
        eventually(lambda: titles(other) == {"title 0", "title 1"}, "the other server goes on")


def secret_of(data: Path) -> dict[str, str]:
    return {"MONOLITE_ROOT_SECRET": (data / "root.secret").read_text().strip()}


def write(client: httpx.Client, number: int) -> None:
    path = f"/v1/collections/articles/documents/a{number}"
    assert client.put(path, json={"title": f"title {number}"}).status_code == 201


def titles(client: httpx.Client) -> set[str]:
    answer = client.post("/v1/indexes/articles/search", json={"query": "title"})
    return {hit["text"] for hit in answer.json()["hits"]}


def test_without_pgvector_the_answer_says_what_to_do(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    # Whoever may not create the extension is as one whose database has none.
    url = postgres.new_database()
    name = url.rpartition("/")[2]
    postgres.execute("CREATE ROLE modest LOGIN")
    postgres.execute(f"GRANT CREATE ON DATABASE {name} TO modest")
    theirs = url.replace("postgres@", "modest@")
    with (
        running_server(tmp_path, MONOLITE_DATABASE_URL=theirs) as server,
        Tenant(server) as tenant,
    ):
        answer = tenant.client.post(f"{INDEX}/documents", json={"id": "a", "text": "x"})
        assert (answer.status_code, answer.json()["code"]) == (503, "search_unavailable")
        assert tenant.client.get("/v1/indexes").json()["data"] == []
        assert tenant.client.put("/v1/collections/c/documents/a", json={}).status_code == 201
