"""Chroma and Qdrant's local mode in a process of their own, and an interpreter of their own.

What they ask for would bind this environment's packages, so they get one in the cache directory.
The child holds the index, answers each line "CLIENTS SECONDS" by as many threads asking as fast as
they can, each time for another query, and goes when its input ends.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("chromadb==1.5.9", "qdrant-client==1.20.0")
NAMES = ("Chroma", "Qdrant")
K = 10
ASKED = 100
_AT_ONCE = 2000
_NAME = "bench"

Ask = Callable[[Any], list[int]]


@dataclass(frozen=True)
class Asked:
    """What one run counted."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


class Peer:
    """One of NAMES over the vectors of `folder`; `recall` is of an exact search's ten."""

    def __init__(self, name: str, folder: Path, cache: Path) -> None:
        self._child = subprocess.Popen(
            [_interpreter(cache), __file__, name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        ready = self._answer()
        self.recall, self.build_s = ready["recall"], ready["build_s"]

    @property
    def pid(self) -> int:
        return self._child.pid

    def run(self, clients: int, seconds: float) -> Asked:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{clients} {seconds}\n")
        self._child.stdin.flush()
        return Asked(**self._answer())

    def stop(self) -> None:
        self._child.communicate(timeout=60)

    def _answer(self) -> dict[str, float]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._child.args!r} ended with {self._child.wait()}")
        found: dict[str, float] = json.loads(line)
        return found


def _interpreter(cache: Path) -> str:
    place = cache / "vector-peers"
    python = place / "bin" / "python"
    done = place / "installed"
    if not done.exists():
        venv.create(place, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
        done.touch()
    return str(python)


# ── The child ──────────────────────────────────────────────────────────────────────────────────


def _chroma(vectors: Any, texts: list[str], folder: Path) -> Ask:
    import chromadb
    from chromadb.config import Settings

    settings = Settings(anonymized_telemetry=False)
    client = chromadb.PersistentClient(str(folder / "chroma"), settings=settings)
    collection = client.create_collection(_NAME, configuration={"hnsw": {"space": "cosine"}})
    for first in range(0, len(vectors), _AT_ONCE):
        rows = range(first, min(first + _AT_ONCE, len(vectors)))
        collection.add(
            ids=[str(row) for row in rows],
            embeddings=vectors[rows.start : rows.stop],
            documents=texts[rows.start : rows.stop],
            metadatas=[{"n": row} for row in rows],
        )

    def ask(query: Any) -> list[int]:
        found = collection.query(query_embeddings=[query], n_results=K)
        return [int(each) for each in found["ids"][0]]

    return ask


def _qdrant(vectors: Any, texts: list[str], folder: Path) -> Ask:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Distance, PointStruct, VectorParams

    client = QdrantClient(":memory:")
    client.create_collection(
        _NAME, vectors_config=VectorParams(size=vectors.shape[1], distance=Distance.COSINE)
    )
    for first in range(0, len(vectors), _AT_ONCE):
        client.upsert(
            _NAME,
            [
                PointStruct(id=row, vector=vectors[row], payload={"n": row, "text": texts[row]})
                for row in range(first, min(first + _AT_ONCE, len(vectors)))
            ],
        )

    def ask(query: Any) -> list[int]:
        return [int(each.id) for each in client.query_points(_NAME, query=query, limit=K).points]

    return ask


def _load(ask: Ask, queries: Any, clients: int, seconds: float) -> dict[str, float]:
    taken: list[float] = []
    counting = time.perf_counter() + 0.5
    ends = counting + seconds

    def client(first: int) -> None:
        row = first
        began = time.perf_counter()
        while began < ends:
            ask(queries[row % len(queries)])
            now = time.perf_counter()
            if now >= counting:
                taken.append(now - began)
            row += clients
            began = now

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    elapsed = time.perf_counter() - counting
    p50, p99 = np.quantile(taken, [0.5, 0.99])
    return {
        "requests_per_s": len(taken) / elapsed,
        "p50_ms": 1000 * float(p50),
        "p99_ms": 1000 * float(p99),
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("folder", type=Path)
    chosen = parser.parse_args()
    vectors = np.load(chosen.folder / "vectors.npy")
    queries = np.load(chosen.folder / "queries.npy")
    texts = (chosen.folder / "texts").read_text().split("\n")
    began = time.perf_counter()
    ask = {"Chroma": _chroma, "Qdrant": _qdrant}[chosen.name](vectors, texts, chosen.folder)
    build_s = time.perf_counter() - began
    found = 0
    for query in queries[:ASKED]:
        nearest = set(np.argsort(-(vectors @ query))[:K].tolist())
        found += len(nearest & set(ask(query)))
    print(json.dumps({"recall": found / (ASKED * K), "build_s": build_s}), flush=True)
    for line in sys.stdin:
        clients, seconds = line.split()
        print(json.dumps(_load(ask, queries, int(clients), float(seconds))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
