"""Low-rank changes of a decoder's matrices, applied beside them (LoRA, Hu et al. 2022).

y = W x + scale B (A x), with A [r, K] in blocks of 8 bits like other matrices and B [N, r] in int8
by row, so that an adapter of rank 16 takes a twentieth of its model's bytes and the model stays as
it is: several sequences of one pass may have different ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from monolite.kernels.blocks import GROUP, Blocks, quantize

if TYPE_CHECKING:
    from monolite.kernels.decoder import Decoder

F32 = NDArray[np.float32]
I8 = NDArray[np.int8]

MATRICES = ("query", "key", "value", "out", "gate", "up", "down")


@dataclass(frozen=True, eq=False)
class LowRank:
    """A: blocks of r rows filled up to 16; b int8 [N / 16, r, 16]; scale float32 [N], of B's rows,
    with alpha / r within.
    """

    a: Blocks
    b: I8
    scale: F32

    @property
    def rank(self) -> int:
        return int(self.b.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix that it changes."""
        return len(self.b) * GROUP, self.a.columns

    @property
    def byte_count(self) -> int:
        """What it takes."""
        return int(self.a.packed.nbytes + self.b.nbytes + self.scale.nbytes)

    def unpacked(self) -> F32:
        """Its B [N, r] in float32, scaled."""
        rows, rank = self.shape[0], self.rank
        codes = self.b.transpose(0, 2, 1).reshape(rows, rank).astype(np.float32)
        made: F32 = codes * self.scale[:, None]
        return made


@dataclass(frozen=True, eq=False)
class AdapterLayer:
    """What is added to each matrix of a layer; None: nothing."""

    query: LowRank | None = None
    key: LowRank | None = None
    value: LowRank | None = None
    out: LowRank | None = None
    gate: LowRank | None = None
    up: LowRank | None = None
    down: LowRank | None = None

    def changes(self) -> list[LowRank]:
        """Those there are."""
        return [one for name in MATRICES if (one := getattr(self, name)) is not None]


class Adapter:
    """One for a decoder of as many layers."""

    def __init__(self, layers: Sequence[AdapterLayer]) -> None:
        self.layers = layers
        self._fits: object = None

    def require_fits(self, model: Decoder) -> None:
        """Raise ValueError where it changes matrices of other shapes than the model has."""
        if self._fits is model:
            return
        if len(self.layers) != len(model.layers):
            raise ValueError("an adapter is of another model")
        for layer, changed in zip(model.layers, self.layers, strict=True):
            for name in MATRICES:
                change, matrix = getattr(changed, name), getattr(layer, name)
                if change is not None and change.shape != (matrix.rows, matrix.columns):
                    raise ValueError(f"an adapter's {name} changes a matrix of {change.shape}")
        self._fits = model

    @property
    def byte_count(self) -> int:
        """What it takes."""
        return sum(one.byte_count for layer in self.layers for one in layer.changes())

    @cached_property
    def native(self) -> Any:
        """The library's array of structures, made once; it points into the arrays."""
        from monolite.kernels.native import adapter_array

        return adapter_array(self.layers)


def low_rank(a: F32, b: F32, scale: float) -> LowRank:
    """Quantize A [r, K] and B [N, r], whose product is scaled.

    Raises:
        ValueError: N is no multiple of 16, K none of 32, or the shapes don't match.
    """
    rank, columns = a.shape
    rows = len(b)
    if b.shape != (rows, rank) or rows % GROUP or not rank:
        raise ValueError(f"A is {a.shape}, B {b.shape}")
    filled = np.zeros((-(-rank // GROUP) * GROUP, columns), np.float32)
    filled[:rank] = a
    # Each rank's part of A is brought to the same size, and B takes what that changes: a small part
    # of B's row beside a large one would lose its bits.
    size = np.abs(filled).max(axis=1)
    size[size == 0] = 1
    b = b * size[:rank] * np.float32(scale)
    step = np.abs(b).max(axis=1) / np.float32(127)
    inverse = np.divide(1, step, where=step > 0, out=np.zeros(rows, np.float32))
    codes = np.rint(b * inverse[:, None]).astype(np.int8)
    packed = codes.reshape(-1, GROUP, rank).transpose(0, 2, 1)
    blocks = quantize(filled / size[:, None], 8)
    return LowRank(blocks, np.ascontiguousarray(packed), step.astype(np.float32))
