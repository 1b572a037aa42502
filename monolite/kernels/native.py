"""The C library, through ctypes. native/kernels.h says what each call takes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from monolite.kernels.adapters import MATRICES, AdapterLayer, LowRank
from monolite.kernels.arrays import EncoderWeights, Linear, Rows, padded
from monolite.kernels.blocks import Blocks
from monolite.kernels.cache import Cache

if TYPE_CHECKING:
    from monolite.kernels.decoder import Decoder, Span

ABI = 5
PATH = Path(__file__).with_name("libkernels.so")

F32 = NDArray[np.float32]


class _Linear(Structure):
    _fields_ = [
        ("packed", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("smooth", c_void_p),
        ("rows", c_int32),
        ("columns", c_int32),
    ]


class _EncoderLayer(Structure):
    _fields_ = [
        ("qkv", _Linear),
        ("out", _Linear),
        ("up", _Linear),
        ("down", _Linear),
        ("attention_norm_weight", c_void_p),
        ("attention_norm_bias", c_void_p),
        ("output_norm_weight", c_void_p),
        ("output_norm_bias", c_void_p),
    ]


class _Encoder(Structure):
    _fields_ = [
        ("layers", c_int32),
        ("width", c_int32),
        ("hidden", c_int32),
        ("heads", c_int32),
        ("epsilon", c_float),
        ("pooling", c_int32),
        ("words", c_void_p),
        ("word_scale", c_void_p),
        ("positions", c_void_p),
        ("norm_weight", c_void_p),
        ("norm_bias", c_void_p),
        ("layer", POINTER(_EncoderLayer)),
    ]


class _Blocks(Structure):
    _fields_ = [
        ("packed", c_void_p),
        ("bias", c_void_p),
        ("rows", c_int32),
        ("columns", c_int32),
        ("bits", c_int32),
    ]


class _Cache(Structure):
    _fields_ = [
        ("keys", c_void_p),
        ("first_keys", c_void_p),
        ("key_scale", c_void_p),
        ("values", c_void_p),
        ("value_scale", c_void_p),
        ("capacity", c_int64),
        ("heads", c_int32),
        ("width", c_int32),
        ("key_bits", c_int32),
        ("parts", c_int32),
    ]


class _DecoderLayer(Structure):
    _fields_ = [
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("query", _Blocks),
        ("key", _Blocks),
        ("value", _Blocks),
        ("out", _Blocks),
        ("gate", _Blocks),
        ("up", _Blocks),
        ("down", _Blocks),
        ("key_mean", c_void_p),
    ]


class _Decoder(Structure):
    _fields_ = [
        ("layer", POINTER(_DecoderLayer)),
        ("norm", c_void_p),
        ("output", _Blocks),
        ("layers", c_int32),
        ("width", c_int32),
        ("hidden", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("head_width", c_int32),
        ("neighbours", c_int32),
        ("spread", c_int32),
        ("epsilon", c_float),
    ]


class _LowRank(Structure):
    _fields_ = [("a", _Blocks), ("b", c_void_p), ("scale", c_void_p), ("rank", c_int32)]


class _AdapterLayer(Structure):
    _fields_ = [(name, _LowRank) for name in MATRICES]


class _DecoderSpan(Structure):
    _fields_ = [
        ("layer", POINTER(_Cache)),
        ("adapter", POINTER(_AdapterLayer)),
        ("first", c_int64),
        ("count", c_int32),
    ]


class _Rows(Structure):
    _fields_ = [
        ("codes", c_void_p),
        ("scale", c_void_p),
        ("bits", c_void_p),
        ("allowed", c_void_p),
        ("count", c_int64),
        ("width", c_int32),
        ("width_padded", c_int32),
    ]


class Library:
    """libkernels.so, loaded."""

    def __init__(self, path: Path) -> None:
        self._calls = ctypes.CDLL(str(path))
        self._calls.kernels_variant_name.restype = c_char_p
        self._calls.kernels_search.restype = c_int64
        if self._calls.kernels_abi() != ABI:
            raise OSError(f"{path} was built from other sources: run make setup")
        names = range(self._calls.kernels_variants())
        self.variants = [self._calls.kernels_variant_name(i).decode() for i in names]

    def runnable(self) -> list[str]:
        """The variants that this machine can run, best first."""
        return [name for i, name in enumerate(self.variants) if self._calls.kernels_variant_runs(i)]

    def select(self, choice: str, threads: int) -> str | None:
        """Choose a variant, `auto` for the best; its name, or None where it can't run."""
        name = self.runnable()[0] if choice == "auto" else choice
        if name not in self.variants:
            return None
        chosen = self._calls.kernels_select(self.variants.index(name), c_int(threads))
        return name if chosen else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._calls, name)


