"""BM25 over a scope's rows: which rows have a word, and how often.

What is read once is kept for words that many rows have, since reading it is what costs. Rows are
appended and keys never change, so what is kept stays right, and is read on from its last row.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monolite.search import bm25
from monolite.search.scope import Ranked, RowSource, Scope

KEPT_FROM = 256
"""Rows with a word for which it is kept."""

KEPT_BYTES_MIN = 4 << 20
KEPT_BYTES_PER_ROW = 8


@dataclass(frozen=True)
class Posting:
    """The rows that have a word, ascending, among the first `seen` ones; and how often each."""

    rows: NDArray[np.int32]
    counts: NDArray[np.uint16]
    seen: int

    @property
    def bytes(self) -> int:
        return self.rows.nbytes + self.counts.nbytes


class Postings:
    """Those of one index that are kept, within bounds; the least lately used goes first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Posting] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def of(self, word: str, scope: Scope, source: RowSource) -> Posting:
        """The rows of the scope that have a word, dead ones among them."""
        with self._lock:
            known = self._kept.get(word)
            if known is not None:
                self._kept.move_to_end(word)
        if known is None or known.seen < len(scope):
            known = self._read_on(word, known, scope, source)
        if known.seen > len(scope):
            end = int(np.searchsorted(known.rows, len(scope)))
            return Posting(known.rows[:end], known.counts[:end], len(scope))
        return known

    def _read_on(
        self, word: str, known: Posting | None, scope: Scope, source: RowSource
    ) -> Posting:
        after = int(scope.keys[known.seen - 1]) if known is not None and known.seen else 0
        found = source.with_word(word, after)
        pairs = np.array(found, np.int64).reshape(-1, 2)
        rows = np.searchsorted(scope.keys, pairs[:, 0]).astype(np.int32)
        # An older snapshot may have rows that went when the file was compacted.
        is_here = scope.keys[np.minimum(rows, len(scope) - 1)] == pairs[:, 0]
        rows, counts = rows[is_here], pairs[is_here, 1].astype(np.uint16)
        if known is not None:
            rows, counts = (
                np.concatenate([known.rows, rows]),
                np.concatenate([known.counts, counts]),
            )
        made = Posting(rows, counts, len(scope))
        if len(rows) >= KEPT_FROM:
            self._keep(word, made, max(KEPT_BYTES_MIN, KEPT_BYTES_PER_ROW * len(scope)))
        return made

    def _keep(self, word: str, made: Posting, bytes_max: int) -> None:
        with self._lock:
            before = self._kept.get(word)
            if before is not None and before.seen >= made.seen:
                return
            self._kept[word] = made
            self._kept.move_to_end(word)
            self._bytes += made.bytes - (before.bytes if before else 0)
            while self._bytes > bytes_max and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].bytes


def rank_words(
    scope: Scope,
    source: RowSource,
    words: Sequence[str],
    k: int,
    allowed: NDArray[np.bool_] | None,
) -> Ranked:
    """The k best rows by BM25, any word matching; of those alive, and `allowed` where given."""
    lengths = np.where(scope.alive, scope.lengths, 0)
    documents = int(np.count_nonzero(lengths))
    if not documents:
        return Ranked(np.zeros(0, np.int64), np.zeros(0))
    length_mean = int(lengths.sum(dtype=np.int64)) / documents
    scores = np.zeros(len(scope))
    for word in dict.fromkeys(words):
        posting = scope.postings.of(word, scope, source)
        is_alive = scope.alive[posting.rows]
        rows, counts = posting.rows, posting.counts
        if not is_alive.all():
            rows, counts = rows[is_alive], counts[is_alive]
        if not len(rows):
            continue
        norm = bm25.K1 * (1 - bm25.B + bm25.B / length_mean * lengths[rows])
        weight = bm25.idf(documents, len(rows)) * (bm25.K1 + 1)
        scores[rows] += weight * counts / (counts + norm)
    if allowed is not None:
        scores[~allowed] = 0
    found = np.flatnonzero(scores)
    return Ranked.best(scope.keys[found], scores[found], k)
