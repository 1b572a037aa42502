"""A decoder's whole pass in one call: norms, rotary positions, grouped queries to caches, SwiGLU.

T tokens of all spans end to end, D width, F the hidden layer's, H query heads, G of keys and values
(H a multiple of G), d a head's width. Nothing returns to Python between the layers of a pass: a
token of a small model takes three milliseconds, and three hundred calls as long again.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import byref, c_int32
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monolite import kernels
from monolite.kernels import reference
from monolite.kernels.adapters import Adapter
from monolite.kernels.blocks import COLUMNS, Blocks
from monolite.kernels.cache import Cache
from monolite.kernels.native import address, floats

F32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Layer:
    """Norms float32 [D], contiguous; query [H d, D], key and value [G d, D], out [D, H d], gate and
    up [F, D], down [D, F]. `key_mean` [G, d] is taken off 4-bit keys, turned as they are: the
    same for all positions, it changes no query's softmax, and what is left is smaller.
    """

    attention_norm: F32
    query: Blocks
    key: Blocks
    value: Blocks
    out: Blocks
    mlp_norm: F32
    gate: Blocks
    up: Blocks
    down: Blocks
    key_mean: F32 | None = None


@dataclass(frozen=True, eq=False)
class Decoder:
    """The weights of a pass. `neighbours`: which values of a head turn together (language.rotate);
    `spread`: queries and keys are turned by a Hadamard matrix after their positions.

    Raises:
        ValueError: matrices that don't fit each other.
    """

    layers: Sequence[Layer]
    norm: F32
    output: Blocks
    heads: int
    kv_heads: int
    head_width: int
    epsilon: float
    neighbours: bool
    spread: bool = False

    def __post_init__(self) -> None:
        d, queries, keys = self.width, self.heads * self.head_width, self.kv_heads * self.head_width
        if self.heads % self.kv_heads or self.head_width % 8:
            raise ValueError(f"{self.heads} heads of {self.head_width}, {self.kv_heads} of keys")
        for layer in self.layers:
            hidden = layer.gate.rows
            shapes = {
                "query": (queries, d),
                "key": (keys, d),
                "value": (keys, d),
                "out": (d, queries),
                "gate": (hidden, d),
                "up": (hidden, d),
                "down": (d, hidden),
            }
            for name, shape in shapes.items():
                made: Blocks = getattr(layer, name)
                if (made.rows, made.columns) != shape:
                    raise ValueError(f"{name} is {made.rows} x {made.columns}, and not {shape}")
            if layer.attention_norm.shape != (d,) or layer.mlp_norm.shape != (d,):
                raise ValueError("a norm is not as wide as the model")
            if hidden != self.hidden:
                raise ValueError("layers differ")

    @property
    def width(self) -> int:
        return int(self.norm.shape[0])

    @property
    def hidden(self) -> int:
        return self.layers[0].gate.rows

    @cached_property
    def native(self) -> Any:
        """The same as the library's structure, made once."""
        from monolite.kernels.native import decoder_structure

        return decoder_structure(self)


@dataclass(eq=False)
class Room:
    """A sequence's caches, one a layer, all of the same capacity."""

    layers: Sequence[Cache]

    @cached_property
    def native(self) -> Any:
        """The library's array of structures, made once; it points into the caches."""
        from monolite.kernels.native import cache_array

        return cache_array(self.layers)


@dataclass(frozen=True, slots=True)
class Span:
    """`count` tokens of a sequence, for positions from `first` on of its caches."""

    room: Room
    first: int
    count: int
    adapter: Adapter | None = None


def decode(
    model: Decoder,
    spans: Sequence[Span],
    x: F32,
    cosine: F32,
    sine: F32,
    wanted: NDArray[np.int32],
) -> F32:
    """Logits [W, rows of output] of the tokens whose numbers `wanted` [W] has.

    x [T, D] are the embeddings of the spans' tokens, cosine and sine [T, d / 2] of their positions.
    Keys and values are written into the spans' caches; a sequence has at most one span. Inputs of
    matrices are quantized to eight bits by 32 values; what that leaves over counts too for queries,
    keys and values, and everywhere for the token at position 0 (native/decoder.h says why) and for
    those of spans whose caches have 32 bits.

    Raises:
        ValueError: shapes or positions don't fit; nothing was written.
        MemoryError: there is no memory for the scratch.
    """
    _check(model, spans, x, cosine, sine, wanted)
    library = kernels.library()
    if library is None:
        return reference_decode(model, spans, x, cosine, sine, wanted)
    from monolite.kernels.native import span_array

    x = np.array(x, np.float32, order="C")  # overwritten
    cosine, sine = floats(cosine), floats(sine)
    wanted = np.ascontiguousarray(wanted, np.int32)
    logits = np.empty((len(wanted), model.output.rows), np.float32)
    done = len(x) == 0 or library.kernels_decode(
        byref(model.native),
        span_array(spans),
        c_int32(len(spans)),
        address(x),
        address(cosine),
        address(sine),
        address(wanted),
        c_int32(len(wanted)),
        address(logits),
    )
    if not done:
        raise MemoryError("no memory to compute")
    return logits


