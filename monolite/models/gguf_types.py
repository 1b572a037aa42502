"""The numbers of GGUF's tensor types: as float32, and as the blocks that kernels take.

A row is quantized in blocks of 32, or of 256 that hold eight of 32 (the K types). Layouts follow
ggml's `ggml-quants.c`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from monolite.kernels import blocks
from monolite.kernels.blocks import Blocks
from monolite.models.gguf import Gguf, Tensor

F32 = NDArray[np.float32]
F16 = NDArray[np.float16]
U8 = NDArray[np.uint8]


def floats(gguf: Gguf, tensor: Tensor) -> F32:
    """A whole tensor in float32, in its shape."""
    return dequantize(gguf.raw(tensor), tensor.type.name).reshape(tensor.shape)


def dequantize(raw: U8, type_name: str) -> F32:
    """Rows of stored bytes [N, bytes] as float32 [N, K]."""
    made: F32 = _AS_FLOATS[type_name](raw)
    return made


def as_blocks(gguf: Gguf, tensor: Tensor, rows: int | None = None) -> Blocks:
    """A matrix for kernels; padded with zeros to `rows` rows where they are more.

    Q4_0, Q4_1 and Q8_0 are packed as they are, Q4_K with its scales rounded to float16; what has
    more bits is brought to eight.
    """
    raw, name = gguf.raw(tensor), tensor.type.name
    if rows is not None and rows > len(raw):
        raw = np.concatenate([raw, np.zeros((rows - len(raw), raw.shape[1]), np.uint8)])
    if name == "Q8_0":
        scale, codes = _q8_0(raw)
        return blocks.pack(codes, scale)
    if name in _IN_FOUR_BITS:
        codes, scale, minimum = _IN_FOUR_BITS[name](raw)
        return blocks.pack(codes, scale, minimum)
    return blocks.quantize(dequantize(raw, name), 8)


def _f32(raw: U8) -> F32:
    return raw.view("<f4").astype(np.float32, copy=False)


def _f16(raw: U8) -> F32:
    return raw.view("<f2").astype(np.float32)


def _bf16(raw: U8) -> F32:
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q8_0(raw: U8) -> tuple[F16, U8]:
    """Scales [N, K / 32], and codes with 128 added [N, K]."""
    stored = raw.reshape(len(raw), -1, 34)
    codes = stored[:, :, 2:] ^ np.uint8(128)
    return _half(stored, 0), codes.reshape(len(raw), -1)


def _q4_0(raw: U8) -> tuple[U8, F16, F16]:
    stored = raw.reshape(len(raw), -1, 18)
    scale = _half(stored, 0)
    return _nibbles(stored[:, :, 2:]), scale, np.float16(-8) * scale


def _q4_1(raw: U8) -> tuple[U8, F16, F16]:
    stored = raw.reshape(len(raw), -1, 20)
    return _nibbles(stored[:, :, 4:]), _half(stored, 0), _half(stored, 2)


def _q4_k(raw: U8) -> tuple[U8, F16, F16]:
    stored = raw.reshape(-1, 144)
    scale, minimum = _k_scales(stored[:, 4:16])
    quads = stored[:, 16:].reshape(-1, 4, 32)
    codes = np.stack([quads & 15, quads >> 4], axis=2)
    return _k_blocks(raw, codes, stored, scale, minimum)


def _k_blocks(raw: U8, codes: U8, stored: U8, scale: F32, minimum: F32) -> tuple[U8, F16, F16]:
    rows = len(raw)
    whole = _half(stored, 0).astype(np.float32)[:, None] * scale
    least = -_half(stored, 2).astype(np.float32)[:, None] * minimum
    return (
        codes.reshape(rows, -1),
        whole.astype(np.float16).reshape(rows, -1),
        least.astype(np.float16).reshape(rows, -1),
    )


def _k_scales(packed: U8) -> tuple[F32, F32]:
    """Scales and minima [B, 8], of 6 bits each, out of 12 bytes."""
    low, mid, high = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scale = np.concatenate([low & 63, high & 15 | (low >> 6) << 4], axis=1)
    minimum = np.concatenate([mid & 63, high >> 4 | (mid >> 6) << 4], axis=1)
    return scale.astype(np.float32), minimum.astype(np.float32)


def _q5_k(raw: U8) -> F32:
    stored = raw.reshape(-1, 176)
    scale, minimum = _k_scales(stored[:, 4:16])
    bits = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
    fifth = stored[:, None, 16:48] >> bits & 1
    quads = stored[:, 48:].reshape(-1, 4, 32)
    codes = np.stack([quads & 15, quads >> 4], axis=2).reshape(-1, 8, 32) | fifth << 4
    whole = _half(stored, 0).astype(np.float32)[:, None] * scale
    least = _half(stored, 2).astype(np.float32)[:, None] * minimum
    made: F32 = (whole[:, :, None] * codes - least[:, :, None]).reshape(len(raw), -1)
    return made


def _q6_k(raw: U8) -> F32:
    stored = raw.reshape(-1, 210)
    low = stored[:, :128].reshape(-1, 2, 64)
    high = stored[:, 128:192].reshape(-1, 2, 32)
    fours = np.stack([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    twos = np.stack([high >> shift & 3 for shift in (0, 2, 4, 6)], axis=2)
    codes = (fours | twos << 4).astype(np.int8) - np.int8(32)
    scale = stored[:, 192:208].view(np.int8).astype(np.float32)
    whole = _half(stored, 208).astype(np.float32)[:, None] * scale
    made: F32 = (whole[:, :, None] * codes.reshape(-1, 16, 16)).reshape(len(raw), -1)
    return made


def _q5(raw: U8, size: int) -> U8:
    """Codes of 5 bits [N, K] of blocks whose high bits and nibbles come last."""
    stored = raw.reshape(len(raw), -1, size)
    high = np.ascontiguousarray(stored[:, :, size - 20 : size - 16]).view("<u4")
    fifth = (high >> np.arange(32, dtype=np.uint32) & 1).astype(np.uint8)
    four = _nibbles(stored[:, :, size - 16 :]).reshape(fifth.shape)
    codes: U8 = (four | fifth << np.uint8(4)).reshape(len(raw), -1)
    return codes


def _q5_0(raw: U8) -> F32:
    scale = _half(raw.reshape(len(raw), -1, 22), 0).astype(np.float32)
    return _scaled(_q5(raw, 22).astype(np.int8) - np.int8(16), scale)


def _q5_1(raw: U8) -> F32:
    stored = raw.reshape(len(raw), -1, 24)
    scale = _half(stored, 0).astype(np.float32)
    return _scaled(_q5(raw, 24), scale, _half(stored, 2).astype(np.float32))


def _nibbles(packed: U8) -> U8:
    """Codes [N, K] of blocks [N, B, 16]: first the low halves of a block's bytes, then the high."""
    return np.concatenate([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)


def _half(stored: U8, place: int) -> F16:
    """The float16 at a place of each block."""
    found: F16 = np.ascontiguousarray(stored[..., place : place + 2]).view("<f2")[..., 0]
    return found


def _scaled(codes: NDArray[np.integer], scale: F32, minimum: F32 | None = None) -> F32:
    values = codes.reshape(*scale.shape, -1) * scale[..., None]
    if minimum is not None:
        values = values + minimum[..., None]
    return values.reshape(len(codes), -1)


def _four_bits(codes: U8, scale: F16, minimum: F16) -> F32:
    return _scaled(codes, scale.astype(np.float32), minimum.astype(np.float32))


_IN_FOUR_BITS: dict[str, Callable[[U8], tuple[U8, F16, F16]]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q4_K": _q4_k,
}


def _q8_0_floats(raw: U8) -> F32:
    scale, codes = _q8_0(raw)
    return _scaled((codes ^ np.uint8(128)).view(np.int8), scale.astype(np.float32))


def _q4_k_floats(raw: U8) -> F32:
    stored = raw.reshape(-1, 144)
    scale, minimum = _k_scales(stored[:, 4:16])
    quads = stored[:, 16:].reshape(-1, 4, 32)
    codes = np.stack([quads & 15, quads >> 4], axis=2).reshape(-1, 8, 32)
    whole = _half(stored, 0).astype(np.float32)[:, None] * scale
    least = _half(stored, 2).astype(np.float32)[:, None] * minimum
    made: F32 = (whole[:, :, None] * codes - least[:, :, None]).reshape(len(raw), -1)
    return made


_AS_FLOATS: dict[str, Callable[[U8], F32]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q8_0": _q8_0_floats,
    "Q4_0": lambda raw: _four_bits(*_q4_0(raw)),
    "Q4_1": lambda raw: _four_bits(*_q4_1(raw)),
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q4_K": _q4_k_floats,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
