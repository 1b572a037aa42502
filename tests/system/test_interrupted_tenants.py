"""`kill -9` half way through a tenant's deletion or import."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import httpx
import pytest

from tests.system.installation import Installation

_DOCUMENT_COUNT = 20_000


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Installation]:
    """A running server with two tenants: `big`, with many documents, and `other`, with one."""
    installation = Installation(tmp_path / "data")
    try:
        installation.start()
        for name in ("big", "other"):
            with _client(installation, installation.make_tenant(name)) as client:
                answer = client.post("/v1/collections/orders/documents", json={"pad": "x" * 300})
                assert answer.status_code == 201, answer.text
        assert installation.stop() == 0
        _multiply_first_document(installation)
        installation.start()
        yield installation
    finally:
        installation.end()


def _multiply_first_document(installation: Installation) -> None:
    """The tenant `big` gets the rest of its documents straight into the file: it is faster."""
    connection = apsw.Connection(str(installation.data / "monolite.db"))
    try:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO documents (tenant_id, collection_id, id, data, revision, seq, created_at,"
            " updated_at) SELECT tenant_id, collection_id,"
            " printf('01900000-0000-7000-8000-%012d', i), data, revision, i, created_at, updated_at"
            " FROM n, (SELECT * FROM documents ORDER BY key LIMIT 1)",
            (_DOCUMENT_COUNT,),
        )
    finally:
        connection.close()


def _client(installation: Installation, key: str) -> httpx.Client:
    return httpx.Client(
        base_url=f"http://127.0.0.1:{installation.port}",
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )


def _counts(installation: Installation) -> dict[str, int]:
    """Documents by tenant name, and tenants, straight from the file."""
    connection = apsw.Connection(str(installation.data / "monolite.db"))
    try:
        rows = connection.execute(
            "SELECT coalesce(t.name, '?'), count(*) FROM documents d"
            " LEFT JOIN tenants t ON t.number = d.tenant_id GROUP BY 1"
        ).fetchall()
        return {str(name): int(str(count)) for name, count in rows}
    finally:
        connection.close()


def _wait_for_documents(installation: Installation, wanted: range) -> None:
    """Until the number of all documents lies in `wanted`, looked at as often as can be."""
    deadline = time.monotonic() + 30
    connection = apsw.Connection(str(installation.data / "monolite.db"))
    try:
        while connection.execute("SELECT count(*) FROM documents").get not in wanted:
            assert time.monotonic() < deadline
    finally:
        connection.close()


def _send_and_be_cut_off(installation: Installation, method: str, path: str, body: bytes) -> None:
    with _client(installation, installation.operator_key()) as client:
        try:
            client.request(
                method, path, content=body, headers={"Content-Type": "application/x-ndjson"}
            )
        except httpx.TransportError:
            return


def test_deletion_killed_half_way_is_finished_at_the_next_start(filled: Installation) -> None:
    try:
        sending = threading.Thread(
            target=_send_and_be_cut_off, args=(filled, "DELETE", "/v1/tenants/big", b"")
        )
        sending.start()
        _wait_for_documents(filled, range(2, _DOCUMENT_COUNT))
        filled.kill()
        sending.join()
        left = sum(_counts(filled).values())
        assert 1 < left < _DOCUMENT_COUNT, "killed too late to show anything"
        filled.start()
        with _client(filled, filled.operator_key()) as client:
            assert client.get("/v1/tenants/big").status_code == 404
            assert client.get("/v1/tenants/other").status_code == 200
        assert filled.stop() == 0
        assert sum(_counts(filled).values()) == 1
        assert filled.integrity() == "ok"
    finally:
        filled.end()


def test_import_killed_half_way_leaves_no_tenant(filled: Installation) -> None:
    try:
        with _client(filled, filled.operator_key()) as client:
            export = client.get("/v1/tenants/big/export").content
        sending = threading.Thread(
            target=_send_and_be_cut_off, args=(filled, "POST", "/v1/tenants/copy/import", export)
        )
        sending.start()
        before = _DOCUMENT_COUNT + 1
        _wait_for_documents(filled, range(before + 1, before + _DOCUMENT_COUNT))
        filled.kill()
        sending.join()
        assert before < sum(_counts(filled).values()) < before + _DOCUMENT_COUNT
        filled.start()
        with _client(filled, filled.operator_key()) as client:
            assert client.get("/v1/tenants/copy").status_code == 404
            names = [one["name"] for one in client.get("/v1/tenants").json()["data"]]
            assert names == ["big", "other"]
            again = client.post(
                "/v1/tenants/copy/import",
                content=export,
                headers={"Content-Type": "application/x-ndjson"},
            )
            assert again.status_code == 201, again.text
        assert filled.stop() == 0
        assert sum(_counts(filled).values()) == before + _DOCUMENT_COUNT
        assert filled.integrity() == "ok"
    finally:
        filled.end()
