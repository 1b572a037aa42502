"""Every kernel in numpy: slow, obvious, the oracle of the fast ones and what runs without them.

B sentences, T tokens, D width, H heads, F hidden, N rows, K columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from monolite.kernels.arrays import EncoderWeights, Linear, Rows, padded, unpack
from monolite.kernels.blocks import COLUMNS, Blocks
from monolite.kernels.blocks import unpack as unpack_blocks
from monolite.kernels.cache import CUTS, FIRST, Cache, dequantized

F32 = NDArray[np.float32]


def quantize_rows(x: F32) -> tuple[NDArray[np.int8], F32]:
    """X [M, K] as (q int8 [M, K], step [M]) with x ~ step * q."""
    if x.size == 0:
        return np.zeros(x.shape, np.int8), np.zeros(len(x), np.float32)
    top = np.abs(x).max(axis=1).astype(np.float32)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > 0)
    q = np.rint(x * inverse[:, None]).astype(np.int8)
    return q, top / np.float32(127)


def activate(x: F32) -> F32:
    """GELU (Hendrycks and Gimpel 2016): x (1 + erf(x / sqrt 2)) / 2."""
    erf = np.vectorize(math.erf, otypes=[np.float32])
    return (0.5 * x * (1 + erf(x / math.sqrt(2)))).astype(np.float32) if x.size else x


def linear(weights: Linear, x: F32, *, gelu: bool = False) -> F32:
    """Rows x [M, K] times W', plus b: x and W in int8, the sum exact."""
    q, step = quantize_rows(x if weights.smooth is None else x * weights.smooth)
    product = q.astype(np.int32) @ unpack(weights).astype(np.int32).T
    y = (product * weights.scale * step[:, None] + weights.bias).astype(np.float32)
    return activate(y) if gelu else y


