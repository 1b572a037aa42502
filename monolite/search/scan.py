"""The nearest rows of a scope: signs, int8 codes, then float32 from the database.

    N rows ─ signs ─► CANDIDATES ─ int8 ─► 3 k ─ float32 ─► k      prefiltered
    N rows ───────── int8 ───────────────► 3 k ─ float32 ─► k      where few pass
    N rows ───────── int8 ──► as many as could be among the k ─►   `exact`

Rows that the mapped file doesn't have yet are scored in float32, all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monolite import kernels
from monolite.kernels.arrays import Rows
from monolite.search.scope import Ranked, RowSource, Scope
from monolite.search.vectors import as_matrix

F32 = NDArray[np.float32]

PREFILTERED_FROM = 20_000
"""Up to so many rows that pass are scored in int8 without a look at signs."""

CANDIDATES_MIN = 3000
_READ_AT_ONCE = 2000
_EXACT_FIRST = 256
_QUERY_NORM_MAX = 1.001
"""Stored vectors and queries have length 1, but for rounding."""


def candidates_for(passing: int, k: int) -> int:
    """How many of the rows that pass signs choose; 0 for all of them."""
    if passing <= PREFILTERED_FROM:
        return 0
    return max(CANDIDATES_MIN, 20 * k, passing // 200)


def prefilters(scope: Scope) -> bool:
    """Whether signs choose where every row of a scope passes."""
    return candidates_for(scope.alive_count, 1) > 0


def nearest(
    scope: Scope,
    source: RowSource,
    query: F32,
    k: int,
    allowed: NDArray[np.bool_] | None,
    *,
    exact: bool = False,
) -> Ranked:
    """The k rows with the highest cosine; of those that are alive, and `allowed` where given."""
    bits, passing = scope.alive_bits, scope.alive_count
    if allowed is not None:
        allowed = allowed & scope.alive
        passing = int(np.count_nonzero(allowed))
        bits = np.packbits(allowed[: len(scope.rows)], bitorder="little")
    mapped = scope.rows
    rows = Rows(mapped.width, mapped.codes, mapped.scale, mapped.bits, bits)
    if exact:
        keys, scores = _exactly(rows, scope, source, query, k)
    else:
        keys, scores = _nearly(rows, scope, source, query, k, candidates_for(passing, k))
    if len(scope) > len(mapped):
        which = scope.alive if allowed is None else allowed
        more = _unmapped(scope, source, query, k, which)
        keys = np.concatenate([keys, more.keys])
        scores = np.concatenate([scores, more.scores.astype(np.float32)])
    return Ranked.best(keys, scores, k)


def _nearly(
    rows: Rows, scope: Scope, source: RowSource, query: F32, k: int, candidates: int
) -> tuple[NDArray[np.int64], F32]:
    found, _ = kernels.search(rows, query, max(3 * k, k + 20), candidates=candidates)
    return _scored(source, scope.keys[found], query)


def _exactly(
    rows: Rows, scope: Scope, source: RowSource, query: F32, k: int
) -> tuple[NDArray[np.int64], F32]:
    """The k best, proved: no row that was not scored in float32 can be among them.

    With x = a c + e and q = b d + f, what int8 sees is a b (c d). It is off by at most
    |a c| |f| + |e| |q|, where no part of e is over a / 2.
    """
    scale_max = float(rows.scale.max()) if len(rows) else 0.0
    codes, step = kernels.quantize(query[None])
    off = query - (codes[0, : rows.width].astype(np.float32) - 128) * step[0]
    row_error = scale_max / 2 * rows.width**0.5
    error = (_QUERY_NORM_MAX + row_error) * float(np.linalg.norm(off))
    error += row_error * _QUERY_NORM_MAX
    wanted = max(_EXACT_FIRST, 4 * k)
    while True:
        found, int8_scores = kernels.search(rows, query, wanted)
        keys, scores = _scored(source, scope.keys[found], query)
        if len(found) < wanted:
            return keys, scores
        if len(scores) >= k and np.partition(scores, -k)[-k] > int8_scores[-1] + error:
            return keys, scores
        wanted *= 8


def _scored(
    source: RowSource, keys: NDArray[np.int64], query: F32
) -> tuple[NDArray[np.int64], F32]:
    found = source.vectors_of(keys.tolist())
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    names, vectors = as_matrix(found)
    return names, kernels.dot(vectors, query)


def _unmapped(
    scope: Scope, source: RowSource, query: F32, k: int, allowed: NDArray[np.bool_]
) -> Ranked:
    mapped = len(scope.rows)
    after = int(scope.keys[mapped - 1]) if mapped else 0
    last = int(scope.keys[-1])
    best = Ranked(np.zeros(0, np.int64), np.zeros(0, np.float32))
    while after < last:
        found: Sequence[tuple[int, bytes]] = source.vectors(after, _READ_AT_ONCE)
        if not found:
            break
        keys, vectors = as_matrix(found)
        after = int(keys[-1])
        places = np.searchsorted(scope.keys, keys)
        within = places < len(scope)
        within[within] = allowed[places[within]]
        scores = kernels.dot(vectors, query)
        best = Ranked.best(
            np.concatenate([best.keys, keys[within]]),
            np.concatenate([best.scores.astype(np.float32), scores[within]]),
            k,
        )
    return best