def reference_decode(
    model: Decoder,
    spans: Sequence[Span],
    x: F32,
    cosine: F32,
    sine: F32,
    wanted: NDArray[np.int32],
) -> F32:
    """The same out of the numpy twins of each part."""
    heads, kv_heads, d = model.heads, model.kv_heads, model.head_width
    spread = hadamard(d) if model.spread else np.eye(d, dtype=np.float32)
    positions = [at for s in spans for at in range(s.first, s.first + s.count)]
    exact = np.repeat(
        [s.room.layers[0].key_bits == 32 for s in spans], [s.count for s in spans]
    ).astype(bool)
    everything = np.arange(len(x))
    precise = np.flatnonzero((np.array(positions) == 0) | exact)

    def product(number: int, name: str, x: F32, precise: NDArray[np.int64]) -> F32:
        made = _multiply(getattr(model.layers[number], name), x, precise)
        begin = 0
        for span in spans:
            rows = np.arange(begin, begin + span.count)
            begin += span.count
            change = None if span.adapter is None else getattr(span.adapter.layers[number], name)
            if change is not None:
                left = np.flatnonzero(np.isin(rows, precise))
                low = _multiply(change.a, x[rows], left)[:, : change.rank]
                made[rows] += low @ change.unpacked().T
        return made

    for number, layer in enumerate(model.layers):
        normal = reference.rms_norm(x, layer.attention_norm, model.epsilon)
        query, key, value = (
            product(number, name, normal, everything).reshape(len(x), count, d)
            for name, count in (("query", heads), ("key", kv_heads), ("value", kv_heads))
        )
        query, key = (
            reference.rotate(each, cosine, sine, neighbours=model.neighbours) @ spread
            for each in (query, key)
        )
        attended = np.empty((len(x), heads * d), np.float32)
        begin = 0
        for span in spans:
            kept, some = span.room.layers[number], np.s_[begin : begin + span.count]
            mean = 0 if layer.key_mean is None or kept.key_bits != 4 else layer.key_mean
            reference.append(kept, span.first, key[some] - mean, value[some])
            visible = np.arange(span.first + 1, span.first + span.count + 1)
            seen = reference.attend_to_cache(kept, query[some], visible)
            attended[some] = seen.reshape(span.count, -1)
            begin += span.count
        x = x + product(number, "out", attended, precise)
        normal = reference.rms_norm(x, layer.mlp_norm, model.epsilon)
        gated = reference.gate(
            product(number, "gate", normal, precise), product(number, "up", normal, precise)
        )
        x = x + product(number, "down", gated, precise)
    normal = reference.rms_norm(x[wanted], model.norm, model.epsilon)
    return _multiply(model.output, normal, np.flatnonzero(exact[wanted]))


def _multiply(weights: Blocks, x: F32, precise: NDArray[np.int64]) -> F32:
    """X W' + b, of some rows with what eight bits of x have left over."""
    made = reference.multiply(weights, x)
    rows = x[precise]
    codes, step = reference.quantize_rows(rows.reshape(-1, COLUMNS))
    rest = rows - (codes * step[:, None]).reshape(rows.shape)
    made[precise] += reference.multiply(Blocks(weights.packed, weights.bits), rest)
    return made


def hadamard(width: int) -> F32:
    """An orthogonal matrix [width, width]: Sylvester's, of the largest power of two that divides
    the width, a block after the other.
    """
    block = np.ones((1, 1))
    while width % (2 * len(block)) == 0:
        block = np.block([[block, block], [block, -block]])
    whole = np.kron(np.eye(width // len(block)), block / np.sqrt(len(block)))
    return whole.astype(np.float32)


def _check(
    model: Decoder,
    spans: Sequence[Span],
    x: F32,
    cosine: F32,
    sine: F32,
    wanted: NDArray[np.int32],
) -> None:
    tokens = sum(span.count for span in spans)
    if x.shape != (tokens, model.width):
        raise ValueError(f"x is {x.shape}; the spans have {tokens} tokens of {model.width}")
    if not cosine.shape == sine.shape == (tokens, model.head_width // 2):
        raise ValueError(f"positions are {cosine.shape} and {sine.shape}")
    if len(wanted) > tokens or (len(wanted) and not 0 <= wanted.min() <= wanted.max() < tokens):
        raise ValueError(f"logits of tokens that are not among {tokens}")
    for span in spans:
        kept = span.room.layers[0]
        if len(span.room.layers) != len(model.layers) or (kept.heads, kept.width) != (
            model.kv_heads,
            model.head_width,
        ):
            raise ValueError("a cache is of another model")
        if span.adapter is not None:
            span.adapter.require_fits(model)
        if span.first < 0 or span.count < 0 or span.first + span.count > kept.capacity:
            raise ValueError(f"{span.count} positions from {span.first} on don't fit")
