"""The same documents in each contender, and the targets that read and write them.

Rows go straight into the stopped server's file: 100 000 requests would take longer than the
measurement, and would leave each server in the state its own writing brings about.
"""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Iterator
from pathlib import Path

import apsw

from bench import orders, servers
from bench.load import Target
from bench.servers import SOURCE, Server

COLLECTION = "x"
GUARDED = "guarded"
BODY = '{"title":"hello","data":{"n":{n},"tags":["a","b","c"]}}'
_START_MS = 1_760_000_000_000
_IMPORT_TIMEOUT_S = 600


def seed_monolite(data: Path, count: int, paths: Path) -> None:
    """Makes the tenant and its documents, and writes their paths to `paths`."""
    server = servers.start_monolite(data, command=SOURCE)
    route = f"/v1/collections/{COLLECTION}/documents"
    key = servers.monolite_key(data)
    first = server.call("POST", route, {"title": "first"}, token=key)["id"]
    server.stop()
    ids = list(_uuids(count))
    connection = apsw.Connection(str(data / "monolite.db"))
    try:
        with connection:
            [(tenant, collection)] = connection.execute(
                "SELECT tenant_id, collection_id FROM documents WHERE id = ?", (first,)
            )
            connection.executemany(
                "INSERT INTO documents"
                " (tenant_id, collection_id, id, data, revision, seq, created_at, updated_at)"
                " VALUES (?, ?, ?, jsonb(?), 1, ?, ?, ?)",
                (
                    # The first document has the collection's first change.
                    (tenant, collection, each, _document(n), n + 2, _START_MS + n, _START_MS + n)
                    for n, each in enumerate(ids)
                ),
            )
        connection.pragma("wal_checkpoint", "TRUNCATE")
    finally:
        connection.close()
    paths.write_text("".join(f"{route}/{each}\n" for each in ids))


def seed_pocketbase(data: Path, count: int, paths: Path, guarded_paths: Path) -> None:
    """Makes a public and a guarded collection of the same records, and writes their paths."""
    server = servers.start_pocketbase(data)
    admin = servers.superuser_token(server)
    for name, rule in ((COLLECTION, ""), (GUARDED, '@request.auth.id != ""')):
        rules = dict.fromkeys(("listRule", "viewRule", "createRule", "updateRule"), rule)
        fields = [{"name": "title", "type": "text"}, {"name": "data", "type": "json"}]
        made = {"name": name, "type": "base", "fields": fields} | rules
        server.call("POST", "/api/collections", made, token=admin)
    servers.user_token(server)
    server.stop()
    chance = random.Random(1)
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
    ids = ["".join(chance.choices(alphabet, k=15)) for _ in range(count)]
    connection = apsw.Connection(str(data / "data.db"))
    try:
        for name in (COLLECTION, GUARDED):
            with connection:
                connection.executemany(
                    f"INSERT INTO {name} (id, title, data) VALUES (?, 'hello', ?)",
                    (
                        (each, json.dumps(json.loads(_document(n))["data"]))
                        for n, each in enumerate(ids)
                    ),
                )
        connection.pragma("wal_checkpoint", "TRUNCATE")
    finally:
        connection.close()
    for name, file in ((COLLECTION, paths), (GUARDED, guarded_paths)):
        file.write_text("".join(f"/api/collections/{name}/records/{each}\n" for each in ids))


def import_orders(server: Server, key: str, collection: str, lines: bytes) -> int:
    """Import NDJSON as a client does; returns how many were stored."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_IMPORT_TIMEOUT_S)
    headers = {"Content-Type": "application/x-ndjson", "Authorization": key}
    connection.request("POST", f"/v1/collections/{collection}/documents", lines, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"the import was refused: {answer.status} {content[:400]!r}")
    return int(json.loads(content)["inserted"])


def define_orders(
    server: Server, key: str, collection: str = orders.COLLECTION, *, index: bool = True
) -> None:
    """Promote the orders' region and tier, each with an index or neither."""
    fields = {name: place | {"index": index} for name, place in orders.FIELDS.items()}
    server.call("PUT", f"/v1/collections/{collection}", {"fields": fields}, token=key)


def index_orders(server: Server, key: str, *fields: str) -> None:
    """One index over several promoted fields."""
    path = f"/v1/collections/{orders.COLLECTION}/indexes"
    server.call("POST", path, {"fields": fields}, token=key)


def reading(server: Server, paths: Path, authorization: str | None = None) -> Target:
    """GET one of `paths` at random."""
    return Target(server.port, paths, headers=_headers(authorization))


def writing(server: Server, route: str, folder: Path, authorization: str | None = None) -> Target:
    """POST a small document to `route`."""
    paths = folder / f"route-{server.port}-{route.count('/')}-{abs(hash(route))}"
    paths.write_text(route + "\n")
    headers = ("Content-Type: application/json", *_headers(authorization))
    return Target(server.port, paths, method="POST", body=BODY, headers=headers)


def writing_lines(server: Server, route: Path, bodies: Path, authorization: str) -> Target:
    """POST the lines of a file, in turn, to the path in another."""
    headers = ("Content-Type: application/json", *_headers(authorization))
    return Target(server.port, route, method="POST", bodies=bodies, headers=headers)


def monolite_route() -> str:
    return f"/v1/collections/{COLLECTION}/documents"


def pocketbase_route(collection: str) -> str:
    return f"/api/collections/{collection}/records"


def _headers(authorization: str | None) -> tuple[str, ...]:
    return () if authorization is None else (f"Authorization: {authorization}",)


def _document(n: int) -> str:
    return BODY.replace("{n}", str(n))


def _uuids(count: int) -> Iterator[str]:
    """UUIDv7 texts a millisecond apart, the same in every run."""
    chance = random.Random(1)
    for n in range(count):
        value = (_START_MS + n) << 80 | 7 << 76 | chance.getrandbits(12) << 64
        text = f"{value | 2 << 62 | chance.getrandbits(62):032x}"
        yield f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
