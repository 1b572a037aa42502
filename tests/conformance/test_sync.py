"""The relay's log over HTTP: what is kept, under which number, and what replaces it."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from monolite.sync.frames import END, SNAPSHOT, STATE, UPDATE, read
from tests.conformance.engine import Engine
from tests.eventually import eventually
from tests.server_process import Tenant, running_server

D = "/v1/sync/doc-7"
OCTETS = {"Content-Type": "application/octet-stream"}
FRAMES = "application/vnd.monolite.entries"


def put(client: httpx.Client, replica: str, blob: bytes, **headers: str) -> httpx.Response:
    return client.put(f"{D}/states/{replica}", content=blob, headers={**OCTETS, **headers})


def append(client: httpx.Client, blob: bytes, path: str = D, **headers: str) -> httpx.Response:
    return client.post(f"{path}/updates", content=blob, headers={**OCTETS, **headers})


def compact(client: httpx.Client, blob: bytes, numbers: str, **headers: str) -> httpx.Response:
    given = {**OCTETS, "X-Supersedes": numbers, **headers}
    return client.post(f"{D}/snapshots", content=blob, headers=given)


def entries(client: httpx.Client, **params: Any) -> list[dict[str, Any]]:
    answer = client.get(f"{D}/entries", params=params)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def seqs(client: httpx.Client, **params: Any) -> list[int]:
    return [entry["seq"] for entry in entries(client, **params)]


def cursor(client: httpx.Client, **params: Any) -> str:
    found: str = client.get(f"{D}/entries", params=params).json()["next_cursor"]
    return found


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    problem: dict[str, Any] = answer.json()
    return problem


# ── States ─────────────────────────────────────────────────────────────────────────────────────


def test_a_state_is_given_back_byte_for_byte(client: httpx.Client) -> None:
    blob = bytes(range(256)) * 40
    made = put(client, "phone", blob)
    etag = f'"{hashlib.sha256(blob).hexdigest()}"'
    assert made.status_code == 201
    assert made.json() == {"seq": 1, "etag": etag, "epoch": 1}
    assert (made.headers["etag"], made.headers["x-epoch"]) == (etag, "1")
    got = client.get(f"{D}/states/phone")
    assert (got.status_code, got.content) == (200, blob)
    assert got.headers["etag"] == etag
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["x-content-type-options"] == "nosniff"
    again = client.get(f"{D}/states/phone", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_the_same_state_again_keeps_its_number_and_another_gets_the_next(
    client: httpx.Client,
) -> None:
    assert put(client, "phone", b"one").json()["seq"] == 1
    same = put(client, "phone", b"one")
    assert (same.status_code, same.json()["seq"]) == (200, 1)
    other = put(client, "phone", b"two")
    assert (other.status_code, other.json()["seq"]) == (200, 2)
    assert put(client, "laptop", b"two").json()["seq"] == 3
    assert put(client, "phone", b"one").json()["seq"] == 4
    shown = [(e["seq"], e["kind"], e["replica"], e["size"]) for e in entries(client)]
    assert shown == [(3, "state", "laptop", 3), (4, "state", "phone", 3)]


def test_of_two_writers_with_the_same_if_match_one_wins(client: httpx.Client) -> None:
    etag = put(client, "phone", b"base").headers["etag"]
    answers: list[httpx.Response] = []

    def write(blob: bytes) -> None:
        answers.append(put(client, "phone", blob, **{"If-Match": etag}))

    writers = [threading.Thread(target=write, args=(bytes([n]) * 100,)) for n in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(a.status_code for a in answers) == [200] + [412] * 5
    (winner,) = [a for a in answers if a.status_code == 200]
    assert client.get(f"{D}/states/phone").headers["etag"] == winner.headers["etag"]
    assert winner.json()["seq"] == 2, "a refused write gives no number away"


def test_if_none_match_makes_a_state_only_where_there_is_none(client: httpx.Client) -> None:
    only_new = {"If-None-Match": "*"}
    assert put(client, "phone", b"a", **only_new).status_code == 201
    refused(put(client, "phone", b"b", **only_new), 412, "precondition_failed")
    refused(put(client, "new", b"b", **{"If-Match": '"x"'}), 412, "precondition_failed")
    assert seqs(client) == [1]


def test_a_refused_first_write_makes_no_document(client: httpx.Client) -> None:
    refused(put(client, "phone", b"b", **{"If-Match": "*"}), 412, "precondition_failed")
    refused(compact(client, b"s", "1"), 422, "unknown_entries")
    assert client.get(D).status_code == 404
    assert client.get("/v1/sync").json()["data"] == []


# ── Updates ────────────────────────────────────────────────────────────────────────────────────


def test_the_same_update_again_is_200_with_the_first_number(client: httpx.Client) -> None:
    first = append(client, b"delta")
    assert (first.status_code, first.json()["seq"]) == (201, 1)
    append(client, b"another")
    again = append(client, b"delta")
    assert (again.status_code, again.json()) == (200, first.json())
    assert seqs(client) == [1, 2]


def test_a_state_an_update_and_a_snapshot_of_the_same_bytes_are_three_entries(
    client: httpx.Client,
) -> None:
    put(client, "phone", b"same")
    append(client, b"same")
    append(client, b"more")
    assert compact(client, b"same", "3").json()["seq"] == 4
    assert [e["kind"] for e in entries(client)] == ["state", "update", "snapshot"]


def test_an_update_resent_after_compaction_is_not_appended_anew(client: httpx.Client) -> None:
    append(client, b"a")
    append(client, b"b")
    compact(client, b"ab", "1-2")
    again = append(client, b"a")
    assert (again.status_code, again.json()["seq"]) == (200, 1)
    assert seqs(client) == [3]


def test_numbers_have_no_gap_under_concurrent_writers(client: httpx.Client) -> None:
    def write(who: int) -> None:
        for n in range(20):
            assert append(client, b"%d-%d" % (who, n)).status_code == 201

    writers = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert seqs(client, limit=1000) == list(range(1, 81))


def test_an_idempotency_key_replays_the_answer(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "once"}
    first = append(client, b"delta", **key)
    again = append(client, b"delta", **key)
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.json()) == (201, first.json())
    refused(append(client, b"other", **key), 422, "idempotency_mismatch")
    assert seqs(client) == [1]


@pytest.mark.parametrize("path", ["states/phone", "updates", "snapshots", "ephemeral"])
def test_an_empty_body_is_422_and_nothing_is_stored(client: httpx.Client, path: str) -> None:
    method = "PUT" if path.startswith("states") else "POST"
    headers = {**OCTETS, "X-Supersedes": "1"}
    answer = client.request(method, f"{D}/{path}", content=b"", headers=headers)
    refused(answer, 422, "empty_blob")
    assert client.get(D).status_code == 404


@pytest.mark.parametrize("path", ["states/phone", "updates", "snapshots", "ephemeral"])
def test_a_hundred_megabytes_are_413_before_they_are_sent(tenant: Tenant, path: str) -> None:
    method = "PUT" if path.startswith("states") else "POST"
    head = (
        f"{method} {D}/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\n"
        "Content-Type: application/octet-stream\r\nX-Supersedes: 1\r\n"
        f"Content-Length: {100 << 20}\r\n\r\n"
    )
    answer = tenant.server.send_raw(head.encode() + b"x" * 1000)
    assert answer.startswith(b"HTTP/1.1 413 "), answer
    assert tenant.client.get(D).status_code == 404


def test_another_media_type_is_415(client: httpx.Client) -> None:
    answer = client.post(f"{D}/updates", json={"a": 1})
    refused(answer, 415, "unsupported_media_type")


# ── Reading on ─────────────────────────────────────────────────────────────────────────────────


def test_pages_follow_one_another_and_the_cursor_stays_good(client: httpx.Client) -> None:
    for n in range(7):
        append(client, b"%d" % n)
    found: list[int] = []
    since = None
    for _ in range(3):
        page = client.get(
            f"{D}/entries", params={"limit": 3, **({"since": since} if since else {})}
        ).json()
        found += [e["seq"] for e in page["data"]]
        since = page["next_cursor"]
    assert found == list(range(1, 8))
    assert page["up_to_date"]
    assert seqs(client, since=since) == []
    append(client, b"more")
    assert seqs(client, since=since) == [8]


def test_blobs_come_inline_only_where_asked_for(client: httpx.Client) -> None:
    append(client, b"\x00\xff")
    assert "blob" not in entries(client)[0]
    assert base64.b64decode(entries(client, blobs="inline")[0]["blob"]) == b"\x00\xff"
    assert client.get(f"{D}/entries/1").content == b"\x00\xff"
    assert client.get(f"{D}/entries/2").status_code == 404


def test_frames_hold_every_entry_and_an_end(client: httpx.Client) -> None:
    put(client, "phone", b"state" * 1000)
    append(client, b"update")
    append(client, b"gone")
    compact(client, b"snapshot", "3")
    answer = client.get(f"{D}/entries", headers={"Accept": FRAMES})
    assert answer.headers["content-type"] == FRAMES
    *found, end = list(read(answer.content))
    assert [(f.kind, f.number, f.replica, f.blob) for f in found] == [
        (STATE, 1, "phone", b"state" * 1000),
        (UPDATE, 2, "", b"update"),
        (SNAPSHOT, 4, "", b"snapshot"),
    ]
    assert (end.kind, end.blob) == (END, b"\x01")
    append(client, b"later")
    assert seqs(client, since=end.cursor) == [5]
    assert seqs(client, since=found[0].cursor) == [2, 4, 5], "each frame's cursor goes on behind it"


def test_frames_of_one_page_say_that_there_is_more(client: httpx.Client) -> None:
    for n in range(5):
        append(client, b"%d" % n)
    headers = {"Accept": FRAMES}
    *found, end = read(client.get(f"{D}/entries?limit=2", headers=headers).content)
    assert ([f.number for f in found], end.kind, end.blob) == ([1, 2], END, b"\x00")
    rest = client.get(f"{D}/entries", params={"since": end.cursor}, headers=headers)
    assert [f.number for f in read(rest.content)] == [3, 4, 5, 5]


def test_a_page_ends_before_its_blobs_are_too_much(client: httpx.Client) -> None:
    for n in range(3):
        append(client, bytes([n]) * (3 << 20))
    page = client.get(f"{D}/entries?blobs=inline").json()
    assert [e["seq"] for e in page["data"]] == [1, 2]
    assert not page["up_to_date"]
    assert seqs(client, since=page["next_cursor"], blobs="inline") == [3]
    answer = client.get(f"{D}/entries", headers={"Accept": FRAMES})
    assert [f.number for f in read(answer.content)] == [1, 2, 3, 3]


def test_a_cursor_is_good_for_its_document_and_tenant_alone(
    client: httpx.Client, other: httpx.Client
) -> None:
    append(client, b"a")
    append(client, b"a", path="/v1/sync/doc-70")
    append(other, b"a")
    foreign = client.get("/v1/sync/doc-70/entries").json()["next_cursor"]
    theirs = other.get(f"{D}/entries").json()["next_cursor"]
    for bad in (foreign, theirs, "x", "", "!", "AAAA"):
        answer = client.get(f"{D}/entries", params={"since": bad})
        problem = refused(answer, 422, "invalid")
        assert problem["errors"][0]["pointer"] == "?since"


def test_what_never_existed_is_404_with_the_first_epoch(client: httpx.Client) -> None:
    for path in (D, f"{D}/entries", f"{D}/states/phone", f"{D}/entries/1", f"{D}/superseded"):
        answer = client.get(path)
        refused(answer, 404, "not_found")
        assert answer.headers["x-epoch"] == "1"
    refused(client.delete(D), 404, "not_found")


def test_documents_are_listed_with_what_they_hold(client: httpx.Client) -> None:
    for name in ("b", "a", "c"):
        append(client, b"12345", path=f"/v1/sync/{name}")
    page = client.get("/v1/sync?limit=2").json()
    assert [d["name"] for d in page["data"]] == ["a", "b"]
    (last,) = client.get("/v1/sync", params={"cursor": page["next_cursor"]}).json()["data"]
    assert (last["name"], last["seq"], last["entries"], last["bytes"]) == ("c", 1, 1, 5)
    assert client.get("/v1/sync/c").json() == last


# ── Snapshots ──────────────────────────────────────────────────────────────────────────────────


def test_a_snapshot_replaces_exactly_the_named_entries(client: httpx.Client) -> None:
    for n in range(6):
        append(client, b"%d" % n)
    put(client, "phone", b"state")
    made = compact(client, b"merged", "1-3, 5,7")
    assert (made.status_code, made.json()["seq"]) == (201, 8)
    assert seqs(client) == [4, 6, 8]
    assert entries(client)[-1]["supersedes"] == "1-3,5,7"
    document = client.get(D).json()
    assert (document["entries"], document["bytes"], document["floor"]) == (3, 8, 7)
    refused(client.get(f"{D}/states/phone"), 404, "not_found")


def test_a_snapshot_resent_keeps_its_number(client: httpx.Client) -> None:
    append(client, b"a")
    first = compact(client, b"merged", "1")
    again = compact(client, b"merged", "1")
    assert (again.status_code, again.json()) == (200, first.json())
    assert seqs(client) == [2]


@pytest.mark.parametrize("numbers", ["4", "1-4", "1,9-12", "90-99"])
def test_numbers_that_were_never_given_supersede_nothing(
    client: httpx.Client, numbers: str
) -> None:
    for n in range(3):
        append(client, b"%d" % n)
    problem = refused(compact(client, b"merged", numbers), 422, "unknown_entries")
    assert problem["errors"][0]["pointer"] == "X-Supersedes"
    assert seqs(client) == [1, 2, 3]
    assert append(client, b"next").json()["seq"] == 4


@pytest.mark.parametrize("numbers", ["", "x", "0", "0-3", "3-1", "1;2", "-1", "1-", "9" * 30, "1,"])
def test_what_is_no_range_is_422(client: httpx.Client, numbers: str) -> None:
    append(client, b"a")
    problem = refused(compact(client, b"merged", numbers), 422, "invalid")
    assert problem["errors"][0]["pointer"] == "X-Supersedes"
    assert seqs(client) == [1]


def test_a_snapshot_names_what_it_supersedes(client: httpx.Client) -> None:
    append(client, b"a")
    answer = client.post(f"{D}/snapshots", content=b"s", headers=OCTETS)
    refused(answer, 422, "invalid")


def test_of_two_compactors_the_second_is_told(client: httpx.Client) -> None:
    append(client, b"a")
    append(client, b"b")
    compact(client, b"by the first", "1-2")
    refused(compact(client, b"by the second", "1-2"), 409, "already_superseded")
    append(client, b"c")
    assert compact(client, b"by the second", "1-4").status_code == 201
    assert seqs(client) == [5]


def test_a_cursor_below_the_floor_is_410_and_says_where_to_go_on(client: httpx.Client) -> None:
    for n in range(4):
        append(client, b"%d" % n)
    early, late = cursor(client, limit=1), cursor(client)
    compact(client, b"merged", "1-2,4")
    problem = refused(client.get(f"{D}/entries", params={"since": early}), 410, "cursor_compacted")
    assert problem["snapshot"]["seq"] == 5
    assert problem["snapshot"]["size"] == len(b"merged")
    assert seqs(client, since=problem["cursor"]) == [3, 5], "all that lives behind it"
    assert seqs(client, since=late) == [5], "it has seen all that was superseded"
    assert seqs(client) == [3, 5]
    pages = cursor(client, limit=1)
    assert seqs(client, since=pages) == [5], "a walk that began after compaction goes on"


def test_superseded_entries_are_restored_under_new_numbers(client: httpx.Client) -> None:
    append(client, b"a")
    put(client, "phone", b"state")
    append(client, b"c")
    compact(client, b"a bad merge", "1-3")
    listed = client.get(f"{D}/superseded").json()["data"]
    assert [(e["seq"], e["kind"]) for e in listed] == [(1, "update"), (2, "state"), (3, "update")]
    assert all(e["restorable_until"] > e["superseded_at"] for e in listed)
    assert client.get(f"{D}/entries/2").content == b"state"
    answer = client.post(f"{D}/restore", json={"entries": "1-2"})
    assert answer.json()["data"] == [{"restored": 1, "seq": 5}, {"restored": 2, "seq": 6}]
    assert [(e["seq"], e["kind"]) for e in entries(client)] == [
        (4, "snapshot"),
        (5, "update"),
        (6, "update"),
    ]
    assert append(client, b"a").json()["seq"] == 5
    again = client.post(f"{D}/restore", json={"entries": "1-2"})
    refused(again, 422, "unknown_entries")
    document = client.get(D).json()
    assert (document["entries"], document["bytes"]) == (3, len(b"a bad merge") + 1 + 5)


def test_a_replaced_state_is_kept_once_an_hour(client: httpx.Client) -> None:
    for n in range(5):
        put(client, "phone", b"%d" % n)
    listed = client.get(f"{D}/superseded").json()["data"]
    assert [e["seq"] for e in listed] == [1]
    assert client.get(f"{D}/entries/1").content == b"0"


def test_what_was_superseded_goes_when_its_grace_period_is_over(engine: Engine) -> None:
    settings = {**engine.settings, "MONOLITE_SYNC_GRACE_S": "0.001"}
    with running_server(engine.data, **settings) as server, Tenant(server) as tenant:
        for n in range(3):
            append(tenant.client, b"%d" % n)
        compact(tenant.client, b"merged", "1-3")
        assert engine.count("sync_entries") == 4
    with running_server(engine.data, **settings) as server, server.client(tenant.key) as client:
        eventually(lambda: engine.count("sync_entries") == 1, "the superseded go")
        assert seqs(client) == [4]
        assert client.get(f"{D}/superseded").json()["data"] == []
        anew = append(client, b"0")
        assert (anew.status_code, anew.json()["seq"]) == (201, 5)


# ── Epochs ─────────────────────────────────────────────────────────────────────────────────────


def test_deletion_begins_an_epoch_and_no_number_comes_back(
    client: httpx.Client,
) -> None:
    append(client, b"a")
    put(client, "phone", b"state")
    before = cursor(client)
    gone = client.delete(D)
    assert (gone.status_code, gone.headers["x-epoch"]) == (204, "2")
    for path in (D, f"{D}/entries", f"{D}/states/phone", f"{D}/entries/1"):
        answer = client.get(path)
        refused(answer, 404, "not_found")
        assert answer.headers["x-epoch"] == "2"
    assert client.get("/v1/sync").json()["data"] == []
    answer = client.get(f"{D}/entries", params={"since": before})
    assert refused(answer, 410, "epoch_ended")["epoch"] == 2
    refused(client.delete(D), 404, "not_found")
    back = append(client, b"a")
    assert (back.status_code, back.json()["seq"], back.json()["epoch"]) == (201, 3, 2)
    assert seqs(client) == [3]


def test_a_write_in_an_ended_epoch_is_410_and_brings_nothing_back(client: httpx.Client) -> None:
    old = {"X-Epoch": "1"}
    append(client, b"a", **old)
    client.delete(D, headers=old)
    for answer in (
        append(client, b"b", **old),
        put(client, "phone", b"b", **old),
        compact(client, b"b", "1", **old),
        client.post(f"{D}/restore", json={"entries": "1"}, headers=old),
        client.delete(D, headers=old),
    ):
        assert refused(answer, 410, "epoch_ended")["epoch"] == 2
        assert answer.headers["x-epoch"] == "2"
    assert client.get(D).status_code == 404
    assert append(client, b"b", **{"X-Epoch": "2"}).status_code == 201


@pytest.mark.parametrize("epoch", ["x", "-1", "1.0", "9" * 20])
def test_what_is_no_epoch_is_422(client: httpx.Client, epoch: str) -> None:
    problem = refused(append(client, b"a", **{"X-Epoch": epoch}), 422, "invalid")
    assert problem["errors"][0]["pointer"] == "X-Epoch"


def test_the_rows_of_a_deleted_document_go(engine: Engine) -> None:
    with running_server(engine.data, **engine.settings) as server, Tenant(server) as tenant:
        for n in range(450):
            append(tenant.client, b"%d" % n)
        tenant.client.delete(D)
        append(tenant.client, b"new")
        eventually(lambda: engine.count("sync_entries") == 1, "the old entries go")
        eventually(lambda: engine.count("sync_documents") == 1, "and the old document")
        assert seqs(tenant.client) == [451]


# ── Limits ─────────────────────────────────────────────────────────────────────────────────────


def test_compaction_is_advised_from_half_and_needed_at_the_end(client: httpx.Client) -> None:
    limits = client.put("/v1/settings/sync", json={"entry_count_max": 6})
    assert limits.json()["entry_count_max"] == 6
    answers = [append(client, b"%d" % n) for n in range(6)]
    advised = [a.headers.get("compact-advised") for a in answers]
    assert advised == [None, None, *(f"entries={n}, max=6" for n in (3, 4, 5, 6))]
    assert client.get(D).json()["compact_advised"]
    refused(append(client, b"one more"), 409, "too_many_entries")
    refused(put(client, "new", b"one more"), 409, "too_many_entries")
    assert append(client, b"0").status_code == 200, "a resend costs nothing"
    assert compact(client, b"merged", "1-5").status_code == 201
    assert put(client, "new", b"one more").status_code == 201


def test_a_tenant_can_only_tighten(client: httpx.Client, other: httpx.Client) -> None:
    before = client.get("/v1/settings/sync").json()
    wide = client.put("/v1/settings/sync", json={"blob_bytes_max": 1 << 39})
    assert wide.json() == before
    tight = client.put("/v1/settings/sync", json={"blob_bytes_max": 10, "document_count_max": 2})
    assert tight.json() == {**before, "blob_bytes_max": 10, "document_count_max": 2}
    refused(append(client, b"x" * 11), 413, "body_too_large")
    assert append(client, b"x" * 10).status_code == 201
    assert append(client, b"x", path="/v1/sync/two").status_code == 201
    refused(append(client, b"x", path="/v1/sync/three"), 409, "too_many_documents")
    assert client.get("/v1/sync/three").status_code == 404
    client.delete(D)
    assert append(client, b"x", path="/v1/sync/three").status_code == 201
    assert append(other, b"x" * 11).status_code == 201
    assert client.put("/v1/settings/sync", json={}).json() == before


# ── Rights ─────────────────────────────────────────────────────────────────────────────────────


def test_a_token_for_one_document_opens_no_other(tenant: Tenant) -> None:
    append(tenant.client, b"a", path="/v1/sync/doc-70")
    token = tenant.token("sync:read", "sync:write", resource="sync/doc-7")
    with tenant.server.client(token) as phone:
        assert append(phone, b"a").status_code == 201
        assert seqs(phone) == [1]
        for answer in (
            append(phone, b"b", path="/v1/sync/doc-70"),
            phone.get("/v1/sync/doc-70/entries"),
            phone.get("/v1/sync"),
        ):
            refused(answer, 403, "outside_resource")
        refused(compact(phone, b"b", "1"), 403, "missing_scope")
        refused(phone.delete(D), 403, "missing_scope")


def test_a_token_for_one_replica_writes_no_other(tenant: Tenant) -> None:
    token = tenant.token("sync:write", "sync:read", resource="sync/doc-7/states/phone")
    with tenant.server.client(token) as phone:
        assert put(phone, "phone", b"a").status_code == 201
        assert phone.get(f"{D}/states/phone").content == b"a"
        refused(put(phone, "phone2", b"a"), 403, "outside_resource")
        refused(append(phone, b"a"), 403, "outside_resource")
        refused(phone.get(f"{D}/entries"), 403, "outside_resource")


# ── Tenants ────────────────────────────────────────────────────────────────────────────────────


def test_a_deleted_tenant_leaves_no_row(engine: Engine) -> None:
    with running_server(engine.data, **engine.settings) as server, Tenant(server) as tenant:
        for n in range(3):
            append(tenant.client, b"%d" % n)
        compact(tenant.client, b"merged", "1-2")
        tenant.client.delete(D)
        append(tenant.client, b"new")
        with server.client(server.operator_key) as operator:
            assert operator.delete(f"/v1/tenants/{tenant.name}").status_code == 204
        for table in ("sync_entries", "sync_documents", "sync_tenants"):
            assert engine.count(table) == 0, table


def test_an_export_carries_documents_epochs_and_numbers(
    tenant: Tenant, operator: httpx.Client, new_tenant: Callable[[], Tenant]
) -> None:
    client = tenant.client
    for n in range(4):
        append(client, bytes([n, 255]))
    put(client, "phone", b"state")
    compact(client, b"merged", "1-2")
    append(client, b"x", path="/v1/sync/gone")
    client.delete("/v1/sync/gone")
    exported = operator.get(f"/v1/tenants/{tenant.name}/export").content
    made = operator.post(
        f"/v1/tenants/{tenant.name}-copy/import",
        content=exported,
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert made.status_code == 201, made.text
    with tenant.server.client(made.json()["key"]) as copy:
        assert entries(copy, blobs="inline") == entries(client, blobs="inline")
        assert copy.get(D).json() == client.get(D).json()
        assert put(copy, "phone", b"state").json()["seq"] == 5
        assert append(copy, b"next").json()["seq"] == 7
        back = append(copy, b"x", path="/v1/sync/gone", **{"X-Epoch": "1"})
        refused(back, 410, "epoch_ended")
        assert copy.get("/v1/settings").json()["sync_documents"] == 1


def test_usage_counts_documents_and_bytes(tenant: Tenant, operator: httpx.Client) -> None:
    append(tenant.client, b"12345")
    append(tenant.client, b"1234567", path="/v1/sync/other")
    shown = operator.get(f"/v1/tenants/{tenant.name}").json()
    assert (shown["sync_documents"], shown["sync_bytes"]) == (2, 12)
