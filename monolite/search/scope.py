"""What one search looks at: the rows of an index that its snapshot of the database has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from monolite.kernels.arrays import Rows

if TYPE_CHECKING:
    from monolite.search.columns import Column
    from monolite.search.postings import Postings


class RowSource(Protocol):
    """The rows of one index, as a reader's snapshot has them."""

    def listed(self, after: int) -> Sequence[tuple[int, int]]:
        """Rows beyond a key, ascending: (key, how many words its text has)."""
        ...

    def removed(self, after: int) -> Sequence[tuple[int, int]]:
        """Removals beyond a number: (number, key)."""
        ...

    def vectors(self, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """Keys and vectors beyond a key, ascending."""
        ...

    def vectors_of(self, keys: Sequence[int]) -> Sequence[tuple[int, bytes]]:
        """Keys and vectors of those that are there, in any order."""
        ...

    def metadata(self, path: tuple[str, ...], after: int) -> Iterator[tuple[int, str]]:
        """Keys beyond a key, ascending, with the JSON text at a path of those that have one."""
        ...

    def with_word(self, word: str, after: int) -> Sequence[tuple[int, int]]:
        """Rows beyond a key that have a word, ascending: (key, how often)."""
        ...


@dataclass(frozen=True, eq=False)
class Scope:
    """N rows in the order of their keys, of which the mapped file has the first M.

    keys int64 [N]; alive bool [N]; lengths int32 [N], words of each text; `rows` of M. `alive_bits`
    is `alive` of M, packed, or None where all of them are. `columns` and `postings` are shared with
    other searches and may hold more rows than N.
    """

    keys: NDArray[np.int64]
    alive: NDArray[np.bool_]
    lengths: NDArray[np.int32]
    rows: Rows
    alive_bits: NDArray[np.uint8] | None
    alive_count: int
    columns: dict[tuple[str, ...], Column]
    postings: Postings

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Ranked:
    """Keys, best first, with their scores."""

    keys: NDArray[np.int64]
    scores: NDArray[np.float32] | NDArray[np.float64]

    @classmethod
    def best(
        cls,
        keys: NDArray[np.int64],
        scores: NDArray[np.float32] | NDArray[np.float64],
        k: int,
    ) -> Ranked:
        """The k highest scores, equal ones by key."""
        if len(keys) > 4 * k:
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            near = scores >= least
            keys, scores = keys[near], scores[near]
        order = np.lexsort((keys, -scores))[:k]
        return cls(keys[order], scores[order])
