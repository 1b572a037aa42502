"""Arrays that grow at their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Growing:
    """An array that grows at its end. What `now` gave stays as it is."""

    def __init__(self, dtype: str, items: Sequence[Any] | NDArray[Any] = ()) -> None:
        self._items = np.zeros(max(256, len(items)), dtype)
        self.count = 0
        self.extend(items)

    @property
    def now(self) -> NDArray[Any]:
        """All items; not to be written to."""
        return self._items[: self.count]

    def extend(self, items: Sequence[Any] | NDArray[Any]) -> None:
        """Add items behind the last."""
        end = self.count + len(items)
        if end > len(self._items):
            grown = np.zeros(max(end, 2 * len(self._items)), self._items.dtype)
            grown[: self.count] = self._items[: self.count]
            self._items = grown
        self._items[self.count : end] = items
        self.count = end
