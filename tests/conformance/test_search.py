"""Semantic search over HTTP."""

from __future__ import annotations

import json
import threading

import httpx
import pytest

from tests.server_process import ServerProcess, Tenant

INDEX = "/v1/indexes/help"
DOCUMENTS = f"{INDEX}/documents"
FAQ = [
    {"id": "reset", "text": "How to reset a forgotten password", "metadata": {"area": "account"}},
    {"id": "invoice", "text": "Download your invoices as PDF", "metadata": {"area": "billing"}},
    {"id": "refund", "text": "Refunds are paid within ten days", "metadata": {"area": "billing"}},
    {"id": "export", "text": "Export all of your data as JSON", "metadata": {"area": "account"}},
]


@pytest.fixture
def filled(client: httpx.Client) -> httpx.Client:
    answer = client.post(DOCUMENTS, json=FAQ)
    assert answer.status_code == 200, answer.text
    assert answer.json()["indexed"] == 4
    return client


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def search(client: httpx.Client, query: str | None = None, **rest: object) -> httpx.Response:
    return client.post(f"{INDEX}/search", json={"query": query, **rest})


def test_meaning_is_found_without_a_common_word(filled: httpx.Client) -> None:
    answer = search(filled, "I can't log in any more", k=2)
    assert ids(answer)[0] == "reset"
    first = answer.json()["hits"][0]
    assert first["text"] == FAQ[0]["text"]
    assert first["metadata"] == {"area": "account"}
    assert 0 < first["score"] <= 1
    took = answer.json()["took_ms"]
    assert set(took) == {"tokenize", "embed", "scan", "total"}


def test_hits_are_best_first_and_k_at_most(filled: httpx.Client) -> None:
    answer = search(filled, "money back", k=3)
    scores = [hit["score"] for hit in answer.json()["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert ids(answer)[0] == "refund"
    assert len(scores) == 3
    assert len(ids(search(filled, "money back", k=1000))) == 4


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"area": "billing"}, {"invoice", "refund"}),
        ({"area": {"neq": "billing"}}, {"reset", "export"}),
        ({"area": ["billing", "account"]}, {"reset", "invoice", "refund", "export"}),
        ({"area": "none"}, set()),
    ],
)
@pytest.mark.parametrize("mode", ["semantic", "keyword", "hybrid"])
def test_filter_holds_before_anything_is_ranked(
    filled: httpx.Client, filter: dict, expected: set[str], mode: str
) -> None:
    answer = search(filled, "password invoices refunds data", k=4, mode=mode, filter=filter)
    assert set(ids(answer)) == expected


def test_keyword_finds_words_and_hybrid_both(filled: httpx.Client) -> None:
    assert ids(search(filled, "PDF", mode="keyword")) == ["invoice"]
    assert ids(search(filled, "pdf", mode="hybrid"))[0] == "invoice"
    assert ids(search(filled, 'unknown" OR *', mode="keyword")) == []


def test_upsert_replaces_and_delete_removes(filled: httpx.Client) -> None:
    filled.post(DOCUMENTS, json={"id": "reset", "text": "Bananas are yellow"})
    assert ids(search(filled, "yellow fruit", k=1)) == ["reset"]
    assert ids(search(filled, "forgotten", mode="keyword")) == []
    assert filled.delete(f"{DOCUMENTS}/reset").status_code == 204
    assert "reset" not in ids(search(filled, "yellow fruit"))
    assert filled.get(f"{DOCUMENTS}/reset").status_code == 404
    assert filled.delete(f"{DOCUMENTS}/reset").status_code == 404
    assert filled.get(INDEX).json()["documents"] == 3


def test_document_is_shown_as_it_lies(filled: httpx.Client) -> None:
    shown = filled.get(f"{DOCUMENTS}/refund").json()
    assert shown["text"] == FAQ[2]["text"]
    assert shown["metadata"] == FAQ[2]["metadata"]
    assert shown["truncated"] is False
    assert sum(x * x for x in shown["vector"]) == pytest.approx(1, abs=1e-5)
    again = search(filled, vector=shown["vector"], k=1).json()["hits"][0]
    assert again["id"] == "refund"
    assert again["score"] == pytest.approx(1, abs=1e-4)