def normalize(x: F32, weight: F32, bias: F32, epsilon: float) -> F32:
    """Layer norm (Ba et al. 2016) over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    normal: F32 = (centred / np.sqrt(variance + epsilon) * weight + bias).astype(np.float32)
    return normal


def attend(qkv: F32, heads: int) -> F32:
    """softmax(query key') value by head, of one sentence [T, 3D]; the query is already scaled."""
    tokens, width = qkv.shape[0], qkv.shape[1] // 3
    query, key, value = (
        part.reshape(tokens, heads, width // heads).transpose(1, 0, 2)
        for part in np.split(qkv, 3, axis=1)
    )
    scores = query @ key.transpose(0, 2, 1)  # [H, T, T]
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    mixed: F32 = (weights @ value).transpose(1, 0, 2).reshape(tokens, width)
    return mixed


def encode(weights: EncoderWeights, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> F32:
    """Vectors [B, D] of length 1, one sentence after the other."""
    out = np.zeros((len(lengths), weights.width), np.float32)
    end = 0
    for number, length in enumerate(lengths.tolist()):
        start, end = end, end + length
        tokens = ids[start:end]
        x = weights.words[tokens] * weights.word_scale[tokens, None] + weights.positions[:length]
        x = normalize(x, weights.norm_weight, weights.norm_bias, weights.epsilon)  # [T, D]
        for layer in weights.layers:
            mixed = attend(linear(layer.qkv, x), weights.heads)
            x = normalize(
                x + linear(layer.out, mixed),
                layer.attention_norm_weight,
                layer.attention_norm_bias,
                weights.epsilon,
            )
            hidden = linear(layer.up, x, gelu=True)  # [T, F]
            x = normalize(
                x + linear(layer.down, hidden),
                layer.output_norm_weight,
                layer.output_norm_bias,
                weights.epsilon,
            )
        pooled = x.mean(axis=0) if weights.pooling == "mean" else x[0]
        norm = np.linalg.norm(pooled)
        out[number] = pooled / norm if norm > 0 else 0
    return out


def quantize(x: F32) -> tuple[NDArray[np.uint8], F32]:
    """Codes and scale of rows [N, D]."""
    q, step = quantize_rows(x)
    codes = np.full((len(x), padded(x.shape[1])), 128, np.uint8)
    codes[:, : x.shape[1]] = (q.astype(np.int16) + 128).astype(np.uint8)
    return codes, step


def signs(x: F32, bits: NDArray[np.uint64], first: int) -> None:
    """The signs of rows, one bit at a time."""
    words = bits.shape[1]
    for number, row in enumerate(x):
        place = first + number
        flags = np.zeros(words * 64, np.uint8)
        flags[: len(row)] = row > 0
        packed = np.packbits(flags, bitorder="little").view("<u8")
        bits[place // 8, :, place % 8] = packed


def search(rows: Rows, query: F32, k: int, *, candidates: int = 0) -> tuple[NDArray[np.int64], F32]:
    """The best k rows: all of them scored, or those nearest by Hamming distance."""
    chosen = np.arange(len(rows))
    if rows.allowed is not None:
        chosen = np.flatnonzero(np.unpackbits(rows.allowed, bitorder="little")[: len(rows)])
    if rows.bits is not None and 0 < candidates < len(rows):
        chosen = _nearest(rows, query, chosen, candidates)
    q, step = quantize_rows(query[None])
    codes = rows.codes[chosen, : rows.width].astype(np.int32) - 128
    product = codes @ q[0].astype(np.int32)
    scores = (product.astype(np.float32) * rows.scale[chosen] * step[0]).astype(np.float32)
    best = np.lexsort((chosen, -scores))[: max(0, k)]
    return chosen[best].astype(np.int64), scores[best]


def _nearest(
    rows: Rows, query: F32, chosen: NDArray[np.int64], candidates: int
) -> NDArray[np.int64]:
    assert rows.bits is not None
    mark = np.zeros((1, rows.bits.shape[1], 8), np.uint64)
    signs(query[None], mark, 0)
    different = (rows.bits ^ mark[:, :, :1]).transpose(0, 2, 1)  # [blocks, 8, words]
    distance = np.bitwise_count(different).sum(axis=2, dtype=np.int64).reshape(-1)[chosen]
    counts = np.bincount(distance, minlength=1).cumsum()
    limit = int(np.searchsorted(counts, candidates))
    near: NDArray[np.int64] = chosen[distance <= limit][: 2 * candidates]
    return near


def dot(x: F32, query: F32) -> F32:
    """Rows [N, D] times query [D]."""
    product: F32 = x @ query
    return product


# ── Language models ────────────────────────────────────────────────────────────────────────────


def silu(x: F32) -> F32:
    """SiLU (Ramachandran et al. 2017): x / (1 + e^-x)."""
    with np.errstate(over="ignore"):  # e^-x beyond float32 makes the quotient 0, as it should
        y: F32 = (x / (1 + np.exp(-x))).astype(np.float32)
    return y


ACTIVATIONS: dict[str | None, Callable[[F32], F32]] = {
    None: lambda x: x,
    "gelu": activate,
    "silu": silu,
}


def multiply(weights: Blocks, x: F32, *, activation: str | None = None) -> F32:
    """Rows x [M, K] times W', plus b: x quantized to int8 by 32 columns of a row."""
    quantized, step = quantize_rows(x.reshape(-1, COLUMNS))
    x = (quantized * step[:, None]).reshape(x.shape)
    y = x @ unpack_blocks(weights).T
    if weights.bias is not None:
        y = y + weights.bias
    return ACTIVATIONS[activation](y.astype(np.float32))


def rms_norm(x: F32, weight: F32, epsilon: float) -> F32:
    """RMS norm (Zhang and Sennrich 2019) by row: x / sqrt(mean(x x) + epsilon) * weight."""
    mean = (x * x).mean(axis=-1, keepdims=True)
    y: F32 = (x / np.sqrt(mean + epsilon) * weight).astype(np.float32)
    return y


def softmax(x: F32) -> F32:
    """By row, the largest subtracted first."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    y: F32 = (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)
    return y


def rotate(x: F32, cosine: F32, sine: F32, *, neighbours: bool = False) -> F32:
    """Rotary positions (Su et al. 2021) of x [T, H, d]; cosine and sine [T, d / 2]."""
    half = x.shape[2] // 2
    first, second = (
        (np.s_[..., 0::2], np.s_[..., 1::2])
        if neighbours
        else (np.s_[..., :half], np.s_[..., half:])
    )
    a, b, c, s = x[first], x[second], cosine[:, None], sine[:, None]
    turned = np.empty_like(x)
    turned[first], turned[second] = a * c - b * s, b * c + a * s
    return turned


def gate(x: F32, up: F32) -> F32:
    """silu(x) * up (Shazeer 2020)."""
    return silu(x) * up


def append(cache: Cache, first: int, keys: F32, values: F32) -> None:
    """Quantize keys and values [T, G, d] into the cache from position `first` on."""
    for at, (key, value) in enumerate(zip(keys, values, strict=True), first):
        if cache.key_bits == 32:
            cache.keys[:, at // 16, :, at % 16], cache.values[:, at] = key, value
            continue
        parts = key.reshape(cache.heads, cache.parts, -1)
        in_eight = cache.key_bits == 8 or at < FIRST
        codes, scale = _eight_bits(parts) if in_eight else _four_bits(parts)
        quads = codes.astype(np.uint8).reshape(cache.heads, -1, 4)
        if cache.key_bits == 8:
            cache.keys[:, at // 16, :, at % 16] = quads
        elif in_eight:
            cache.first_keys[:, :, at] = quads
        else:
            cache.keys[:, at // 16 - 1, :, at % 16] = quads[:, 0::2] | quads[:, 1::2] << 4
        cache.key_scale[:, at // 16, :, at % 16] = scale[..., 0]
        codes, scale = _eight_bits(value)
        cache.values[:, at], cache.value_scale[:, at] = codes - 128, scale[:, 0]


def _eight_bits(x: F32) -> tuple[F32, F32]:
    """Codes around 128 of rows [..., N], and scales [..., 1] as float16 keeps them."""
    scale, inverse = _half(np.abs(x).max(axis=-1, keepdims=True) / np.float32(127))
    return np.clip(np.rint(x * inverse), -127, 127) + 128, scale


def _four_bits(x: F32) -> tuple[F32, F32]:
    """As _eight_bits, codes 0 to 15 around 7.5."""
    best, best_scale, least = x, x[..., :1], np.full((*x.shape[:-1], 1), np.inf, np.float32)
    top = np.abs(x).max(axis=-1, keepdims=True)
    for cut in CUTS:
        scale, inverse = _half(top * np.float32(cut) / np.float32(7.5))
        codes = np.clip(np.floor(x * inverse), -8, 7) + 8
        error = ((x - scale * (codes - 7.5)) ** 2).sum(axis=-1, keepdims=True)
        better = error < least
        best, best_scale = np.where(better, codes, best), np.where(better, scale, best_scale)
        least = np.minimum(error, least)
    return best, best_scale


def _half(scale: F32) -> tuple[F32, F32]:
    """A scale as float16 keeps it, and what to multiply by."""
    kept = np.minimum(scale, np.float32(65504)).astype(np.float16).astype(np.float32)
    return kept, np.divide(1, kept, where=kept > 0, out=np.zeros_like(kept))


def attend_to_cache(cache: Cache, queries: F32, visible: NDArray[np.int64]) -> F32:
    """softmax(query key' / sqrt(d)) value of queries [T, H, d], quantized as the keys are.

    H is a multiple of the cache's heads, neighbours share one; token t sees visible[t] positions.
    """
    tokens, heads, width = queries.shape
    if cache.key_bits != 32:
        codes, step = quantize_rows(queries.reshape(-1, width))
        queries = (codes * step[:, None]).reshape(queries.shape)
    keys, values = dequantized(cache, int(visible.max(initial=0)))
    out = np.zeros_like(queries)
    for token in range(tokens):
        for head in range(heads if visible[token] else 0):
            one = head * cache.heads // heads
            seen = np.s_[one, : visible[token]]
            scores = keys[seen] @ queries[token, head] / np.float32(math.sqrt(width))
            out[token, head] = softmax(scores) @ values[seen]
    return out
