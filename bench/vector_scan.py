"""The ten nearest of 100 000 or a million vectors: our three stages beside others' indexes.

Vectors are real sentences' (minilm.py); queries are sentences that were not indexed. Each round
asks every contender every query, one at a time; what is compared is the median latency of a round.
Recall is of the exact float32 ten. Memory is what a contender's arrays or file take; ours counts
codes, scales and bits, which are read by every search, and not the float vectors, of which a search
reads some thirty.

With --kernels avx2 the peers believe in a CPU without AVX-512 too (older_cpu.py).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import minilm, older_cpu, options
from bench.machine import Quietness
from bench.rounds import Figure, in_turn, ratios, report

F32 = NDArray[np.float32]
Ask = Callable[[F32], Any]
K = 10
PEERS = ("faiss", "usearch", "sqlite_vec")


@dataclass
class Contender:
    """`ask` gives the rows of the ten nearest, best first."""

    name: str
    ask: Ask
    bytes_per_vector: float
    build_s: float = 0.0
    recall: float = 0.0


def main() -> int:
    parser = options.parser(__doc__ or "", "vector_scan", rounds=7, seconds=None)
    parser.add_argument("--vectors", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--queries", type=int, default=100, help="each round (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of each contender (%(default)s)")
    parser.add_argument("--core", type=int, help="pin everything to this one core")
    parser.add_argument("--kernels", default="auto", help="variant of ours (%(default)s)")
    parser.add_argument("--only", default="", help="names that contain one of these, by comma")
    chosen = parser.parse_args()
    if chosen.core is not None:
        os.sched_setaffinity(0, {chosen.core})
        chosen.threads = 1
    if chosen.kernels not in ("auto", "avx512"):
        os.environ["FAISS_OPT_LEVEL"] = "AVX2"
        for package in PEERS[1:2]:
            older_cpu.use(package)
    return options.measure(lambda folder: run(chosen, folder))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    from monolite import kernels

    described = kernels.configure(chosen.kernels, threads=chosen.threads)
    vectors, queries = _vectors(chosen.vectors, chosen.queries)
    print(f"{len(vectors)} vectors, {len(queries)} queries, {described}")
    exact = _exact(vectors, queries)
    contenders = [
        each
        for make, package in (
            (_ours, "ours"),
            (_faiss, "faiss"),
            (_usearch, "usearch"),
            (_sqlite_vec, "sqlite"),
        )
        if not chosen.only
        or any(package in part or part in package for part in chosen.only.split(","))
        for each in make(vectors, chosen, folder)
        if any(part in each.name for part in chosen.only.split(","))
    ]
    for each in contenders:
        each.recall = _recall(each.ask, queries, exact)

    def timed(ask: Ask, some: F32) -> float:
        gc.disable()
        taken = []
        for query in some:
            began = time.perf_counter()
            ask(query)
            taken.append(time.perf_counter() - began)
        gc.enable()
        return 1000 * statistics.median(taken)

    quietness = Quietness()
    slow = {"sqlite-vec float32", "sqlite-vec int8"}
    measured = in_turn(
        {
            each.name: partial(timed, each.ask, queries[:5] if each.name in slow else queries)
            for each in contenders
        },
        chosen.rounds,
        pause_s=0.05,
    )
    print(f"{'':<44}{'ms':>9} {'min–max':>15}{'recall':>8}{'B/vector':>10}{'build s':>9}")
    for each in contenders:
        values = measured[each.name]
        print(
            f"{each.name:<44}{statistics.median(values):>9.3f} "
            f"{f'{min(values):.3f}–{max(values):.3f}':>15}{each.recall:>8.3f}"
            f"{each.bytes_per_vector:>10.0f}{each.build_s:>9.1f}"
        )
    print(quietness)
    return report(_figures(contenders, measured, chosen))


def _figures(
    contenders: list[Contender], measured: dict[str, list[float]], chosen: argparse.Namespace
) -> list[Figure]:
    by_name = {each.name: each for each in contenders}
    ours = by_name.get("ours")
    if ours is None:
        return []
    bounds = {"faiss SQ8": 0.15, "usearch exact i8": 0.12, "sqlite-vec int8": 0.012}
    figures = []
    if len(by_name) > 1:
        figures += [
            Figure(f"time to {name}", ratios(measured["ours"], values), at_most=bounds.get(name))
            for name, values in measured.items()
            if name != "ours"
        ]
    figures.append(Figure("recall at 10", [ours.recall], at_least=0.99, unit=""))
    figures.append(Figure("index to float32", [ours.bytes_per_vector / 1536], at_most=0.30))
    if chosen.vectors <= 100_000 and chosen.threads > 1:
        figures.append(Figure("ours", measured["ours"], at_most=0.7, unit=" ms"))
    return figures


def _vectors(count: int, query_count: int) -> tuple[F32, F32]:
    everything = minilm.embedded(count + query_count)
    # Sentences are in random order; the last ones are points between two where there are too few.
    real = min(len(minilm.sentences()), len(everything)) - query_count
    queries = np.array(everything[real : real + query_count])
    vectors = np.concatenate([everything[:real], everything[real + query_count :]])
    return np.ascontiguousarray(vectors[:count]), queries


def _exact(vectors: F32, queries: F32) -> NDArray[np.int64]:
    best = []
    for query in queries:
        scores = vectors @ query
        near = np.argpartition(scores, -K)[-K:]
        best.append(near[np.argsort(-scores[near])])
    return np.array(best)


def _recall(ask: Ask, queries: F32, exact: NDArray[np.int64]) -> float:
    found = [
        len({int(row) for row in ask(q)} & set(e.tolist()))
        for q, e in zip(queries, exact, strict=True)
    ]
    return sum(found) / exact.size


# ── The contenders ─────────────────────────────────────────────────────────────────────────────


def _ours(vectors: F32, chosen: argparse.Namespace, folder: Path) -> list[Contender]:
    from monolite import kernels
    from monolite.kernels.arrays import Rows

    count = len(vectors)
    began = time.perf_counter()
    codes, scale = kernels.quantize(vectors)
    bits = np.zeros((-(-count // 8), 6, 8), np.uint64)
    kernels.signs(vectors, bits, 0)
    build_s = time.perf_counter() - began
    rows = Rows(384, codes, scale, bits)
    whole = Rows(384, codes, scale)

    def three_stages(query: F32, candidates: int = 1000) -> NDArray[np.int64]:
        near, _ = kernels.search(rows, query, 30, candidates=candidates)
        scores = kernels.dot(vectors[near], query)
        return near[np.argsort(-scores)[:K]]

    def int8_and_rescore(query: F32) -> NDArray[np.int64]:
        near, _ = kernels.search(whole, query, 30)
        scores = kernels.dot(vectors[near], query)
        return near[np.argsort(-scores)[:K]]

    all_bytes = (codes.nbytes + scale.nbytes) / count
    with_bits = all_bytes + bits.nbytes / count
    return [
        Contender("ours", three_stages, with_bits, build_s),
        Contender("ours, int8 of all rows", int8_and_rescore, all_bytes, build_s),
    ]


def _faiss(vectors: F32, chosen: argparse.Namespace, folder: Path) -> list[Contender]:
    import faiss

    faiss.omp_set_num_threads(chosen.threads)
    d, count = vectors.shape[1], len(vectors)
    product = faiss.METRIC_INNER_PRODUCT

    def contender(name: str, index: Any, parameters: Any = None) -> Contender:
        began = time.perf_counter()
        index.train(vectors[:50_000])
        index.add(vectors)
        took = time.perf_counter() - began
        file = folder / "faiss"
        faiss.write_index(index, str(file))
        size = file.stat().st_size / count
        file.unlink()
        return Contender(
            name, lambda q: index.search(q[None], K, params=parameters)[1][0], size, took
        )

    scalar = faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_8bit, product)
    made = [contender("faiss SQ8", scalar)]
    if "refine" in chosen.only or not chosen.only:
        fast = faiss.IndexPQFastScan(d, d // 4, 4, product)
        refined = faiss.IndexRefine(
            fast, faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_8bit, product)
        )
        refined.k_factor = 30
        made.append(contender("faiss PQFastScan, refined in SQ8", refined))
        rabitq = faiss.IndexRefine(
            faiss.IndexRaBitQ(d, product),
            faiss.IndexScalarQuantizer(d, faiss.ScalarQuantizer.QT_8bit, product),
        )
        rabitq.k_factor = 30
        made.append(contender("faiss RaBitQ, refined in SQ8", rabitq))
    if count <= 100_000:
        graph = faiss.IndexHNSWFlat(d, 32, product)
        graph.hnsw.efConstruction = 100
        graph.hnsw.efSearch = 64
        made.append(contender("faiss HNSW32 float32, ef 64", graph))
    return made


def _usearch(vectors: F32, chosen: argparse.Namespace, folder: Path) -> list[Contender]:
    from usearch.index import MetricKind, ScalarKind, search

    threads = chosen.threads
    graph, size, build_s = _usearch_graph(vectors)
    bits = np.packbits(vectors > 0, axis=1)

    def exact(query: F32) -> Any:
        return graph.search(query, K, exact=True, threads=threads).keys

    def by_graph(query: F32) -> Any:
        return graph.search(query, K, threads=threads).keys

    def by_bits(query: F32) -> Any:
        one = np.packbits(query > 0)[None]
        near = search(
            bits, one, 1000, MetricKind.Hamming, exact=True, threads=threads, dtype=ScalarKind.B1
        ).keys
        near = np.asarray(near).ravel()
        scores = vectors[near] @ query
        return near[np.argsort(-scores)[:K]]

    def with_expansion(ask: Ask, expansion: int) -> Ask:
        def asked(query: F32) -> Any:
            graph.expansion_search = expansion
            return ask(query)

        return asked

    made = [
        Contender("usearch exact i8", exact, 384),
        Contender("usearch b1, 1000 rescored in float32", by_bits, 48),
    ]
    for expansion in (64, 256):
        name = f"usearch HNSW i8, ef {expansion}"
        made.append(Contender(name, with_expansion(by_graph, expansion), size, build_s))
    return made


def _usearch_graph(vectors: F32) -> tuple[Any, float, float]:
    """The graph, its bytes per vector and what building it took; one of a million is kept."""
    from usearch.index import Index

    graph = Index(ndim=384, metric="cos", dtype="i8", connectivity=16, expansion_add=128)
    kept = minilm.cache() / f"usearch-{len(vectors)}.index"
    facts = kept.with_suffix(".json")
    if facts.exists():
        graph.load(str(kept))
    else:
        began = time.perf_counter()
        graph.add(np.arange(len(vectors)), vectors, threads=2)
        took = time.perf_counter() - began
        graph.save(str(kept))
        facts.write_text(json.dumps({"bytes": graph.memory_usage, "build_s": took}))
    known = json.loads(facts.read_text())
    return graph, known["bytes"] / len(vectors), known["build_s"]


def _sqlite_vec(vectors: F32, chosen: argparse.Namespace, folder: Path) -> list[Contender]:
    import apsw
    import sqlite_vec

    if len(vectors) > 100_000:
        return []

    def contender(kind: str, encode: Callable[[F32], bytes], mark: str, size: int) -> Contender:
        db = apsw.Connection(":memory:")
        db.enable_load_extension(True)
        db.load_extension(sqlite_vec.loadable_path())
        column = f"e {kind}[384] distance_metric=cosine"
        db.execute(f"create virtual table v using vec0({column})")
        began = time.perf_counter()
        with db:
            db.executemany(
                f"insert into v(rowid, e) values (?, {mark})",
                ((row, encode(vector)) for row, vector in enumerate(vectors)),
            )
        took = time.perf_counter() - began
        ask = f"select rowid from v where e match {mark} and k = {K} order by distance"
        return Contender(
            f"sqlite-vec {'float32' if kind == 'float' else kind}",
            lambda q: [row for (row,) in db.execute(ask, (encode(q),))],
            size,
            took,
        )

    def eight_bits(vector: F32) -> bytes:
        return np.rint(vector * (127 / np.abs(vector).max())).astype(np.int8).tobytes()

    return [
        contender("float", lambda v: v.tobytes(), "?", 1536),
        contender("int8", eight_bits, "vec_int8(?)", 384),
    ]


if __name__ == "__main__":
    sys.exit(main())
