"""Indexes that follow a collection."""

from __future__ import annotations

import threading

import httpx
import pytest

from tests.conformance.engine import Engine
from tests.eventually import eventually
from tests.server_process import ServerProcess, running_server

INDEX = "/v1/indexes/articles"
C = "/v1/collections/articles/documents"
SOURCE = {
    "source": {"collection": "articles", "text": ["title", "body.text"], "metadata": ["lang"]}
}


def ids(client: httpx.Client, query: str, **rest: object) -> list[str]:
    answer = client.post(f"{INDEX}/search", json={"query": query, "k": 100, **rest})
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def test_what_was_there_and_what_comes_is_found_at_once(client: httpx.Client) -> None:
    client.put(
        f"{C}/a", json={"title": "Passwords", "body": {"text": "How to reset"}, "lang": "en"}
    )
    assert client.put(INDEX, json=SOURCE).status_code == 201
    assert ids(client, "reset my password") == ["a"]
    client.put(f"{C}/b", json={"title": "Bananas are yellow", "lang": "de"})
    assert ids(client, "yellow fruit")[0] == "b"
    assert ids(client, "anything", filter={"lang": "de"}) == ["b"]
    client.patch(f"{C}/b", json={"title": "Invoices as PDF"})
    assert ids(client, "PDF", mode="keyword") == ["b"]
    assert ids(client, "yellow", mode="keyword") == []
    client.delete(f"{C}/a")
    assert ids(client, "reset my password") == ["b"]
    client.patch(f"{C}/b", json={"title": None})
    assert ids(client, "anything") == []


def test_documents_come_from_the_collection_alone(client: httpx.Client) -> None:
    client.put(INDEX, json=SOURCE)
    answer = client.post(f"{INDEX}/documents", json={"id": "x", "text": "x"})
    assert (answer.status_code, answer.json()["code"]) == (409, "index_follows_collection")


def test_collection_that_comes_later_is_followed(client: httpx.Client) -> None:
    client.put(INDEX, json=SOURCE)
    assert ids(client, "x") == []
    client.put(f"{C}/late", json={"title": "Late"})
    eventually(lambda: ids(client, "late") == ["late"], "the new collection is followed")


def test_deleted_collection_empties_the_index(client: httpx.Client) -> None:
    client.put(f"{C}/a", json={"title": "Here"})
    client.put(INDEX, json=SOURCE)
    assert ids(client, "here") == ["a"]
    client.delete("/v1/collections/articles")
    eventually(lambda: ids(client, "here") == [], "the index is emptied")
    client.put(f"{C}/b", json={"title": "Again"})
    eventually(lambda: ids(client, "again") == ["b"], "the next one is followed")


def test_concurrent_writers_lead_to_the_documents_as_they_are(client: httpx.Client) -> None:
    client.put(INDEX, json=SOURCE)

    def write(worker: int) -> None:
        for n in range(20):
            client.put(f"{C}/w{worker}-{n % 5}", json={"title": f"worker {worker} wrote {n}"})
            if n % 7 == 6:
                client.delete(f"{C}/w{worker}-{n % 5}")

    writers = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    listed = client.get(f"{C}?limit=100").json()["data"]
    found = client.post(f"{INDEX}/search", json={"query": "worker", "k": 100}).json()["hits"]
    assert {hit["id"]: hit["text"] for hit in found} == {
        document["id"]: document["data"]["title"] for document in listed
    }


def test_killed_server_goes_on_where_it_was(engine: Engine) -> None:
    key = ""
    for session in range(3):
        with running_server(engine.data, **engine.settings) as server:
            if not key:
                key = made(server)
            with server.client(key) as client:
                if session == 0:
                    client.put(INDEX, json=SOURCE)
                for n in range(40):
                    client.put(f"{C}/s{session}-{n}", json={"title": f"session {session} {n}"})
                if session == 2:
                    assert len(ids(client, "session")) == 100
                    assert client.get(INDEX).json()["documents"] == 120
            server.process.kill()
            server.process.wait()


def made(server: ServerProcess) -> str:
    with server.client(server.operator_key) as operator:
        return str(operator.post("/v1/tenants", json={"name": "acme"}).json()["key"])


@pytest.mark.parametrize(
    ("source", "pointer"),
    [
        ({"collection": "../x", "text": ["a"]}, "#/source/collection"),
        ({"collection": "c", "text": []}, "#/source/text"),
        ({"collection": "c", "text": ["a..b"]}, "#/source/text/0"),
    ],
)
def test_bad_source_is_refused(client: httpx.Client, source: dict, pointer: str) -> None:
    answer = client.put(INDEX, json={"source": source})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
