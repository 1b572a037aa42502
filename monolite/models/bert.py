"""BERT's encoder (Devlin et al. 2019) in float32, to be read beside the paper.

B texts, T tokens, D width, H heads, W = D / H, F hidden. It tells conversion.py how far activations
reach, and is what quantized models are held to in the tests and benchmarks; what serves is
monolite.kernels.encode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from monolite.models.checkpoint import F32, Checkpoint


class Bert:
    """A checkpoint's encoder with its weights as they were trained. All but the words are in
    memory.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        tensors = checkpoint.tensors
        self._checkpoint = checkpoint
        self._positions = checkpoint.positions()  # [P, D]
        self._norm = tensors("embeddings.LayerNorm.weight"), tensors("embeddings.LayerNorm.bias")
        self._layers = [
            {
                name: (tensors(f"{prefix}{name}.weight"), tensors(f"{prefix}{name}.bias"))
                for name in (
                    "attention.self.query",
                    "attention.self.key",
                    "attention.self.value",
                    "attention.output.dense",
                    "attention.output.LayerNorm",
                    "intermediate.dense",
                    "output.dense",
                    "output.LayerNorm",
                )
            }
            for prefix in (f"encoder.layer.{number}." for number in range(checkpoint.layers))
        ]

    def encode(self, texts: Sequence[NDArray[np.int32]]) -> F32:
        """Vectors [B, D] of length 1 of texts given as token ids, special tokens included."""
        ends = np.cumsum([len(ids) for ids in texts])
        vectors = np.array([self._pool(x) for x in np.split(self.hidden(texts), ends[:-1])])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def hidden(
        self,
        texts: Sequence[NDArray[np.int32]],
        see: Callable[[int, str, F32], None] = lambda *_: None,
    ) -> F32:
        """The last layer's hidden states [T, D] of the texts, one after the other: T tokens in all.

        `see` is shown each layer's number with its input (`qkv`) and its input to the feed-forward
        part (`up`).
        """
        ids = np.concatenate(texts)
        words = self._checkpoint.tensors.rows("embeddings.word_embeddings.weight", ids)
        x = words + np.concatenate([self._positions[: len(one)] for one in texts])
        x = self._normalized(x, self._norm)
        ends = np.cumsum([len(one) for one in texts])[:-1]
        for number, layer in enumerate(self._layers):
            see(number, "qkv", x)
            query, key, value = (
                np.split(linear(x, *layer[f"attention.self.{name}"]), ends)
                for name in ("query", "key", "value")
            )
            mixed = np.concatenate(
                [self._attend(*one) for one in zip(query, key, value, strict=True)]
            )
            attention = linear(mixed, *layer["attention.output.dense"])
            x = self._normalized(x + attention, layer["attention.output.LayerNorm"])
            see(number, "up", x)
            inner = gelu(linear(x, *layer["intermediate.dense"]))  # [T, F]
            x = self._normalized(
                x + linear(inner, *layer["output.dense"]), layer["output.LayerNorm"]
            )
        return x

    def _attend(self, query: F32, key: F32, value: F32) -> F32:
        """What one text's tokens [T, D] take from each other."""
        q, k, v = (self._by_head(x) for x in (query, key, value))  # [H, T, W]
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[2])  # [H, T, T]
        mixed: F32 = (softmax(scores) @ v).transpose(1, 0, 2).reshape(query.shape)
        return mixed

    def _pool(self, hidden: F32) -> F32:
        pooled: F32 = hidden[0] if self._checkpoint.pooling == "first" else hidden.mean(axis=0)
        return pooled

    def _by_head(self, x: F32) -> F32:
        heads = self._checkpoint.heads
        return x.reshape(len(x), heads, -1).transpose(1, 0, 2)

    def _normalized(self, x: F32, norm: tuple[F32, F32]) -> F32:
        return layer_norm(x, *norm, self._checkpoint.epsilon)


def linear(x: F32, weight: F32, bias: F32) -> F32:
    """X W' + b: x [T, K], W [N, K], b [N]."""
    return x @ weight.T + bias


def softmax(x: F32) -> F32:
    """Over the last axis, the largest subtracted first so that none overflows."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    shares: F32 = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def layer_norm(x: F32, weight: F32, bias: F32, epsilon: float) -> F32:
    """Ba et al. 2016, over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    normal: F32 = (centred / np.sqrt(variance + epsilon) * weight + bias).astype(np.float32)
    return normal


def gelu(x: F32) -> F32:
    """Hendrycks and Gimpel 2016: x (1 + erf(x / sqrt 2)) / 2."""
    activated: F32 = (x * 0.5 * (1 + erf(x / math.sqrt(2)))).astype(np.float32)
    return activated


def erf(x: F32) -> NDArray[np.float64]:
    """Within 1.5e-7 (Abramowitz and Stegun 1964, 7.1.26); numpy has none."""
    size = np.abs(x, dtype=np.float64)
    t = 1 / (1 + 0.3275911 * size)
    series = np.polyval([1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592], t)
    found: NDArray[np.float64] = np.sign(x) * (1 - series * t * np.exp(-size * size))
    return found
