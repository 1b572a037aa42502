"""Import of orders as NDJSON, documents per second, beside PocketBase's batch API.

Both get the same orders over HTTP, into a collection that is new for every run. Ours in one
request, at `synchronous=normal` as PocketBase's SQLite is, and beside that at `full`. PocketBase as
shipped takes fifty in a batch. It also runs at its fastest, found by trying: batches of a thousand
over four connections, its request log off. Both once more with region and tier indexed from the
beginning.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from bench import options, orders, records, seeding, servers
from bench.rounds import Figure, in_turn, print_rates, ratios, report
from bench.servers import Server

OURS, FULL = "monolite", "monolite, full"
OURS_INDEXED = "monolite, two fields indexed"
SHIPPED, FASTEST = "pocketbase, batches of 50", "pocketbase, fastest"
FASTEST_INDEXED = "pocketbase, fastest, indexed"
_LARGE_COUNT = 1000
_CONNECTIONS_COUNT = 4
_TIMEOUT_S = 600
_numbers = itertools.count()


def main() -> int:
    parser = options.parser(__doc__ or "", "ndjson_import", rounds=3, seconds=None)
    parser.add_argument(
        "--documents", type=int, default=50_000, help="imported, each run (%(default)s)"
    )
    parser.add_argument(
        "--executable", metavar="FILE", help="measure this executable instead of the source"
    )
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    count = chosen.documents
    lines = orders.lines(0, count)
    command = options.command_of(chosen)
    contenders: dict[str, Any] = {}
    for name, synchronous, indexed in (
        (OURS, "normal", False),
        (FULL, "full", False),
        (OURS_INDEXED, "normal", True),
    ):
        data = folder / f"monolite-{len(contenders)}"
        server = servers.start_monolite(data, command=command, synchronous=synchronous)
        key = servers.monolite_key(data)
        contenders[name] = partial(_import_ours, server, key, lines, count, indexed)
    for name, batch_count, log, indexes in (
        (SHIPPED, 50, True, ()),
        (FASTEST, _LARGE_COUNT, False, ()),
        (FASTEST_INDEXED, _LARGE_COUNT, False, (records.INDEXED,)),
    ):
        server = servers.start_pocketbase(folder / f"pocketbase-{len(contenders)}", request_log=log)
        _allow_batches(server, batch_count)
        contenders[name] = partial(_import_theirs, server, count, batch_count, indexes)
    measured = in_turn(contenders, chosen.rounds)
    print_rates(measured, "documents/s")

    def rate(ours: str, peer: str) -> list[float]:
        return ratios(measured[ours], measured[peer])

    return report(
        [
            Figure("to PocketBase's batches as shipped", rate(OURS, SHIPPED), at_least=5.0),
            Figure("to PocketBase's batches at their fastest", rate(OURS, FASTEST), at_least=5.0),
            Figure("full, to the same", rate(FULL, FASTEST)),
            Figure("both with region and tier indexed", rate(OURS_INDEXED, FASTEST_INDEXED)),
            Figure("indexed, to ours without", rate(OURS_INDEXED, OURS)),
        ]
    )


def _import_ours(server: Server, key: str, lines: bytes, count: int, indexed: bool) -> float:
    collection = f"orders-{next(_numbers)}"
    if indexed:
        seeding.define_orders(server, key, collection)
    began = time.perf_counter()
    inserted = seeding.import_orders(server, key, collection, lines)
    rate = count / (time.perf_counter() - began)
    if inserted != count:
        raise RuntimeError(f"{inserted} of {count} were imported")
    return rate


def _import_theirs(
    server: Server, count: int, batch_count: int, indexes: Sequence[tuple[str, ...]]
) -> float:
    collection = f"orders{next(_numbers)}"
    admin = servers.superuser_token(server)
    records.create_collection(server, admin, collection, *indexes)
    batches = [
        _batch(collection, begin, min(begin + batch_count, count))
        for begin in range(0, count, batch_count)
    ]
    connections = 1 if batch_count < _LARGE_COUNT else _CONNECTIONS_COUNT
    parts = [batches[at::connections] for at in range(connections)]
    with ThreadPoolExecutor(connections) as threads:
        began = time.perf_counter()
        list(threads.map(partial(_post_batches, server), parts))
        rate = count / (time.perf_counter() - began)
    path = f"/api/collections/{collection}/records?perPage=1"
    stored = server.call("GET", path)["totalItems"]
    if stored != count:
        raise RuntimeError(f"PocketBase stored {stored} of {count}")
    return rate


def _post_batches(server: Server, batches: Sequence[bytes]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_TIMEOUT_S)
    for batch in batches:
        connection.request("POST", "/api/batch", batch, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"a batch was refused: {answer.status} {content[:400]!r}")
    connection.close()


def _batch(collection: str, begin: int, end: int) -> bytes:
    url = f"/api/collections/{collection}/records"
    requests = [
        {"method": "POST", "url": url, "body": records.record(n)} for n in range(begin, end)
    ]
    return json.dumps({"requests": requests}, separators=(",", ":")).encode()


def _allow_batches(server: Server, batch_count: int) -> None:
    settings = {"enabled": True, "maxRequests": batch_count, "timeout": 60}
    token = servers.superuser_token(server)
    server.call("PATCH", "/api/settings", {"batch": settings}, token=token)


if __name__ == "__main__":
    sys.exit(main())
