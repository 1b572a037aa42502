"""Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Iterable

RANK_CONSTANT = 60
"""The paper's k: how much less the first ranks count than they could."""


def depth_for(k: int) -> int:
    """How many of each ranking are fused for k hits."""
    return max(4 * k, 50)


def fuse(*rankings: Iterable[tuple[int, float]]) -> list[tuple[int, float]]:
    """Keys of several rankings by the sum of 1 / (60 + rank), best first; equal ones by key.

    >>> fuse([(7, 0.9), (8, 0.8)], [(8, 3.1)])
    [(8, 0.03252247488101534), (7, 0.01639344262295082)]
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (key, _) in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))
