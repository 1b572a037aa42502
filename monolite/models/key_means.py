"""What the keys of a model have in common, from a short text: 4-bit keys are kept without it.

A vector taken off all keys of a head changes no softmax: each query's scores all lose the same. Two
thirds of the keys' energy in SmolLM2 lie in such a vector, so that what is left has a smaller step
(Zhang et al. 2024, SageAttention, smooth keys so). Positions turn it; what turns slowly stays.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from monolite.kernels import cache, decoder, reference
from monolite.kernels.decoder import Decoder, Room, hadamard

F32 = NDArray[np.float32]

POSITIONS = 2048
"""Positions over which the turned vector is averaged."""

TEXT = (
    "The lighthouse keeper counted 214 steps every evening, wound the clockwork, and wrote down the"
    " weather: wind from the north-west, rain since noon, two boats still out at sea.\n\nDear Anna,"
    " thank you for your letter; the meeting has moved to Thursday at 10:30. Please bring the three"
    " invoices and the contract.\n\ndef add(a, b):\n    return a + b\n\n1. Mix the flour with"
    " water.\n2. Wait an hour.\n\nWhat is the capital of Peru? The capital of Peru is Lima."
)


def with_key_means(model: Decoder, embeddings: F32, cosine: F32, sine: F32) -> Decoder:
    """The model with each layer's key_mean, by one pass over the embeddings [T, D] of a text.

    cosine and sine [POSITIONS, d / 2]; T is at most POSITIONS, and at least 2.
    """
    count = len(embeddings)
    room = Room(
        [
            cache.empty(model.kv_heads, -(-count // 16) * 16, model.head_width, 32)
            for _ in model.layers
        ]
    )
    span = decoder.Span(room, 0, count)
    nothing = np.empty(0, np.int32)
    decoder.decode(model, [span], embeddings, cosine[:count], sine[:count], nothing)
    spread = (
        hadamard(model.head_width) if model.spread else np.eye(model.head_width, dtype=np.float32)
    )
    layers = []
    for layer, kept in zip(model.layers, room.layers, strict=True):
        keys: F32 = cache.dequantized(kept, count)[0] @ spread.T
        # To where they were before their positions; the first token's key is like no other.
        bare = reference.rotate(
            keys.transpose(1, 0, 2), cosine[:count], -sine[:count], neighbours=model.neighbours
        )
        mean = np.repeat(bare[1:].mean(axis=0)[None], len(cosine), axis=0)
        turned = reference.rotate(mean, cosine, sine, neighbours=model.neighbours).mean(axis=0)
        layers.append(replace(layer, key_mean=np.ascontiguousarray(turned @ spread, np.float32)))
    return replace(model, layers=layers)
