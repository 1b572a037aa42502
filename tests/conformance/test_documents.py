"""A collection of documents end to end: versions, lists, cursors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.server_process import Tenant

DOCUMENTS = "/v1/collections/notes/documents"


def ids(tenant: Tenant, limit: int, path: str = DOCUMENTS) -> list[str]:
    """Every id of a list, read page by page."""
    found: list[str] = []
    cursor = ""
    while True:
        page = tenant.client.get(f"{path}?limit={limit}{cursor}").json()
        assert len(page["data"]) <= limit
        found += [document["id"] for document in page["data"]]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


def make(tenant: Tenant, count: int) -> list[str]:
    return [tenant.client.post(DOCUMENTS, json={"n": n}).json()["id"] for n in range(count)]


def next_cursor(tenant: Tenant, path: str = f"{DOCUMENTS}?limit=1") -> str:
    cursor: str = tenant.client.get(path).json()["next_cursor"]
    assert cursor
    return cursor


def test_a_document_is_made_and_read_back(tenant: Tenant) -> None:
    body: dict[str, Any] = {"title": "Hëllo", "n": [1, 2.5, None, True, {"a": "b"}]}
    made = tenant.client.post(DOCUMENTS, json=body)
    assert made.status_code == 201
    shown = made.json()
    assert shown.keys() == {"id", "data", "created_at", "updated_at", "revision"}
    assert shown["data"] == body
    assert shown["created_at"] == shown["updated_at"]
    assert shown["created_at"].endswith("Z")
    assert made.headers["location"] == f"{DOCUMENTS}/{shown['id']}"
    got = tenant.client.get(made.headers["location"])
    assert got.json() == shown
    assert got.headers["etag"] == made.headers["etag"]


def test_each_change_has_a_new_etag_and_revision(tenant: Tenant) -> None:
    path = f"{DOCUMENTS}/a"
    made = tenant.client.put(path, json={"a": 1, "b": 2})
    replaced = tenant.client.put(path, json={"a": 2, "b": 2})
    patched = tenant.client.patch(path, json={"b": None, "c": {"d": 1}})
    assert (made.status_code, replaced.status_code, patched.status_code) == (201, 200, 200)
    assert [a.json()["revision"] for a in (made, replaced, patched)] == [1, 2, 3]
    assert patched.json()["data"] == {"a": 2, "c": {"d": 1}}
    assert len({a.headers["etag"] for a in (made, replaced, patched)}) == 3


def test_a_document_made_again_under_its_id_has_another_etag(tenant: Tenant) -> None:
    path = f"{DOCUMENTS}/a"
    first = tenant.client.put(path, json={}).headers["etag"]
    tenant.client.delete(path)
    second = tenant.client.put(path, json={})
    assert second.status_code == 201
    assert second.headers["etag"] != first


def test_if_match_lets_only_the_named_version_change(tenant: Tenant) -> None:
    path = f"{DOCUMENTS}/a"
    stale = tenant.client.put(path, json={"n": 1}).headers["etag"]
    etag = tenant.client.put(path, json={"n": 2}).headers["etag"]
    for method in ("PUT", "PATCH", "DELETE"):
        body = None if method == "DELETE" else {"n": 3}
        for header in (stale, f"W/{etag}", '"x"'):
            answer = tenant.client.request(method, path, json=body, headers={"If-Match": header})
            assert answer.status_code == 412, (method, header)
            assert answer.json()["code"] == "precondition_failed"
    assert tenant.client.get(path).json()["data"] == {"n": 2}
    answer = tenant.client.put(path, json={"n": 3}, headers={"If-Match": f'"x", {etag}'})
    assert answer.status_code == 200
    answer = tenant.client.delete(path, headers={"If-Match": answer.headers["etag"]})
    assert answer.status_code == 204


def test_if_match_on_what_does_not_exist_is_412_and_makes_nothing(tenant: Tenant) -> None:
    answer = tenant.client.put(f"{DOCUMENTS}/a", json={}, headers={"If-Match": "*"})
    assert answer.status_code == 412
    assert tenant.client.get("/v1/collections").json()["data"] == []


def test_if_none_match_star_only_creates(tenant: Tenant) -> None:
    path, headers = f"{DOCUMENTS}/a", {"If-None-Match": "*"}
    assert tenant.client.put(path, json={"n": 1}, headers=headers).status_code == 201
    assert tenant.client.put(path, json={"n": 2}, headers=headers).status_code == 412
    assert tenant.client.get(path).json()["data"] == {"n": 1}


def test_of_many_who_create_at_once_one_wins(tenant: Tenant) -> None:
    statuses: list[int] = []

    def create(n: int) -> None:
        with tenant.server.client(tenant.key) as client:
            headers = {"If-None-Match": "*"}
            answer = client.put(f"{DOCUMENTS}/one", json={"n": n}, headers=headers)
            statuses.append(answer.status_code)

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [201] + [412] * 7


def test_a_get_with_a_match_is_304_without_a_body(tenant: Tenant) -> None:
    path = f"{DOCUMENTS}/a"
    etag = tenant.client.put(path, json={}).headers["etag"]
    for header in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        answer = tenant.client.get(path, headers={"If-None-Match": header})
        assert answer.status_code == 304
        assert answer.content == b""
        assert answer.headers["etag"] == etag
    assert tenant.client.get(path, headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize("header", ["x", "1-a", "W/x", '"a', ","])
def test_a_bare_word_as_an_entity_tag_is_400(tenant: Tenant, header: str) -> None:
    tenant.client.put(f"{DOCUMENTS}/a", json={})
    for method, name in (("PUT", "If-Match"), ("PUT", "If-None-Match"), ("GET", "If-None-Match")):
        body = {} if method == "PUT" else None
        answer = tenant.client.request(method, f"{DOCUMENTS}/a", json=body, headers={name: header})
        assert answer.status_code == 400, (method, name)


def test_what_never_existed_is_404(tenant: Tenant) -> None:
    assert tenant.client.get(DOCUMENTS).status_code == 404
    tenant.client.post(DOCUMENTS, json={})
    for method in ("GET", "PATCH", "DELETE"):
        body = {} if method == "PATCH" else None
        answer = tenant.client.request(method, f"{DOCUMENTS}/none", json=body)
        assert answer.status_code == 404


# ── Lists ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
def test_pages_together_are_the_list_in_the_order_of_making(tenant: Tenant, limit: int) -> None:
    made = make(tenant, 7)
    assert ids(tenant, limit) == made


def test_the_last_full_page_has_no_cursor(tenant: Tenant) -> None:
    make(tenant, 2)
    assert tenant.client.get(f"{DOCUMENTS}?limit=2").json()["next_cursor"] is None


def test_a_walk_sees_each_document_once_while_others_are_made_and_removed(tenant: Tenant) -> None:
    made = make(tenant, 20)
    stop = threading.Event()

    def write() -> None:
        with tenant.server.client(tenant.key) as client:
            while not stop.is_set():
                there = client.post(DOCUMENTS, json={}).headers["location"]
                client.delete(there)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(3):
            walked = ids(tenant, 3)
            assert len(walked) == len(set(walked))
            assert [one for one in walked if one in set(made)] == made
    finally:
        stop.set()
        thread.join()


def test_a_cursor_changed_in_any_character_is_422(tenant: Tenant) -> None:
    make(tenant, 2)
    cursor = next_cursor(tenant)
    for at in range(0, len(cursor) - 1, 5):
        changed = cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :]
        answer = tenant.client.get(DOCUMENTS, params={"cursor": changed})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "?cursor"


def test_anothers_cursor_is_422(new_tenant: Callable[[], Tenant]) -> None:
    owner, other = new_tenant(), new_tenant()
    make(owner, 2)
    make(other, 2)
    answer = other.client.get(DOCUMENTS, params={"cursor": next_cursor(owner)})
    assert answer.status_code == 422


def test_a_cursor_of_another_list_is_422(tenant: Tenant) -> None:
    make(tenant, 2)
    tenant.client.post("/v1/collections/others/documents", json={})
    cursor = next_cursor(tenant)
    for path in ("/v1/collections/others/documents", "/v1/collections", "/v1/keys"):
        assert tenant.client.get(path, params={"cursor": cursor}).status_code == 422
    collections = next_cursor(tenant, "/v1/collections?limit=1")
    assert tenant.client.get(DOCUMENTS, params={"cursor": collections}).status_code == 422


def test_collections_and_keys_page_alike(tenant: Tenant) -> None:
    for n in range(3):
        tenant.client.post(f"/v1/collections/c{n}/documents", json={})
        tenant.key_with("documents:read")
    names: list[str] = []
    cursor = ""
    while cursor is not None:
        page = tenant.client.get("/v1/collections", params={"limit": 2, "cursor": cursor} if cursor
                                 else {"limit": 2}).json()  # fmt: skip
        names += [c["name"] for c in page["data"]]
        cursor = page["next_cursor"]
    assert names == ["c0", "c1", "c2"]
    assert len(ids(tenant, 1, "/v1/keys")) == 4
