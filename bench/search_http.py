"""Search over HTTP among 100 000 documents, beside Chroma and Qdrant's local mode in their process.

Documents are real sentences with the default model's vectors (minilm.py). One client asks with a
text that was never asked before, a piece of 8 to 11 words of a sentence, so each answer is an
embedding, a scan and ten documents. Sixteen clients ask by text, and by the vectors that the peers
are asked with: sixteen threads in their own process, without HTTP, a key or a tenant.
With --core the server, its kernels with it, has that core alone, and the load generator another.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import load, minilm, options, servers
from bench.load import Load, Target
from bench.machine import pss_bytes
from bench.rounds import Figure, in_turn, ratios, report
from bench.servers import Server
from bench.vector_peers import NAMES, Asked, Peer

F32 = NDArray[np.float32]

CLIENTS = 16
K = 10
QUERIES = 2000
ONE, TEXTS, VECTORS = "one client, a new text", "16 clients, new texts", "16 clients, vectors"
_ROUTE = "/v1/indexes/bench"
_AT_ONCE = 10_000
_TIMEOUT_S = 300


def main() -> int:
    parser = options.parser(__doc__ or "", "search_http", rounds=5, seconds=None)
    parser.add_argument("--documents", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="each run (%(default)s)")
    parser.add_argument("--core", type=int, help="pin the server, or a peer, to this one core")
    parser.add_argument("--kernels", default="auto", help="variant of ours (%(default)s)")
    parser.add_argument(
        "--peers", default=",".join(NAMES), help="by comma, or nothing (%(default)s)"
    )
    parser.add_argument(
        "--executable", metavar="FILE", help="measure this executable instead of the source"
    )
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    if chosen.core is not None:
        # Inherited by all that is started from here on; the load generator is put elsewhere.
        os.sched_setaffinity(0, {chosen.core})
    vectors, texts, queries, questions = material(chosen.documents)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    (folder / "texts").write_text("\n".join(texts))
    data = folder / "monolite"
    server = servers.start_monolite(
        data, command=options.command_of(chosen), MONOLITE_KERNELS=chosen.kernels
    )
    key = servers.monolite_key(data)
    began = time.perf_counter()
    fill(server, key, vectors, texts)
    recall = _recall(server, key, vectors, queries[:100])
    print(f"ours: {time.perf_counter() - began:.1f} s to store, recall {recall:.3f}")
    peers = {}
    for name in filter(None, chosen.peers.split(",")):
        peers[name] = Peer(name, folder, minilm.cache())
        print(f"{name}: {peers[name].build_s:.1f} s to store, recall {peers[name].recall:.3f}")
    contenders: dict[str, Any] = {
        ONE: partial(_by_text, server, key, folder, questions, 1, chosen),
        TEXTS: partial(_by_text, server, key, folder, questions, CLIENTS, chosen),
        VECTORS: partial(_by_vector, server, key, folder, queries, chosen),
    }
    for name, peer in peers.items():
        contenders[name] = partial(peer.run, CLIENTS, chosen.seconds)
    measured: dict[str, list[Load | Asked]] = in_turn(contenders, chosen.rounds)
    memory = dict.fromkeys((ONE, TEXTS, VECTORS), server.pss_mb())
    memory |= {name: pss_bytes(peer.pid) / 1e6 for name, peer in peers.items()}
    _print(measured, memory)
    for peer in peers.values():
        peer.stop()
    figures = [
        Figure(
            "p50 of one client",
            [each.p50_ms for each in measured[ONE]],
            at_most=2 if chosen.core is None else 3,
            unit=" ms",
        ),
        Figure("p99", [each.p99_ms for each in measured[ONE]], at_most=5, unit=" ms"),
        Figure("recall at 10", [recall], at_least=0.99, unit=""),
    ]
    for name in peers:
        theirs = _rates(measured[name])
        by_vector, by_text = (ratios(_rates(measured[ours]), theirs) for ours in (VECTORS, TEXTS))
        figures += [
            Figure(f"requests/s by vector, to {name}", by_vector, at_least=2),
            Figure(f"by text, embedding included, to {name} by vector", by_text),
        ]
    return report(figures)


def _rates(some: list[Load | Asked]) -> list[float]:
    return [each.requests_per_s for each in some]


def _print(measured: dict[str, list[Load | Asked]], memory: dict[str, float]) -> None:
    print(f"{'':<28}{'requests/s':>11} {'min–max':>13}{'p50 ms':>8}{'p99 ms':>8}{'PSS MB':>8}")
    for name, runs in measured.items():
        rates = _rates(runs)
        print(
            f"{name:<28}{statistics.median(rates):>11.0f} "
            f"{f'{min(rates):.0f}–{max(rates):.0f}':>13}"
            f"{statistics.median(each.p50_ms for each in runs):>8.2f}"
            f"{statistics.median(each.p99_ms for each in runs):>8.2f}{memory[name]:>8.0f}"
        )


# ── What is stored and asked ───────────────────────────────────────────────────────────────────


def material(count: int) -> tuple[F32, list[str], F32, Iterator[str]]:
    """Vectors and texts to store, vectors of sentences that aren't, and new questions for ever."""
    everything, sentences = minilm.embedded(count + 100), minilm.sentences()
    real = min(len(sentences), len(everything)) - QUERIES
    queries = np.array(everything[real : real + QUERIES])
    kept = np.concatenate([everything[:real], everything[real + QUERIES :]])
    vectors = np.ascontiguousarray(kept[:count])
    texts = [sentences[row % real] for row in range(len(vectors))]
    return vectors, texts, queries, _questions(sentences)


