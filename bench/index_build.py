"""What a writer feels while an index over a million documents is built, beside the same at rest.

A client POSTs one order every few milliseconds, each waiting for its answer, over one connection to
the real server. Latency counts from when the request was due, so that a hold of the writer is felt
by all requests that fell into it. Then an index over region and tier is asked for and the client
goes on until it is ready, and then while it is dropped. A round is the three after each other.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import apsw

from bench import options, orders, seeding, servers
from bench.machine import Quietness
from bench.rounds import Figure, ratios, report
from bench.timing import Timed, print_timed

REST, BUILD, DROP = "at rest", "while an index is built", "while it is dropped"
_IMPORTED_AT_ONCE = 100_000
_POLL_S = 0.2
_TIMEOUT_S = 600
_ROUTE = f"/v1/collections/{orders.COLLECTION}"
_INDEX = "built"
_numbers = itertools.count(1_000_000_000)


def main() -> int:
    parser = options.parser(__doc__ or "", "index_build", rounds=3, seconds=None)
    parser.add_argument(
        "--documents", type=int, default=1_000_000, help="in the index (%(default)s)"
    )
    parser.add_argument(
        "--every-ms", type=float, default=5.0, help="between two requests (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=float, default=15.0, help="at rest, each run (%(default)s)"
    )
    parser.add_argument(
        "--synchronous", choices=("normal", "full"), default="normal", help="(%(default)s)"
    )
    parser.add_argument(
        "--executable", metavar="FILE", help="measure this executable instead of the source"
    )
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    data = folder / "monolite"
    command = options.command_of(chosen)
    server = servers.start_monolite(data, command=command, synchronous=chosen.synchronous)
    key = servers.monolite_key(data)
    seeding.define_orders(server, key, index=False)
    for begin in range(0, chosen.documents, _IMPORTED_AT_ONCE):
        end = min(begin + _IMPORTED_AT_ONCE, chosen.documents)
        seeding.import_orders(server, key, orders.COLLECTION, orders.lines(begin, end))
    took_s: dict[str, list[float]] = {BUILD: [], DROP: []}
    measured: dict[str, list[Timed]] = {REST: [], BUILD: [], DROP: []}

    def felt(name: str, work: Callable[[], None]) -> None:
        with _writing(server.port, key, chosen.every_ms / 1000) as latencies_us:
            began = time.monotonic()
            work()
            if name != REST:
                _wait_until_idle(data)
                took_s[name].append(time.monotonic() - began)
        measured[name].append(Timed(sorted(latencies_us)))

    def build() -> None:
        wish = {"name": _INDEX, "fields": list(orders.FIELDS)}
        server.call("POST", f"{_ROUTE}/indexes", wish, token=key)

    def drop() -> None:
        server.call("DELETE", f"{_ROUTE}/indexes/{_INDEX}", token=key)

    quietness = Quietness()
    for _ in range(chosen.rounds):
        felt(REST, partial(time.sleep, chosen.seconds))
        felt(BUILD, build)
        felt(DROP, drop)
    print(f"{chosen.rounds} rounds; {quietness}")
    print_timed(measured)
    for name, durations_s in took_s.items():
        print(f"{name}: {statistics.median(durations_s):.1f} s, {chosen.documents} documents")

    def p99s_ms(name: str) -> list[float]:
        return [each.p99_us / 1000 for each in measured[name]]

    def p50s(name: str) -> list[float]:
        return [each.p50_us for each in measured[name]]

    return report(
        [
            Figure("p99 of a write during the build", p99s_ms(BUILD), at_most=50, unit=" ms"),
            Figure("p99 of a write at rest", p99s_ms(REST), unit=" ms"),
            Figure("p99 of a write during the drop", p99s_ms(DROP), unit=" ms"),
            Figure(
                "longest write during the build",
                [each.max_us / 1000 for each in measured[BUILD]],
                unit=" ms",
            ),
            Figure("p50 during the build, to rest", ratios(p50s(BUILD), p50s(REST))),
        ]
    )


@contextmanager
def _writing(port: int, key: str, every_s: float) -> Iterator[list[float]]:
    """Writes at a pace meanwhile; the latencies, in microseconds, are whole at the end."""
    latencies_us: list[float] = []
    ends = threading.Event()
    failures: list[str] = []

    def write() -> None:
        headers = {"Content-Type": "application/json", "Authorization": key}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        connection.connect()
        due = time.perf_counter()
        while not ends.is_set():
            time.sleep(max(0.0, due - time.perf_counter()))
            order = orders.text(next(_numbers))
            connection.request("POST", f"{_ROUTE}/documents", order, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 201:
                failures.append(f"{answer.status} {content[:200]!r}")
                break
            latencies_us.append(1e6 * (time.perf_counter() - due))
            due += every_s
        connection.close()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield latencies_us
    finally:
        ends.set()
        thread.join()
    if failures or not latencies_us:
        raise RuntimeError(f"a write was refused: {failures}")


def _wait_until_idle(data: Path) -> None:
    # In the file, since a list of the indexes counts their entries, which the writer would feel.
    connection = apsw.Connection(str(data / "monolite.db"), flags=apsw.SQLITE_OPEN_READONLY)
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        (row,) = connection.execute(
            "SELECT count(*) FROM document_indexes WHERE state <> 'ready'"
        ).fetchall()
        if not row[0]:
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"the index is not ready after {_TIMEOUT_S} s")
        time.sleep(_POLL_S)
    connection.close()


if __name__ == "__main__":
    sys.exit(main())