def test_own_vectors_of_any_length(client: httpx.Client) -> None:
    documents = [{"id": f"v{i}", "vector": [i, 1, 0]} for i in range(5)]
    assert client.post(DOCUMENTS, json=documents).status_code == 200
    assert ids(search(client, vector=[100, 1, 0], k=2)) == ["v4", "v3"]
    assert ids(search(client, vector=[1e300, 1e299, 1e-300], k=1)) == ["v4"]
    wrong = client.post(DOCUMENTS, json={"id": "w", "vector": [1, 2]})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "wrong_dimensions")
    text = search(client, "words")
    assert (text.status_code, text.json()["code"]) == (422, "wrong_dimensions")


def test_index_that_never_was_is_not_found(client: httpx.Client) -> None:
    assert search(client, "x").status_code == 404
    assert client.get(INDEX).status_code == 404
    assert client.delete(INDEX).status_code == 404
    assert client.get(f"{DOCUMENTS}/x").status_code == 404


def test_deleted_index_is_gone_and_may_come_again(filled: httpx.Client) -> None:
    assert filled.delete(INDEX).status_code == 204
    assert search(filled, "x").status_code == 404
    filled.post(DOCUMENTS, json={"id": "new", "text": "Only this"})
    assert ids(search(filled, "anything")) == ["new"]


