"""Kernels: numpy arrays in, numpy arrays out, C inside.

    kernels.encode / linear / quantize / signs / search / dot
    kernels.language: what a language model is made of, on blocks.Blocks and cache.Cache
        │
        ├─ native.py      ctypes over libkernels.so (native/*.c): one of the variants
        │                 avx512, avx512vnni, avxvnni, avx2, neon, portable, chosen by CPU feature
        └─ reference.py   the same in numpy: slow and obvious, the oracle of the tests, and the
                          fallback where there is no library

Weights and rows stay as they lie in a mapped file; nothing is dequantized whole. A call releases
the GIL. It shares its work with a pool of threads, or, where another call has the pool, does it
alone: there are never more threads at work than were asked for and callers. An idle pool sleeps.

numpy is imported with the first use, not with this package.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from monolite.kernels.arrays import EncoderWeights, Linear, Rows
    from monolite.kernels.native import Library

log = logging.getLogger("monolite")

CHOICES = ("auto", "avx512", "avx512vnni", "avxvnni", "avx2", "neon", "portable", "numpy")
"""What MONOLITE_KERNELS takes. `numpy` uses the reference and no library."""


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """What computes: a variant or `numpy`, on how many threads, and why not the library."""

    variant: str
    threads: int
    reason: str | None = None


class NoSuchVariant(Exception):
    """The variant asked for can't run on this machine; the message says which can."""


class _State:
    choice = "auto"
    library: Library | None = None
    description: Description | None = None


def configure(choice: str = "auto", *, threads: int | None = None) -> Description:
    """Load the library and choose a variant; a later call chooses anew.

    `threads` is the most that compute at once, by default as many as this process may use.
    Without the library, which is logged once, and with `numpy`, the reference computes.

    Raises:
        NoSuchVariant: this machine, or the library's build, has no such variant.
    """
    from monolite.kernels import native

    count = threads or usable_cores()
    _State.library, reason = None, None
    if choice != "numpy":
        try:
            _State.library = native.load()
        except OSError as error:
            reason = f"the kernels' library can't be loaded, so numpy computes: {error}"
            log.warning("%s", reason)
    if _State.library is None:
        _State.description = Description("numpy", 1, reason)
    else:
        variant = _State.library.select(choice, count)
        if variant is None:
            runs = ", ".join(_State.library.runnable())
            raise NoSuchVariant(f"{choice} kernels can't run here; these can: {runs}, numpy")
        _State.description = Description(variant, count)
    return _State.description


def prefer(choice: str) -> None:
    """Have the first use configure `choice`. One that this machine may not have is tried at once.

    Raises:
        NoSuchVariant: as `configure` does.
    """
    _State.choice = choice
    if choice not in ("auto", "numpy"):
        configure(choice)


def description() -> Description:
    """What computes; configures by default where nobody has."""
    return _State.description or configure(_State.choice)


def use_threads(count: int) -> None:
    """Compute with so many threads from the next call on; where numpy does, nothing changes."""
    now = description()
    if _State.library is not None and now.threads != count:
        _State.library.select(now.variant, count)
        _State.description = Description(now.variant, count)


def usable_cores() -> int:
    """The cores this process may use: its affinity and its cgroup's quota, at least one."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def encode(
    weights: EncoderWeights, ids: NDArray[np.int32], lengths: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Sentences to vectors of length 1: BERT's encoder (Devlin et al. 2019), pooled.

    `ids` [sum(lengths)] are the sentences' token ids end to end, `lengths` [B] each at least 1 and
    at most the positions of the model. Returns [B, D].

    Raises:
        ValueError: an id or a length is outside the model.
        MemoryError: there is no memory for the scratch.
    """
    _check_tokens(weights, ids, lengths)
    if library() is None:
        from monolite.kernels import reference

        return reference.encode(weights, ids, lengths)
    from monolite.kernels import native

    return native.encode(_loaded(), weights, ids, lengths)


def linear(weights: Linear, x: NDArray[np.float32], *, gelu: bool = False) -> NDArray[np.float32]:
    """Rows x [M, K] times W', plus b: W [N, K] in int8 by row, x quantized by row. Gives [M, N]."""
    if x.ndim != 2 or x.shape[1] != weights.columns:
        raise ValueError(f"x has shape {x.shape}; the weights take [*, {weights.columns}]")
    if library() is None:
        from monolite.kernels import reference

        return reference.linear(weights, x, gelu=gelu)
    from monolite.kernels import native

    return native.linear(_loaded(), weights, x, gelu=gelu)


def quantize(x: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Rows [N, D] as (codes uint8 [N, D rounded up to 64], scale float32 [N]).

    x ~ scale * (codes - 128), symmetric around 0; padding is 128.
    """
    if library() is None:
        from monolite.kernels import reference

        return reference.quantize(x)
    from monolite.kernels import native

    return native.quantize(_loaded(), x)


def signs(x: NDArray[np.float32], bits: NDArray[np.uint64], first: int) -> None:
    """Write the signs of rows [n, D] into `bits` [blocks, words, 8] from row `first` on.

    Bit i % 64 of bits[r // 8, i // 64, r % 8] is set where x[r - first, i] > 0.
    """
    if (first + len(x) + 7) // 8 > len(bits):
        raise ValueError(f"{len(x)} rows from {first} on don't fit into {len(bits) * 8}")
    if library() is None:
        from monolite.kernels import reference

        reference.signs(x, bits, first)
    else:
        from monolite.kernels import native

        native.signs(_loaded(), x, bits, first)


def search(
    rows: Rows, query: NDArray[np.float32], k: int, *, candidates: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k rows with the highest dot product with `query` [D], in int8.

    Best first, equal scores by lower row; fewer than k where fewer are allowed. With `candidates`
    above 0 and bits at hand, only the rows nearest by Hamming distance between signs are scored:
    `candidates` of them and those that tie with the last, at most twice as many.

    Returns (row int64 [k], score float32 [k]).
    """
    if query.shape != (rows.width,):
        raise ValueError(f"the query has shape {query.shape}; the rows have width {rows.width}")
    if library() is None:
        from monolite.kernels import reference

        return reference.search(rows, query, k, candidates=candidates)
    from monolite.kernels import native

    return native.search(_loaded(), rows, query, k, candidates=candidates)


def dot(x: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Dot products of rows [N, D] with `query` [D], in float32: [N]."""
    if library() is None:
        from monolite.kernels import reference

        return reference.dot(x, query)
    from monolite.kernels import native

    return native.dot(_loaded(), x, query)


def library() -> Library | None:
    """The library in use; None where numpy computes. Configures by default where nobody has."""
    if _State.description is None:
        configure(_State.choice)
    return _State.library


def _loaded() -> Library:
    assert _State.library is not None
    return _State.library


def _check_tokens(
    weights: EncoderWeights, ids: NDArray[np.int32], lengths: NDArray[np.int32]
) -> None:
    if len(lengths) == 0:
        return
    if lengths.min() < 1 or lengths.max() > len(weights.positions):
        raise ValueError(f"a sentence has 1 to {len(weights.positions)} tokens")
    if lengths.sum() != len(ids):
        raise ValueError(f"{len(ids)} ids for sentences of {lengths.sum()}")
    if ids.min() < 0 or ids.max() >= len(weights.words):
        raise ValueError(f"a token id is outside the vocabulary of {len(weights.words)}")
