"""Vectors as bytes, float32 little-endian. Imports numpy: for use with the first vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def as_unit(values: Sequence[float]) -> bytes:
    """Values scaled to length 1; raises ValueError where that can't be."""
    with np.errstate(over="ignore"):
        vector = np.array(values, np.float64)
        length = float(np.linalg.norm(vector))
    if not np.isfinite(vector).all() or not np.isfinite(length):
        raise ValueError("takes finite numbers")
    if length == 0:
        raise ValueError("is zero, which has no direction")
    return bytes((vector / length).astype("<f4").tobytes())


def from_bytes(vector: bytes) -> NDArray[np.float32]:
    """A view of a stored vector."""
    return np.frombuffer(vector, "<f4")