def test_put_configures_and_a_filled_index_keeps_its_model(filled: httpx.Client) -> None:
    assert filled.put("/v1/indexes/other", json={}).status_code == 201
    assert filled.put("/v1/indexes/other", json={}).status_code == 200
    unknown = filled.put("/v1/indexes/third", json={"model": "none"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_model")
    source = {"collection": "c", "text": ["title"]}
    changed = filled.put(INDEX, json={"source": source})
    assert (changed.status_code, changed.json()["code"]) == (409, "index_not_empty")
    names = [index["name"] for index in filled.get("/v1/indexes").json()["data"]]
    assert names == ["help", "other"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"id": "a"}, "#/text"),
        ({"id": "a", "text": "  "}, "#/text"),
        ({"id": "../a", "text": "x"}, "#/id"),
        ({"id": "a", "vector": []}, "#/vector"),
        ({"id": "a", "vector": [0, 0]}, "#/vector"),
        ([{"id": "a", "text": "x"}, {"id": "a", "text": "y"}], "#/1/id"),
        ({"id": "a", "text": "x" * 1_000_001}, "#/text"),
        ({"id": "a", "text": "x", "metadata": {"m": "x" * 70_000}}, "#/metadata"),
        ({"id": "a", "text": "x", "metadata": {"m": [{"\x00": 1}]}}, "#/metadata"),
        ({"id": "a", "vector": [1, None]}, "#/vector/1"),
    ],
)
def test_bad_document_is_refused_and_stores_nothing(
    client: httpx.Client, body: object, pointer: str
) -> None:
    answer = client.post(DOCUMENTS, json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert client.get(INDEX).status_code == 404


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/query"),
        ({"query": " "}, "#/query"),
        ({"query": "x", "k": 0}, "#/k"),
        ({"query": "x", "k": 10**9}, "#/k"),
        ({"query": "x" * 10_001}, "#/query"),
        ({"query": "x", "filter": {"none": 1}}, "#/filter/none"),
        ({"query": "x", "filter": {"area": {"like": "b"}}}, "#/filter/area/like"),
        ({"query": "x", "filter": {"area": {}}}, "#/filter/area"),
        ({"query": "x", "filter": {"area": [[]]}}, "#/filter/area"),
        ({"query": "x", "filter": {"area": "\x00"}}, "#/filter/area"),
        ({"query": "x", "filter": {"area": {"gt": None}}}, "#/filter/area/gt"),
        ({"query": "x", "filter": {"a..b": 1}}, "#/filter/a..b"),
        ({"query": "x", "k": -1}, "#/k"),
        ({"vector": [1, 2]}, "#/vector"),
        ({"query": "...", "mode": "keyword"}, "#/query"),
        ({"query": "x", "vector": [1], "mode": "keyword"}, "#/vector"),
        ({"vector": [0] * 384}, "#/vector"),
    ],
)
def test_bad_search_is_refused_with_a_pointer(
    filled: httpx.Client, body: dict, pointer: str
) -> None:
    answer = filled.post(f"{INDEX}/search", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_long_text_is_cut_and_says_so(client: httpx.Client) -> None:
    answer = client.post(DOCUMENTS, json={"id": "long", "text": "word " * 199_000})
    assert answer.json()["truncated"] == ["long"]
    assert client.get(f"{DOCUMENTS}/long").json()["truncated"] is True
    assert search(client, "word " * 1000, k=1).json()["truncated"] is True


def test_control_characters_are_text(client: httpx.Client) -> None:
    text = "a\x00b\x07c\u202e \U0001f600"
    assert client.post(DOCUMENTS, json={"id": "odd", "text": text}).status_code == 200
    assert client.get(f"{DOCUMENTS}/odd").json()["text"] == text


def test_lines_are_stored_and_fail_alone(client: httpx.Client) -> None:
    lines = [json.dumps({"id": f"n{i}", "text": f"number {i}"}) for i in range(150)]
    lines[3] = "{"
    lines[7] = '{"id":"n7"}'
    headers = {"content-type": "application/x-ndjson"}
    answer = client.post(DOCUMENTS, content="\n".join(lines), headers=headers).json()
    assert answer["indexed"] == 148
    assert [failure["line"] for failure in answer["failed"]] == [4, 8]
    assert client.get(INDEX).json()["documents"] == 148


def test_idempotent_upsert_is_replayed(client: httpx.Client) -> None:
    body = {"id": "once", "text": "once"}
    headers = {"idempotency-key": "k1"}
    first = client.post(DOCUMENTS, json=body, headers=headers)
    second = client.post(DOCUMENTS, json=body, headers=headers)
    assert first.json()["indexed"] == second.json()["indexed"] == 1
    assert second.headers["idempotency-replayed"] == "true"


def test_scores_of_words_are_the_tenants_own(client: httpx.Client, other: httpx.Client) -> None:
    for one in FAQ:
        client.post(DOCUMENTS, json=one)
    before = search(client, "password data", mode="keyword").json()["hits"]
    lines = "\n".join(
        json.dumps({"id": f"n{i}", "vector": [1, 2], "text": f"password {i}"}) for i in range(3000)
    )
    headers = {"content-type": "application/x-ndjson"}
    assert other.post(DOCUMENTS, content=lines, headers=headers).json()["indexed"] == 3000
    assert search(client, "password data", mode="keyword").json()["hits"] == before
    assert ids(search(client, "password")) != ids(search(other, vector=[1, 2]))


def test_numbers_that_json_has_not_are_refused(client: httpx.Client) -> None:
    headers = {"content-type": "application/json"}
    for body in ('{"id":"a","vector":[NaN]}', '{"id":"a","vector":[1e999]}', '{"id":"\\ud800"}'):
        answer = client.post(DOCUMENTS, content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed")
    assert client.get(INDEX).status_code == 404


def test_deleting_while_searching_finds_old_or_new_and_nothing_broken(
    filled: httpx.Client, server: ServerProcess, tenant: Tenant
) -> None:
    done = threading.Event()

    def churn() -> None:
        with server.client(tenant.key) as own:
            for n in range(40):
                own.delete(f"{DOCUMENTS}/refund")
                own.post(DOCUMENTS, json=FAQ[2])
                own.post(DOCUMENTS, json={"id": "invoice", "text": f"Bananas, {n} of them"})
                own.post(DOCUMENTS, json=FAQ[1])
        done.set()

    writer = threading.Thread(target=churn)
    writer.start()
    while not done.is_set():
        for mode in ("semantic", "keyword", "hybrid"):
            found = ids(search(filled, "refunds, invoices, bananas", mode=mode))
            assert len(found) == len(set(found))
            if mode == "semantic":
                # What is replaced is always there, in the one version or the other.
                assert {"reset", "export", "invoice"} <= set(found)
    writer.join()
    assert set(ids(search(filled, "anything"))) == {one["id"] for one in FAQ}


def test_export_takes_indexes_along(
    filled: httpx.Client, tenant: Tenant, operator: httpx.Client, server: ServerProcess
) -> None:
    before = search(filled, "password data", mode="hybrid").json()["hits"]
    exported = operator.get(f"/v1/tenants/{tenant.name}/export")
    moved = operator.post(
        f"/v1/tenants/{tenant.name}-moved/import",
        content=exported.content,
        headers={"content-type": "application/x-ndjson"},
    )
    assert moved.status_code == 201, moved.text
    with server.client(moved.json()["key"]) as client:
        assert search(client, "password data", mode="hybrid").json()["hits"] == before
        assert client.get(INDEX).json()["documents"] == 4
