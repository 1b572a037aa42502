"""Metadata by column, for filters: each value once, and which of them a row has.

rows  ──► codes int32 [N]     which value a row has; 0 for none
values ─► pairs of (code, element): a scalar is its own only element, a list has several
elements: kind, number, text: what a condition looks at, each once
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import ge, gt, le, lt
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from monolite.search.growing import Growing
from monolite.search.index import Condition

MISSING = 0
_NUMBER, _TEXT, _OTHER = 1, 2, 3
_EXACT_MAX = 2**53
_ORDER: dict[str, Callable[[Any, Any], Any]] = {"gt": gt, "gte": ge, "lt": lt, "lte": le}


class Column:
    """One path of the metadata."""

    def __init__(self) -> None:
        self._codes = Growing("<i4")
        self._code_of: dict[str, int] = {}
        self._pair_codes, self._pair_elements = Growing("<i4"), Growing("<i4")
        self._kinds, self._numbers = Growing("u1"), Growing("<f8")
        self._elements: list[Any] = []
        self._element_of: dict[tuple[int, Any], int] = {}

    def __len__(self) -> int:
        return self._codes.count

    @property
    def is_empty(self) -> bool:
        """Whether no row ever had a value here."""
        return not self._code_of

    def extend(self, texts: Iterable[str | None]) -> None:
        """Add rows: the JSON text of each one's value, or None."""
        self._codes.extend([MISSING if text is None else self._code(text) for text in texts])

    def chosen(self, rows: NDArray[np.int64]) -> Column:
        """A column of the chosen rows, with the same values."""
        made = Column.__new__(Column)
        made.__dict__.update(self.__dict__)
        made._codes = Growing("<i4")
        made._codes.extend(self._codes.now[rows])
        return made

    def passes(self, condition: Condition, count: int) -> NDArray[np.bool_]:
        """Which of the first `count` rows pass; a row without a value never does."""
        elements = self._passing_elements(condition)
        codes = np.zeros(len(self._code_of) + 1, np.bool_)
        pairs = elements[self._pair_elements.now]
        codes[self._pair_codes.now[pairs]] = True
        passing: NDArray[np.bool_] = codes[self._codes.now[:count]]
        return passing

    def _passing_elements(self, condition: Condition) -> NDArray[np.bool_]:
        operator, value = condition.operator, condition.value
        if operator in ("eq", "neq", "in"):
            passing = np.full(len(self._elements), operator == "neq", np.bool_)
            for one in value if operator == "in" else [value]:
                element = self._element_of.get((_kind(one), one))
                if element is not None:
                    passing[element] = operator != "neq"
            return passing
        compare = _ORDER[operator]
        if isinstance(value, str):
            texts = (
                isinstance(element, str) and bool(compare(element, value))
                for element in self._elements
            )
            return np.fromiter(texts, np.bool_, len(self._elements))
        numbers = self._numbers.now
        found: NDArray[np.bool_] = (self._kinds.now == _NUMBER) & compare(numbers, _float(value))
        if abs(value) >= _EXACT_MAX:
            # Two integers may share a float.
            for element in np.flatnonzero(numbers == _float(value)).tolist():
                found[element] = compare(self._elements[element], value)
        return found

    def _code(self, text: str) -> int:
        code = self._code_of.get(text)
        if code is None:
            code = self._code_of[text] = len(self._code_of) + 1
            value = msgspec.json.decode(text)
            elements = {
                self._element(one)
                for one in (value if isinstance(value, list) else [value])
                if not isinstance(one, (dict, list))
            }
            self._pair_codes.extend([code] * len(elements))
            self._pair_elements.extend(list(elements))
        return code

    def _element(self, value: Any) -> int:
        key = _kind(value), value
        element = self._element_of.get(key)
        if element is None:
            element = self._element_of[key] = len(self._elements)
            self._elements.append(value)
            self._kinds.extend([key[0]])
            self._numbers.extend([_float(value) if key[0] == _NUMBER else 0.0])
        return element


def _kind(value: Any) -> int:
    # True equals 1 in Python, and not in JSON.
    if isinstance(value, bool) or value is None:
        return _OTHER
    return _TEXT if isinstance(value, str) else _NUMBER


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
