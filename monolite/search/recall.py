"""How many of the nearest a prefiltered search finds, measured on queries that were asked."""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np
from numpy.typing import NDArray

from monolite.search.index import Recall
from monolite.search.scan import PREFILTERED_FROM, nearest
from monolite.search.scope import RowSource, Scope
from monolite.search.vectors import as_matrix

SAMPLES_MAX = 32
SAMPLED_EVERY = 4
K = 10
_AGAIN_S = 60.0


class RecallSamples:
    """The queries of one index that are kept for it, the latest ones, and what they told."""

    def __init__(self) -> None:
        self._queries: deque[NDArray[np.float32]] = deque(maxlen=SAMPLES_MAX)
        self._seen = 0
        self._lock = threading.Lock()
        self._measured: tuple[float, Recall] | None = None

    def add(self, query: NDArray[np.float32]) -> None:
        """A search for it was prefiltered; one in so many is kept."""
        self._seen += 1
        if self._seen % SAMPLED_EVERY == 0 or not self._queries:
            self._queries.append(query)

    def measure(self, scope: Scope, source: RowSource) -> Recall | None:
        """Search for each again, both ways; what was found less than a minute ago is told again.
        None for an index that is always scanned whole.
        """
        if scope.alive_count <= PREFILTERED_FROM:
            return None
        with self._lock:
            known, now = self._measured, time.monotonic()
            if known is not None and now - known[0] < _AGAIN_S:
                return known[1]
            queries = list(self._queries)
            found = [_found(scope, source, query) for query in queries]
            if not found:
                found = [
                    _found(scope, source, vector, key) for key, vector in _stored(scope, source)
                ]
            value = float(np.mean(found)) if found else 1.0
            made = Recall(value, len(found), "queries" if queries else "documents")
            self._measured = now, made
            return made


def _found(
    scope: Scope, source: RowSource, query: NDArray[np.float32], own: int | None = None
) -> float:
    """The part of the K nearest, but for a document itself, that is found."""
    quick = nearest(scope, source, query, K + 1, None)
    exact = nearest(scope, source, query, K + 1, None, exact=True)
    wanted = exact.keys[exact.keys != own][:K]
    return float(np.isin(wanted, quick.keys[quick.keys != own][:K]).mean()) if len(wanted) else 1.0


def _stored(scope: Scope, source: RowSource) -> list[tuple[int, NDArray[np.float32]]]:
    alive = scope.keys[scope.alive]
    chosen = alive[:: max(1, len(alive) // SAMPLES_MAX)][:SAMPLES_MAX]
    found = source.vectors_of(chosen.tolist())
    if not found:
        return []
    keys, vectors = as_matrix(found)
    return list(zip(keys.tolist(), vectors, strict=True))
