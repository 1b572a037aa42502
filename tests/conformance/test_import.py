"""NDJSON in and out."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import httpx
import msgspec

DOCUMENTS = "/v1/collections/notes/documents"
NDJSON = {"content-type": "application/x-ndjson"}


def lines(answer: httpx.Response) -> list[dict[str, object]]:
    return [msgspec.json.decode(line) for line in answer.text.splitlines()]


def test_lines_are_stored_and_bad_ones_named(client: httpx.Client) -> None:
    body = b'{"n":1}\n\n[1]\r\n{"n":2}\r\n{"n":3,"n":4}\n{"n":NaN}\n{"n":"\xff"}\n{"n":5}'
    answer = client.post(DOCUMENTS, content=body, headers=NDJSON)
    assert answer.status_code == 200
    outcome = answer.json()
    assert (outcome["inserted"], outcome["failed_total"]) == (3, 4)
    assert [failure["line"] for failure in outcome["failed"]] == [3, 5, 6, 7]
    assert all(failure["detail"] for failure in outcome["failed"])
    listed = client.get(DOCUMENTS).json()["data"]
    assert [document["data"]["n"] for document in listed] == [1, 2, 5]


def test_lines_are_held_to_the_schema(client: httpx.Client) -> None:
    schema = {"properties": {"n": {"type": "integer"}}}
    client.put("/v1/collections/notes", json={"schema": schema})
    answer = client.post(DOCUMENTS, content=b'{"n":1}\n{"n":"x"}\n{"n":2}\n', headers=NDJSON)
    outcome = answer.json()
    assert outcome["inserted"] == 2
    assert [failure["line"] for failure in outcome["failed"]] == [2]
    assert "#/n" in outcome["failed"][0]["detail"]


def test_pieces_may_end_anywhere_and_progress_is_told(client: httpx.Client) -> None:
    body = b"".join(b'{"n":%d,"text":"%s"}\n' % (n, b"x" * (n % 97)) for n in range(1500))

    def pieces() -> Iterator[bytes]:
        at = 0
        for size in itertools.cycle((1, 7, 3000, 64, 9999)):
            if at >= len(body):
                return
            yield body[at : at + size]
            at += size

    headers = {**NDJSON, "accept": "application/x-ndjson"}
    answer = client.post(DOCUMENTS, content=pieces(), headers=headers)
    told = lines(answer)
    counts = [line["inserted"] for line in told]
    assert counts == sorted(counts)  # type: ignore[type-var]
    assert len(told) > 3
    assert told[-1] == {"inserted": 1500, "failed": [], "failed_total": 0}


def test_a_line_that_is_too_long_fails_alone(client: httpx.Client) -> None:
    body = b'{"n":1}\n{"n":"' + b"x" * (2 << 20) + b'"}\n{"n":2}\n'
    outcome = client.post(DOCUMENTS, content=body, headers=NDJSON).json()
    assert outcome["inserted"] == 2
    assert [failure["line"] for failure in outcome["failed"]] == [2]


def test_an_idempotency_key_can_not_go_with_many_lines(client: httpx.Client) -> None:
    headers = {**NDJSON, "idempotency-key": "k"}
    answer = client.post(DOCUMENTS, content=b"{}\n", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["code"] == "idempotency_not_possible"
    assert client.get(DOCUMENTS).status_code == 404


def test_the_failures_shown_are_bounded(client: httpx.Client) -> None:
    outcome = client.post(DOCUMENTS, content=b"[]\n" * 1500, headers=NDJSON).json()
    assert (outcome["inserted"], outcome["failed_total"]) == (0, 1500)
    assert len(outcome["failed"]) == 1000


def test_an_export_is_every_match_a_line_each(client: httpx.Client) -> None:
    body = b"".join(b'{"n":%d}\n' % n for n in range(700))
    client.post(DOCUMENTS, content=body, headers=NDJSON)
    answer = client.get(
        f"{DOCUMENTS}?n=gte.100&order=n.desc", headers={"accept": "application/x-ndjson"}
    )
    assert answer.headers["content-type"] == "application/x-ndjson"
    exported = lines(answer)
    assert [document["data"]["n"] for document in exported] == list(range(699, 99, -1))  # type: ignore[index]
    assert exported[0].keys() == {"id", "data", "created_at", "updated_at", "revision"}
