"""BM25 (Robertson et al. 1994) as FTS5 has it, over statistics of one index alone."""

from __future__ import annotations

import math

K1 = 1.2
B = 0.75

IDF_MIN = 1e-6
"""What a word counts that is in half of the documents or more, as in FTS5."""


def idf(documents: int, with_word: int) -> float:
    """How much a word says that so many of the documents have."""
    weight = math.log((documents - with_word + 0.5) / (with_word + 0.5))
    return weight if weight > 0 else IDF_MIN
