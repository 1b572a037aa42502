"""Metadata by column, for filters: each value once, and which of them a row has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from monolite.search.filters import holds, unknown_field
from monolite.search.index import Condition

MISSING = 0


class Column:
    """One path of the metadata: a code by row, int32; 0 for rows that have nothing there."""

    def __init__(self) -> None:
        self.values: list[Any] = [None]
        self._known: dict[str, int] = {}
        self._codes = np.zeros(1024, np.int32)
        self._count = 0

    def extend(self, texts: Iterable[str | None]) -> None:
        """Add rows: the JSON text of each one's value, or None."""
        codes = np.fromiter((self._code(text) for text in texts), np.int32)
        end = self._count + len(codes)
        if end > len(self._codes):
            grown = np.zeros(max(end, 2 * len(self._codes)), np.int32)
            grown[: self._count] = self._codes[: self._count]
            self._codes = grown
        self._codes[self._count : end] = codes
        self._count = end

    def keep(self, chosen: NDArray[np.int64]) -> None:
        """Drop all rows but the chosen."""
        kept = self._codes[chosen]
        self._codes, self._count = kept, len(kept)

    def passes(self, condition: Condition, count: int) -> NDArray[np.bool_]:
        """Which of the first `count` rows pass. A row without a value passes nothing."""
        table = np.zeros(len(self.values), np.bool_)
        for code, value in enumerate(self.values):
            table[code] = code != MISSING and holds(condition, value)
        passing: NDArray[np.bool_] = table[self._codes[:count]]
        return passing

    def _code(self, text: str | None) -> int:
        if text is None:
            return MISSING
        code = self._known.get(text)
        if code is None:
            code = self._known[text] = len(self.values)
            self.values.append(msgspec.json.decode(text))
        return code


def passing(
    columns: dict[tuple[str, ...], Column], where: Sequence[Condition], count: int
) -> NDArray[np.bool_]:
    """Which rows pass every condition. Raises Invalid for a path that no row has."""
    result = np.ones(count, np.bool_)
    for condition in where:
        column = columns[condition.path]
        if count and len(column.values) == 1:
            raise unknown_field(condition)
        result &= column.passes(condition, count)
    return result
