"""Matrices quantized in blocks of 32 columns to 4 or 8 bits, as language models' weights are.

W[r, c] = minimum + scale * n, both float16 and of one row's 32 columns; n is 0 to 15, or in 8 bits
0 to 255 with a minimum of -128 scale. llama.cpp's Q4_0 (minimum -8 scale), Q4_1 and Q8_0 are such
matrices, and are packed without loss. 16 rows lie together, so that one vector of 64 bytes holds
four columns, or with 4 bits eight, of all of them (native/kernels.h draws a block)::

    row group    column block      bits 4: 320 bytes    [4][16][4] codes, scale [16], minimum [16]
    [N / 16]     [K / 32]          bits 8: 544 bytes    [8][16][4] codes, scale [16]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F16 = NDArray[np.float16]
U8 = NDArray[np.uint8]

COLUMNS = 32
GROUP = 16
BLOCK_BYTES = {4: 320, 8: 544}


@dataclass(frozen=True, eq=False)
class Blocks:
    """Weights of y = W x + b.

    packed uint8 [N / 16, K / 32, 320 or 544], bias float32 [N] or None.
    """

    packed: U8
    bits: Literal[4, 8]
    bias: F32 | None = None

    @property
    def rows(self) -> int:
        return int(self.packed.shape[0]) * GROUP

    @property
    def columns(self) -> int:
        return int(self.packed.shape[1]) * COLUMNS

    @cached_property
    def native(self) -> Any:
        """The same as the library's structure, made once."""
        from monolite.kernels.native import blocks_structure

        return blocks_structure(self)


def quantize(weight: F32, bits: Literal[4, 8], bias: F32 | None = None) -> Blocks:
    """Quantize W [N, K]: in 4 bits from each block's least value to its greatest, in 8 around 0.

    Raises:
        ValueError: N is no multiple of 16, or K none of 32.
    """
    _check_shape(*weight.shape)
    values = weight.reshape(len(weight), -1, COLUMNS)
    if bits == 4:
        least = values.min(axis=2).astype(np.float16)
        scale = ((values.max(axis=2) - least) / np.float32(15)).astype(np.float16)
    else:
        scale = (np.abs(values).max(axis=2) / np.float32(127)).astype(np.float16)
        least = np.float16(-128) * scale
    inverse = np.divide(
        1, scale.astype(np.float32), where=scale > 0, out=np.zeros(scale.shape, "f4")
    )
    # What float16 rounded is taken into account: codes are of the scale as it is stored.
    zero = least.astype(np.float32) if bits == 4 else -128 * scale.astype(np.float32)
    codes = np.rint((values - zero[:, :, None]) * inverse[:, :, None])
    codes = codes.clip(0, 2**bits - 1).astype(np.uint8)
    return pack(codes.reshape(weight.shape), scale, least if bits == 4 else None, bias)


def pack(codes: U8, scale: F16, minimum: F16 | None = None, bias: F32 | None = None) -> Blocks:
    """Pack codes [N, K] with scale and minimum float16 [N, K / 32]; 8 bits without a minimum.

    Raises:
        ValueError: N is no multiple of 16, or K none of 32, or the shapes don't match.
    """
    rows, columns = codes.shape
    _check_shape(rows, columns)
    groups, blocks = rows // GROUP, columns // COLUMNS
    if scale.shape != (rows, blocks) or (minimum is not None and minimum.shape != scale.shape):
        raise ValueError(f"codes {codes.shape} with scales {scale.shape}")
    quads = codes.reshape(groups, GROUP, blocks, 8, 4).transpose(0, 2, 3, 1, 4)
    if minimum is not None:
        quads = quads[:, :, 0::2] | quads[:, :, 1::2] << np.uint8(4)
    parts = [quads.reshape(groups, blocks, -1), _halves(scale, groups, blocks)]
    if minimum is not None:
        parts.append(_halves(minimum, groups, blocks))
    return Blocks(np.concatenate(parts, axis=2), 8 if minimum is None else 4, bias)


def unpack(weights: Blocks) -> F32:
    """W [N, K] in float32."""
    groups, blocks = weights.packed.shape[:2]
    size = 512 * weights.bits // 8
    codes = weights.packed[:, :, :size].reshape(groups, blocks, -1, GROUP, 4)
    if weights.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=3).reshape(groups, blocks, 8, GROUP, 4)
    values = codes.transpose(0, 3, 1, 2, 4).reshape(groups, GROUP, blocks, COLUMNS)
    halves = np.ascontiguousarray(weights.packed[:, :, size:]).view(np.float16)
    halves = halves.reshape(groups, blocks, -1, GROUP).transpose(2, 0, 3, 1)[..., None]
    scale = halves[0].astype(np.float32)
    minimum = halves[1].astype(np.float32) if weights.bits == 4 else -128 * scale
    whole: F32 = minimum + scale * values
    return whole.reshape(weights.rows, weights.columns)


def _halves(values: F16, groups: int, blocks: int) -> U8:
    grouped = values.astype(np.float16).reshape(groups, GROUP, blocks).transpose(0, 2, 1)
    return np.ascontiguousarray(grouped).view(np.uint8)


def _check_shape(rows: int, columns: int) -> None:
    if rows % GROUP or columns % COLUMNS:
        raise ValueError(f"a matrix of {rows} x {columns}: rows go by 16, columns by 32")
