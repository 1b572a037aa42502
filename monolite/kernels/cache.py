"""A layer's keys and values, quantized as they come: 4 or 8 bits a key, 8 a value, or 32 of both.

    keys         8 bits: uint8 [heads, capacity / 16, d / 4, 16, 4]; 16 positions lie where a matrix
                 has 16 rows, so that one vector holds a part of all of them
                 4 bits: uint8 [heads, capacity / 16 - 1, d / 8, 16, 4], quads 2i and 2i + 1 in the
                 halves of a byte
                 32 bits: float32 [heads, capacity / 16, d, 16]
    first_keys   with 4 bits: the first 16 positions' in 8, uint8 [heads, d / 4, 16, 4]
    key_scale    float16 [heads, capacity / 16, parts, 16]; a part is 32 values of a key, or all of
                 them where 32 doesn't divide d
    values       int8 [heads, capacity, d], or float32
    value_scale  float16 [heads, capacity]

8 bits: key = scale * (code - 128); 4 bits: key = scale * (code - 7.5); value = scale * code. A
token of d = 64 takes 36 + 66 bytes a head with 4-bit keys, 68 + 66 with 8-bit ones, 512 as floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F16 = NDArray[np.float16]
KeyBits = Literal[4, 8, 32]

WIDTH_MAX = 256
FIRST = 16
"""Positions whose keys a cache with 4 bits keeps in 8: all others attend to them."""

CUTS = (1.0, 0.94, 0.88, 0.82)
"""What 4-bit scales may leave of a part's greatest value; the one that errs least is taken."""


@dataclass(frozen=True, eq=False)
class Cache:
    """Room for `capacity` positions. The arrays are written in place, and may be mapped."""

    key_bits: KeyBits
    width: int
    keys: NDArray[Any]
    first_keys: NDArray[np.uint8]
    key_scale: F16
    values: NDArray[Any]
    value_scale: F16

    @property
    def heads(self) -> int:
        return int(self.values.shape[0])

    @property
    def capacity(self) -> int:
        return int(self.values.shape[1])

    @property
    def parts(self) -> int:
        return parts_of(self.width)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Everything it holds."""
        return self.keys, self.first_keys, self.key_scale, self.values, self.value_scale

    @property
    def byte_count(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    @cached_property
    def native(self) -> Any:
        """The same as the library's structure, made once."""
        from monolite.kernels.native import cache_structure

        return cache_structure(self)


def parts_of(width: int) -> int:
    """Into how many parts a key of `width` values goes."""
    return width // 32 if width % 32 == 0 else 1


def empty(heads: int, capacity: int, width: int, key_bits: KeyBits) -> Cache:
    """A cache of `heads` heads of `width` values for `capacity` positions.

    Raises:
        ValueError: the capacity is no multiple of 16, or the width none of 8 or above 256.
    """
    if capacity % 16 or capacity < 16:
        raise ValueError(f"a cache for {capacity} positions: they go by 16")
    if width % 8 or not 0 < width <= WIDTH_MAX:
        raise ValueError(f"heads of {width} values: they go by 8, up to {WIDTH_MAX}")
    groups, parts = capacity // 16, parts_of(width)
    if key_bits == 32:
        return Cache(
            32,
            width,
            np.zeros((heads, groups, width, 16), np.float32),
            np.zeros((heads, 0, 16, 4), np.uint8),
            np.zeros((heads, 0, parts, 16), np.float16),
            np.zeros((heads, capacity, width), np.float32),
            np.zeros((heads, 0), np.float16),
        )
    in_four = key_bits == 4
    return Cache(
        key_bits,
        width,
        np.zeros((heads, groups - in_four, width * key_bits // 32, 16, 4), np.uint8),
        np.zeros((heads, width // 4 if in_four else 0, 16, 4), np.uint8),
        np.zeros((heads, groups, parts, 16), np.float16),
        np.zeros((heads, capacity, width), np.int8),
        np.zeros((heads, capacity), np.float16),
    )


def byte_count(heads: int, capacity: int, width: int, key_bits: KeyBits) -> int:
    """What `empty` takes."""
    if key_bits == 32:
        return heads * capacity * width * 8
    keys = capacity * width * key_bits // 8
    if key_bits == 4:
        keys += FIRST * width // 2
    return heads * (keys + capacity * (width + 2 * parts_of(width) + 2))


def dequantized(cache: Cache, count: int) -> tuple[F32, F32]:
    """Keys and values float32 [heads, count, width] of the first positions."""
    heads, capacity, width = cache.values.shape
    if cache.key_bits == 32:
        keys = cache.keys.transpose(0, 1, 3, 2).reshape(heads, capacity, width)
        return keys[:, :count].copy(), cache.values[:, :count].copy()
    codes = cache.keys
    if cache.key_bits == 4:
        halves = np.stack([codes & 15, codes >> 4], axis=3)  # [heads, groups, d / 8, 2, 16, 4]
        codes = halves.reshape(heads, -1, width // 4, 16, 4)
        codes = np.concatenate([cache.first_keys[:, None], codes], axis=1)
    codes = codes.transpose(0, 1, 3, 2, 4).reshape(heads, capacity, cache.parts, -1)
    zero = np.full((capacity, 1, 1), 128, np.float32)
    if cache.key_bits == 4:
        zero[FIRST:] = 7.5
    scale = cache.key_scale.transpose(0, 1, 3, 2).reshape(heads, capacity, cache.parts, 1)
    keys = (scale.astype(np.float32) * (codes - zero)).reshape(heads, capacity, width)
    values = cache.value_scale[:, :, None].astype(np.float32) * cache.values
    return keys[:, :count].astype(np.float32), values[:, :count]


def copy_positions(old: Cache, new: Cache, count: int, *, source: int = 0, target: int = 0) -> None:
    """Copy `count` positions from `source` of one cache to `target` of another, or of the same; all
    three are multiples of 16 (a count may end within one), and `source` is 0 where `target` is.
    """
    groups, first, to = -(-count // 16), source // 16, target // 16
    for before, after, in_groups in _by_position(old, new):
        if in_groups:
            size, start, end = groups, first, to
        else:
            size, start, end = groups * 16, source, target
        after[:, end : end + size] = before[:, start : start + size]
    if old.key_bits == 4:
        if target == 0:
            new.first_keys[...] = old.first_keys
            size, start, end = groups - 1, 0, 0
        else:
            size, start, end = groups, first - 1, to - 1
        new.keys[:, end : end + size] = old.keys[:, start : start + size]


def _by_position(old: Cache, new: Cache) -> Iterator[tuple[NDArray[Any], NDArray[Any], bool]]:
    yield old.values, new.values, False
    if old.key_bits != 4:
        yield old.keys, new.keys, True
    if old.key_bits != 32:
        yield old.key_scale, new.key_scale, True
        yield old.value_scale, new.value_scale, False
