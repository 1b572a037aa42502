"""Everything at once in one server: memory as each part joins, and latency of the others beside it.

Parts join one after the other and stay, each on connections of its own: documents written and
read, search by text among 100 000, events appended, read and acknowledged, jobs added, claimed and
completed, answers of the default language model (two conversations at a time); Litestream
replicates to SeaweedFS on loopback all the while. Callers pause between calls, as a product's do:
it is a load to live with, and not a race.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Event, Thread

from bench import options, search_http, servers
from bench.http_caller import Caller
from bench.machine import Quietness
from bench.rounds import Figure, report
from tests.s3_server import start_s3_server, stop_s3_server

PAUSE_S = 0.01
ANSWERS = 2


def main() -> int:
    parser = options.parser(__doc__ or "", "mixed_load", rounds=None, seconds=None)
    parser.add_argument("--documents", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="each stage (%(default)s)")
    parser.add_argument(
        "--executable", metavar="FILE", help="measure this executable instead of the source"
    )
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    vectors, texts, _, questions = search_http.material(chosen.documents)
    s3 = start_s3_server(folder / "s3")
    try:
        data = folder / "monolite"
        server = servers.start_monolite(
            data,
            command=options.command_of(chosen),
            MONOLITE_REPLICA_URL=s3.fresh_url(),
            MONOLITE_S3_ENDPOINT=s3.endpoint,
            AWS_ACCESS_KEY_ID=s3.access_key_id,
            AWS_SECRET_ACCESS_KEY=s3.secret_access_key,
        )
        key = servers.monolite_key(data)
        print(f"at rest: {server.pss_mb():.0f} MB")
        parts: dict[str, list[Callable[[Caller], Iterator[None]]]] = {
            "documents": [_documents],
            "search": [partial(_search, questions)],
            "streams": [_streams],
            "jobs": [_jobs],
            "chat": [_chat] * ANSWERS,
        }
        stopping = Event()
        timed: dict[str, list[float]] = {name: [] for name in parts}
        failed: list[Exception] = []
        threads: list[Thread] = []
        peaks: dict[str, float] = {}
        quietness = Quietness()
        for name, works in parts.items():
            if name == "search":
                search_http.fill(server, key, vectors, texts)
            for work in works:
                caller = Caller(server.port, key)
                arguments = (work(caller), timed[name], stopping, failed)
                threads.append(Thread(target=_repeat, args=arguments))
                threads[-1].start()
            before = {each: len(values) for each, values in timed.items()}
            peaks[name] = _peak_mb(server, chosen.seconds)
            print(f"with {name}: {peaks[name]:.0f} MB at most")
            for each, values in timed.items():
                _print(each, values[before[each] :])
        stopping.set()
        for thread in threads:
            thread.join()
        print(quietness)
        if failed:
            raise failed[0]
    finally:
        stop_s3_server(s3)
    without = max(peak for name, peak in peaks.items() if name != "chat")
    return report(
        [
            Figure("memory without chat", [without], at_most=1024 * 1.048576, unit=" MB"),
            Figure("with it", [peaks["chat"]], at_most=2048 * 1.048576, unit=" MB"),
        ]
    )


def _repeat(
    calls: Iterator[None], taken: list[float], stopping: Event, failed: list[Exception]
) -> None:
    try:
        while not stopping.is_set():
            began = time.perf_counter()
            next(calls)
            taken.append(time.perf_counter() - began)
            time.sleep(PAUSE_S)
    except Exception as error:
        failed.append(error)


def _peak_mb(server: servers.Server, seconds: float) -> float:
    peak, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        peak = max(peak, server.pss_mb())
        time.sleep(0.5)
    return peak


def _print(name: str, taken: list[float]) -> None:
    if len(taken) > 1:
        cuts = statistics.quantiles(taken, n=100, method="inclusive")
        print(
            f"  {name:<12}{len(taken):>7}  p50 {cuts[49] * 1e3:.1f} ms  p99 {cuts[98] * 1e3:.1f} ms"
        )


# ── The parts: an item is one piece of work ────────────────────────────────────────────────────


def _documents(caller: Caller) -> Iterator[None]:
    """Written, and read back."""
    for number in itertools.count():
        path = f"/v1/collections/orders/documents/{number}"
        caller.put(path, json.dumps({"total": number, "region": "us-east"}).encode())
        caller.get(path)
        yield


def _search(questions: Iterator[str], caller: Caller) -> Iterator[None]:
    for question in questions:
        caller.post("/v1/indexes/bench/search", json.dumps({"query": question, "k": 10}).encode())
        yield


def _streams(caller: Caller) -> Iterator[None]:
    """Ten events appended, read and acknowledged."""
    events = json.dumps([{"type": "order", "data": {"n": n}} for n in range(10)]).encode()
    caller.put("/v1/streams/orders/groups/mailer", b"{}")
    while True:
        caller.post("/v1/streams/orders/events", events)
        tokens = caller.read("/v1/streams/orders/groups/mailer", 10)
        caller.acknowledge("/v1/streams/orders/groups/mailer", tokens)
        yield


def _jobs(caller: Caller) -> Iterator[None]:
    """One added, claimed and completed."""
    claim = b'{"worker":"w","limit":1,"lease_s":60}'
    while True:
        caller.post("/v1/queues/mail/jobs", b'{"payload":{"to":"ada@example.com"}}')
        for job in json.loads(caller.post("/v1/queues/mail/claim", claim))["jobs"]:
            caller.post(
                f"/v1/jobs/{job['id']}/complete", json.dumps({"token": job["token"]}).encode()
            )
        yield


def _chat(caller: Caller) -> Iterator[None]:
    """Conversations of twelve turns, of 64 tokens each."""
    for number in itertools.count():
        said = [{"role": "user", "content": f"Tell me a story about a ship with {number} masts."}]
        for _ in range(12):
            asked = {"messages": said, "max_tokens": 64, "temperature": 0.7, "seed": number}
            answer = json.loads(caller.post("/v1/chat/completions", json.dumps(asked).encode()))
            said.append(answer["choices"][0]["message"])
            said.append({"role": "user", "content": "And what happened then?"})
            yield


if __name__ == "__main__":
    sys.exit(main())