def load(path: Path = PATH) -> Library:
    """Load the library. Raises OSError where it is missing, broken or of other sources."""
    return Library(path)


def address(array: NDArray[Any] | None) -> c_void_p:
    """Where an array begins, as an argument."""
    return c_void_p(None if array is None else array.ctypes.data)


def floats(array: F32) -> F32:
    """The array as C reads it, copied only where it lies otherwise."""
    return np.ascontiguousarray(array, dtype=np.float32)


def _linear(weights: Linear) -> _Linear:
    return _Linear(
        address(weights.packed),
        address(weights.scale),
        address(weights.bias),
        address(weights.smooth),
        weights.rows,
        weights.columns,
    )


def encoder_structure(weights: EncoderWeights) -> _Encoder:
    """The model as the library takes it; it points into the arrays, which must outlive it."""
    layers = (_EncoderLayer * len(weights.layers))(
        *(
            _EncoderLayer(
                _linear(layer.qkv),
                _linear(layer.out),
                _linear(layer.up),
                _linear(layer.down),
                address(layer.attention_norm_weight),
                address(layer.attention_norm_bias),
                address(layer.output_norm_weight),
                address(layer.output_norm_bias),
            )
            for layer in weights.layers
        )
    )
    return _Encoder(
        len(weights.layers),
        weights.width,
        weights.hidden,
        weights.heads,
        weights.epsilon,
        0 if weights.pooling == "mean" else 1,
        address(weights.words),
        address(weights.word_scale),
        address(weights.positions),
        address(weights.norm_weight),
        address(weights.norm_bias),
        layers,
    )


def blocks_structure(weights: Blocks) -> _Blocks:
    """As encoder_structure."""
    return _Blocks(
        address(weights.packed),
        address(weights.bias),
        weights.rows,
        weights.columns,
        weights.bits,
    )


def cache_structure(cache: Cache) -> _Cache:
    """As encoder_structure; calls write into the arrays."""
    return _Cache(
        address(cache.keys),
        address(cache.first_keys),
        address(cache.key_scale),
        address(cache.values),
        address(cache.value_scale),
        cache.capacity,
        cache.heads,
        cache.width,
        cache.key_bits,
        cache.parts,
    )


def decoder_structure(model: Decoder) -> _Decoder:
    """As encoder_structure."""
    layers = (_DecoderLayer * len(model.layers))(
        *(
            _DecoderLayer(
                address(layer.attention_norm),
                address(layer.mlp_norm),
                blocks_structure(layer.query),
                blocks_structure(layer.key),
                blocks_structure(layer.value),
                blocks_structure(layer.out),
                blocks_structure(layer.gate),
                blocks_structure(layer.up),
                blocks_structure(layer.down),
                address(layer.key_mean),
            )
            for layer in model.layers
        )
    )
    return _Decoder(
        layers,
        address(model.norm),
        blocks_structure(model.output),
        len(model.layers),
        model.width,
        model.hidden,
        model.heads,
        model.kv_heads,
        model.head_width,
        model.neighbours,
        model.spread,
        model.epsilon,
    )


def cache_array(layers: Sequence[Cache]) -> Any:
    """As encoder_structure, a structure for each layer's cache."""
    return (_Cache * len(layers))(*(cache_structure(layer) for layer in layers))


