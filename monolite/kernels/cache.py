"""A layer's keys and values, quantized as they come: 4 or 8 bits a key, 8 a value.

    keys    uint8 [heads, capacity / 16, d / 4, 16, 4], or with 4 bits [heads, capacity / 16, d / 8,
            16, 4] with quads 2i and 2i + 1 in the halves of a byte; 16 positions lie where a matrix
            has 16 rows, so that one vector holds a part of all of them
    values  int8 [heads, capacity, d]

with float32 [heads, capacity] each of key_scale, key_minimum and value_scale:
key = key_minimum + key_scale * code, value = value_scale * code. A token of d = 64 takes
40 + 68 bytes a head with 4-bit keys, 72 + 68 with 8-bit ones, and 512 in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

WIDTH_MAX = 256


@dataclass(frozen=True, eq=False)
class Cache:
    """Room for `capacity` positions. The arrays are written in place, and may be mapped."""

    key_bits: Literal[4, 8]
    width: int
    keys: NDArray[np.uint8]
    key_scale: F32
    key_minimum: F32
    values: NDArray[np.int8]
    value_scale: F32

    @property
    def heads(self) -> int:
        return int(self.key_scale.shape[0])

    @property
    def capacity(self) -> int:
        return int(self.key_scale.shape[1])

    @cached_property
    def native(self) -> Any:
        """The same as the library's structure, made once."""
        from monolite.kernels.native import cache_structure

        return cache_structure(self)


def empty(heads: int, capacity: int, width: int, key_bits: Literal[4, 8]) -> Cache:
    """A cache of `heads` heads of `width` values for `capacity` positions.

    Raises:
        ValueError: the capacity is no multiple of 16, or the width none of 8 or above 256.
    """
    if capacity % 16 or capacity < 16:
        raise ValueError(f"a cache for {capacity} positions: they go by 16")
    if width % 8 or not 0 < width <= WIDTH_MAX:
        raise ValueError(f"heads of {width} values: they go by 8, up to {WIDTH_MAX}")
    groups, bytes_per_group = capacity // 16, 16 * width * key_bits // 8
    scales = np.zeros((3, heads, capacity), np.float32)
    return Cache(
        key_bits,
        width,
        np.zeros((heads, groups, bytes_per_group // 64, 16, 4), np.uint8),
        scales[0],
        scales[1],
        np.zeros((heads, capacity, width), np.int8),
        scales[2],
    )


def dequantized(cache: Cache, count: int) -> tuple[F32, F32]:
    """Keys and values float32 [heads, count, width] of the first positions."""
    codes = cache.keys
    if cache.key_bits == 4:
        halves = np.stack([codes & 15, codes >> 4], axis=3)  # [heads, groups, d / 8, 2, 16, 4]
        codes = halves.reshape(cache.heads, -1, cache.width // 4, 16, 4)
    codes = codes.transpose(0, 1, 3, 2, 4).reshape(cache.heads, cache.capacity, cache.width)
    keys = cache.key_minimum[:, :, None] + cache.key_scale[:, :, None] * codes
    values = cache.value_scale[:, :, None] * cache.values
    return keys[:, :count], values[:, :count]
