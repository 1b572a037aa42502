"""What a decoding language model is made of: block products, norms, rotation, attention to a cache.

T tokens, H query heads, G heads of keys and values (H a multiple of G), d a head's width, N and K a
matrix's rows and columns. Everything is float32 outside of weights and cache.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_float, c_int32, c_int64
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from monolite import kernels
from monolite.kernels import reference
from monolite.kernels.native import address, floats

if TYPE_CHECKING:
    from monolite.kernels.blocks import Blocks
    from monolite.kernels.cache import Cache

F32 = NDArray[np.float32]
Activation = Literal["gelu", "silu"]

_ACTIVATIONS = {None: 0, "gelu": 1, "silu": 2}


def multiply(weights: Blocks, x: F32, *, activation: Activation | None = None) -> F32:
    """f(x W' + b) [T, N] of rows x [T, K]; x is quantized to int8 by 32 columns of a row."""
    if x.ndim != 2 or x.shape[1] != weights.columns:
        raise ValueError(f"x has shape {x.shape}; the weights take [*, {weights.columns}]")
    library = kernels.library()
    if library is None:
        return reference.multiply(weights, x, activation=activation)
    x = floats(x)
    y = np.empty((len(x), weights.rows), np.float32)
    done = len(x) == 0 or library.kernels_blocks(
        byref(weights.native),
        address(x),
        c_int32(len(x)),
        c_int32(_ACTIVATIONS[activation]),
        c_int32(0),
        address(y),
    )
    return _made(y, done)


def rms_norm(x: F32, weight: F32, epsilon: float) -> F32:
    """RMS norm of each row of x [T, D]: x / sqrt(mean(x x) + epsilon) * weight [D]."""
    _check_rows(x, weight)
    library = kernels.library()
    if library is None:
        return reference.rms_norm(x, weight, epsilon)
    x, weight, y = floats(x), floats(weight), np.empty(x.shape, np.float32)
    library.kernels_rms_norm(
        address(x),
        c_int64(len(x)),
        c_int32(x.shape[1]),
        address(weight),
        c_float(epsilon),
        address(y),
    )
    return y


def layer_norm(x: F32, weight: F32, bias: F32, epsilon: float) -> F32:
    """(x - mean) / sqrt(variance + epsilon) * weight [D] + bias [D], by row of x [T, D]."""
    _check_rows(x, weight)
    _check_rows(x, bias)
    library = kernels.library()
    if library is None:
        return reference.normalize(x, weight, bias, epsilon)
    x, weight, bias, y = floats(x), floats(weight), floats(bias), np.empty(x.shape, np.float32)
    library.kernels_layer_norm(
        address(x),
        c_int64(len(x)),
        c_int32(x.shape[1]),
        address(weight),
        address(bias),
        c_float(epsilon),
        address(y),
    )
    return y


def softmax(x: F32) -> F32:
    """Of each row of x [T, N], N at least 1."""
    if x.ndim != 2 or x.shape[1] < 1:
        raise ValueError(f"softmax of rows, and not of {x.shape}")
    library = kernels.library()
    if library is None:
        return reference.softmax(x)
    y = np.array(x, np.float32, order="C")
    library.kernels_softmax(address(y), c_int64(len(y)), c_int32(y.shape[1]))
    return y


def rotate(x: F32, cosine: F32, sine: F32, *, neighbours: bool = False) -> F32:
    """Rotary positions of x [T, H, d]; cosine and sine [T, d / 2] are of each token's position.

    Value i of a head turns with value i + d / 2, or with `neighbours` 2 i with 2 i + 1.
    """
    half = x.shape[-1] // 2
    if x.ndim != 3 or x.shape[2] % 2 or not cosine.shape == sine.shape == (len(x), half):
        raise ValueError(f"x {x.shape} can't be turned by {cosine.shape} and {sine.shape}")
    library = kernels.library()
    if library is None:
        return reference.rotate(x, cosine, sine, neighbours=neighbours)
    y = np.array(x, np.float32, order="C")
    cosine, sine = floats(cosine), floats(sine)
    library.kernels_rotate(
        address(y),
        c_int64(len(y)),
        c_int32(y.shape[1]),
        c_int32(y.shape[2]),
        address(cosine),
        address(sine),
        c_int32(neighbours),
    )
    return y


def gate(x: F32, up: F32) -> F32:
    """silu(x) * up, value by value."""
    if x.shape != up.shape:
        raise ValueError(f"{x.shape} can't gate {up.shape}")
    library = kernels.library()
    if library is None:
        return reference.gate(x, up)
    y, up = np.array(x, np.float32, order="C"), floats(up)
    library.kernels_gate(address(y), address(up), c_int64(y.size))
    return y


def append(cache: Cache, first: int, keys: F32, values: F32) -> None:
    """Write keys and values [T, G, d] into the cache from position `first` on."""
    shape = (len(keys), cache.heads, cache.width)
    if keys.shape != shape or values.shape != shape:
        raise ValueError(f"keys {keys.shape} and values {values.shape} are not {shape}")
    if first < 0 or first + len(keys) > cache.capacity:
        raise ValueError(f"{len(keys)} positions from {first} on don't fit into {cache.capacity}")
    library = kernels.library()
    if library is None:
        reference.append(cache, first, keys, values)
        return
    keys, values = floats(keys), floats(values)
    library.kernels_append(
        byref(cache.native), c_int64(first), c_int64(len(keys)), address(keys), address(values)
    )


def attend(cache: Cache, queries: F32, visible: NDArray[np.int64]) -> F32:
    """softmax(query key' / sqrt(d)) value [T, H, d] of queries [T, H, d].

    Token t sees the first visible[t] positions: a prompt of T tokens appended from `first` on sees
    first + 1 … first + T. Query head h looks at head h * G / H of the cache.
    """
    if queries.ndim != 3 or queries.shape[2] != cache.width or queries.shape[1] % cache.heads:
        raise ValueError(f"queries {queries.shape} of {cache.heads} heads of {cache.width}")
    if visible.shape != queries.shape[:1]:
        raise ValueError(f"{len(queries)} tokens, but visible {visible.shape}")
    if len(visible) and not 0 <= visible.min() <= visible.max() <= cache.capacity:
        raise ValueError(f"a token sees 0 to {cache.capacity} positions")
    library = kernels.library()
    if library is None:
        return reference.attend_to_cache(cache, queries, visible)
    queries, out = floats(queries), np.empty(queries.shape, np.float32)
    visible = np.ascontiguousarray(visible, dtype=np.int64)
    library.kernels_attend(
        byref(cache.native),
        address(queries),
        c_int32(len(queries)),
        c_int32(queries.shape[1]),
        address(visible),
        address(out),
    )
    return out


def _made(y: F32, done: ctypes.c_int | bool) -> F32:
    if not done:
        raise MemoryError("no memory to compute")
    return y


def _check_rows(x: F32, weight: F32) -> None:
    if x.ndim != 2 or weight.shape != x.shape[1:]:
        raise ValueError(f"rows {x.shape} and weights {weight.shape} don't match")