def adapter_array(layers: Sequence[AdapterLayer]) -> Any:
    """As encoder_structure, a structure for each layer."""

    def change(one: LowRank | None) -> _LowRank:
        if one is None:
            return _LowRank()
        return _LowRank(blocks_structure(one.a), address(one.b), address(one.scale), one.rank)

    return (_AdapterLayer * len(layers))(
        *(_AdapterLayer(*(change(getattr(layer, name)) for name in MATRICES)) for layer in layers)
    )


def span_array(spans: Sequence[Span]) -> Any:
    """The spans of a pass as the library takes them."""
    return (_DecoderSpan * len(spans))(
        *(
            _DecoderSpan(
                span.room.native,
                None if span.adapter is None else span.adapter.native,
                span.first,
                span.count,
            )
            for span in spans
        )
    )


def encode(
    library: Library, weights: EncoderWeights, ids: NDArray[np.int32], lengths: NDArray[np.int32]
) -> F32:
    """See kernels.encode."""
    out = np.empty((len(lengths), weights.width), np.float32)
    ids = np.ascontiguousarray(ids, dtype=np.int32)
    lengths = np.ascontiguousarray(lengths, dtype=np.int32)
    model = ctypes.byref(weights.native)
    if len(lengths) and not library.kernels_encode(
        model, address(ids), address(lengths), c_int32(len(lengths)), address(out)
    ):
        raise MemoryError("no memory to encode")
    return out


def linear(library: Library, weights: Linear, x: F32, *, gelu: bool) -> F32:
    """See kernels.linear."""
    x = floats(x)
    y = np.empty((len(x), weights.rows), np.float32)
    structure = _linear(weights)
    if len(x) and not library.kernels_linear(
        ctypes.byref(structure), address(x), c_int32(len(x)), c_int32(gelu), address(y)
    ):
        raise MemoryError("no memory to multiply")
    return y


def quantize(library: Library, x: F32) -> tuple[NDArray[np.uint8], F32]:
    """See kernels.quantize."""
    x = floats(x)
    count, width = x.shape
    codes = np.empty((count, padded(width)), np.uint8)
    scale = np.empty(count, np.float32)
    library.kernels_quantize(
        address(x),
        c_int64(count),
        c_int32(width),
        c_int32(padded(width)),
        address(codes),
        address(scale),
    )
    return codes, scale


def signs(library: Library, x: F32, bits: NDArray[np.uint64], first: int) -> None:
    """See kernels.signs. `bits` is written in place and must be contiguous."""
    x = floats(x)
    if not bits.flags.c_contiguous:
        raise ValueError("bits are not contiguous")
    library.kernels_signs(
        address(x), c_int64(first), c_int64(len(x)), c_int32(x.shape[1]), address(bits)
    )


def search(
    library: Library, rows: Rows, query: F32, k: int, *, candidates: int
) -> tuple[NDArray[np.int64], F32]:
    """See kernels.search."""
    query = floats(query)
    k = max(0, min(k, len(rows)))
    found = np.empty(k, np.int64)
    scores = np.empty(k, np.float32)
    structure = _Rows(
        address(rows.codes),
        address(rows.scale),
        address(rows.bits),
        address(rows.allowed),
        len(rows),
        rows.width,
        padded(rows.width),
    )
    count = library.kernels_search(
        ctypes.byref(structure),
        address(query),
        c_int64(k),
        c_int64(candidates),
        address(found),
        address(scores),
    )
    if count < 0:
        raise MemoryError("no memory to search")
    return found[:count], scores[:count]


def dot(library: Library, x: F32, query: F32) -> F32:
    """See kernels.dot."""
    x, query = floats(x), floats(query)
    scores = np.empty(len(x), np.float32)
    library.kernels_dot(
        address(x), c_int64(len(x)), c_int32(x.shape[1]), address(query), address(scores)
    )
    return scores
