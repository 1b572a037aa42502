"""The arrays that kernels take, and how weights are packed for them.

A packed matrix holds one byte a weight, 128 added, so that one vector of 64 bytes is the same four
columns of 16 rows::

    row group      column quad     row in group    column in quad
    [N / 16]       [K / 4]         [16]            [4]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_MULTIPLE = 32
"""A packed matrix has a multiple of this many rows: two groups, one tile of the widest variant."""


@dataclass(frozen=True)
class Linear:
    """Weights of y = W x + b, W [N, K] quantized by row.

    packed uint8 [N / 16, K / 4, 16, 4], scale float32 [N], bias float32 [N]. With `smooth`
    float32 [K], x is multiplied by it before it is quantized, and W was divided by it.
    """

    packed: NDArray[np.uint8]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    smooth: NDArray[np.float32] | None = None

    @property
    def rows(self) -> int:
        return len(self.scale)

    @property
    def columns(self) -> int:
        return int(self.packed.shape[1]) * 4


@dataclass(frozen=True)
class EncoderLayer:
    """One layer. `qkv` holds query, key and value one below the other, the query's weights and
    bias divided by the square root of the head's width.
    """

    qkv: Linear
    out: Linear
    up: Linear
    down: Linear
    attention_norm_weight: NDArray[np.float32]
    attention_norm_bias: NDArray[np.float32]
    output_norm_weight: NDArray[np.float32]
    output_norm_bias: NDArray[np.float32]


@dataclass(frozen=True)
class EncoderWeights:
    """BERT's encoder: D width, V vocabulary, P positions.

    words int8 [V, D] with word_scale float32 [V]; positions float32 [P, D], to which the first
    token type was added; norms float32 [D]. `pooling` is `mean` or `first`.
    """

    heads: int
    epsilon: float
    pooling: str
    words: NDArray[np.int8]
    word_scale: NDArray[np.float32]
    positions: NDArray[np.float32]
    norm_weight: NDArray[np.float32]
    norm_bias: NDArray[np.float32]
    layers: tuple[EncoderLayer, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for heads that the widest vector doesn't fit."""
        if self.heads < 1 or self.width % (16 * self.heads):
            raise ValueError(f"{self.heads} heads of a width of {self.width}: each goes by 16")

    @property
    def width(self) -> int:
        return int(self.words.shape[1])

    @property
    def hidden(self) -> int:
        return self.layers[0].up.rows

    @cached_property
    def native(self) -> Any:
        """The same as the library's structures, made once."""
        from monolite.kernels.native import encoder_structure

        return encoder_structure(self)


@dataclass(frozen=True)
class Rows:
    """Rows for search, as `kernels.quantize` and `kernels.signs` make them.

    codes uint8 [N, D rounded up to 64], scale float32 [N]; bits uint64 [N / 8 rounded up, words, 8]
    or None for no prefilter; allowed uint8 [N / 8 rounded up], bit r % 8 of byte r // 8 for row r,
    or None for every row.
    """

    width: int
    codes: NDArray[np.uint8]
    scale: NDArray[np.float32]
    bits: NDArray[np.uint64] | None = None
    allowed: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.scale)


def padded(width: int) -> int:
    """Bytes of a row of codes: the width rounded up to 64, a cache line and the widest vector."""
    return -(-width // 64) * 64


def pack(
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    smooth: NDArray[np.float32] | None = None,
) -> Linear:
    """Quantize W [N, K] by row and pack it, divided by `smooth` [K] first where it is given.

    Raises:
        ValueError: N is no multiple of 32, or K none of 4.
    """
    rows, columns = weight.shape
    if rows % ROWS_MULTIPLE or columns % 4:
        raise ValueError(f"a matrix of {rows} x {columns}: rows go by 32, columns by 4")
    if smooth is not None:
        weight = weight / smooth
    scale = (np.abs(weight).max(axis=1) / 127).astype(np.float32)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    codes = (np.rint(weight * inverse[:, None]).clip(-127, 127) + 128).astype(np.uint8)
    packed = codes.reshape(rows // 16, 16, columns // 4, 4).transpose(0, 2, 1, 3)
    return Linear(
        np.ascontiguousarray(packed), scale, np.ascontiguousarray(bias, dtype=np.float32), smooth
    )


def unpack(weights: Linear) -> NDArray[np.int8]:
    """W [N, K] as int8, without its scale."""
    groups, quads = weights.packed.shape[:2]
    codes = weights.packed.transpose(0, 2, 1, 3).reshape(groups * 16, quads * 4)
    return (codes.astype(np.int16) - 128).astype(np.int8)
