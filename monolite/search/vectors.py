"""Vectors as bytes, float32 little-endian. Imports numpy: for use with the first vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def as_unit(values: Sequence[float]) -> bytes:
    """Values scaled to length 1; raises ValueError where that can't be."""
    vector = np.array(values, np.float64)
    # By the largest first: squares of what is very large or small have no float.
    largest = float(np.abs(vector).max(initial=0.0))
    if not np.isfinite(largest):
        raise ValueError("takes finite numbers")
    if largest == 0:
        raise ValueError("is zero, which has no direction")
    vector /= largest
    return bytes((vector / np.sqrt(vector @ vector)).astype("<f4").tobytes())


def from_bytes(vector: bytes) -> NDArray[np.float32]:
    """A view of a stored vector."""
    return np.frombuffer(vector, "<f4")


def as_matrix(found: Sequence[tuple[int, bytes]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Keys [n] and vectors [n, D] of rows as they were read; n is at least 1."""
    keys = np.array([key for key, _ in found], np.int64)
    vectors = np.frombuffer(b"".join([vector for _, vector in found]), "<f4")
    return keys, vectors.reshape(len(found), -1)