def _questions(sentences: list[str]) -> Iterator[str]:
    seen = set()
    for turn in itertools.count():
        for number, sentence in enumerate(sentences):
            words = sentence.split()
            size = 8 + (number + turn) % 4
            piece = " ".join(words[turn : turn + size])
            if len(words) >= turn + size and piece not in seen:
                seen.add(piece)
                yield piece


def fill(server: Server, key: str, vectors: F32, texts: list[str]) -> None:
    headers = {"Content-Type": "application/x-ndjson", "Authorization": key}
    for first in range(0, len(vectors), _AT_ONCE):
        lines = "".join(
            json.dumps(
                {
                    "id": str(row),
                    "text": texts[row],
                    "vector": vectors[row].tolist(),
                    "metadata": {"n": row},
                }
            )
            + "\n"
            for row in range(first, min(first + _AT_ONCE, len(vectors)))
        )
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_TIMEOUT_S)
        connection.request("POST", f"{_ROUTE}/documents", lines, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"not stored: {answer.status} {content[:400]!r}")
    deadline = time.monotonic() + _TIMEOUT_S
    while (shown := server.call("GET", _ROUTE, token=key))["progress"] < 1:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not ready: {shown}")
        time.sleep(0.1)
    if shown["documents"] != len(vectors):
        raise RuntimeError(f"{shown['documents']} documents are stored, not {len(vectors)}")
    print(f"ours: scan {shown['scan']}, {shown['bytes'] / len(vectors):.0f} bytes a vector")


def _recall(server: Server, key: str, vectors: F32, queries: F32) -> float:
    found = 0
    for query in queries:
        asked = {"vector": query.tolist(), "k": K}
        hits = server.call("POST", f"{_ROUTE}/search", asked, token=key)["hits"]
        nearest = np.argsort(-(vectors @ query))[:K]
        found += len({str(row) for row in nearest} & {hit["id"] for hit in hits})
    return found / (K * len(queries))


def _by_text(
    server: Server,
    key: str,
    folder: Path,
    questions: Iterator[str],
    clients: int,
    chosen: argparse.Namespace,
) -> Load:
    # More than it can ask in its time: none comes twice.
    most = int((chosen.seconds + 1) * (1500 if clients == 1 else 3000))
    bodies = [json.dumps({"query": text, "k": K}) for text in itertools.islice(questions, most)]
    return _loaded(server, key, folder, bodies, clients, chosen)


def _by_vector(
    server: Server, key: str, folder: Path, queries: F32, chosen: argparse.Namespace
) -> Load:
    # As many digits as a line of the generator has room for.
    bodies = [
        json.dumps({"vector": np.round(query.astype(float), 4).tolist(), "k": K})
        for query in queries
    ]
    return _loaded(server, key, folder, bodies, CLIENTS, chosen)


def _loaded(
    server: Server,
    key: str,
    folder: Path,
    bodies: list[str],
    clients: int,
    chosen: argparse.Namespace,
) -> Load:
    paths, lines = folder / "paths", folder / "bodies"
    paths.write_text(f"{_ROUTE}/search\n")
    lines.write_text("\n".join(bodies) + "\n")
    headers = ("Content-Type: application/json", f"Authorization: {key}")
    target = Target(server.port, paths, method="POST", bodies=lines, headers=headers)
    before = os.sched_getaffinity(0)
    if chosen.core is not None:
        others = set(range(os.cpu_count() or 1)) - {chosen.core}
        os.sched_setaffinity(0, others or before)
    try:
        return load.run(target, seconds=chosen.seconds, connections=clients)
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    sys.exit(main())
