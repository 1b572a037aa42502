"""Texts to vectors (Reimers and Gurevych 2019): tokens, BERT, the mean of the tokens, length 1."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monolite import kernels
from monolite.kernels.arrays import EncoderLayer, EncoderWeights, Linear
from monolite.models.checkpoint import LAYER_PARTS, NORMS
from monolite.models.file import About, BadModelFile, ModelFile

Kind = Literal["query", "passage"]

BATCH_TEXTS = 64
"""Texts between two calls of `progress`; the kernels cut them into blocks of their own."""

CHARACTERS_PER_TOKEN_MAX = 64
"""Of a text, this many characters per token that the model takes are read at all."""


@dataclass(frozen=True)
class Encoded:
    """`vectors` float32 [N, D] of length 1, `tokens` int32 [N] used of each text, `truncated`
    bool [N] where a text had more; times in milliseconds.
    """

    vectors: NDArray[np.float32]
    tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    tokenize_ms: float
    embed_ms: float


class Encoder:
    """An open embedding model. Methods may be called from any thread."""

    def __init__(self, about: About, weights: EncoderWeights, tokenizer: Any) -> None:
        self.about = about
        self.name = about.name
        self.dimensions = about.dimensions
        self.tokens_max = about.tokens_max
        self._weights = weights
        self._tokenizer = tokenizer

    @classmethod
    def open(cls, path: Path, *, offset: int = 0, length: int | None = None) -> Encoder:
        """Open a model file, as ModelFile.open does, and raise as it does."""
        from tokenizers import Tokenizer

        file = ModelFile.open(path, offset=offset, length=length)
        try:
            if file.about.kind != "encoder":
                raise BadModelFile(f"{path} holds a {file.about.kind}, not an encoder")
            weights = _weights(file)
            tokenizer = Tokenizer.from_buffer(file.arrays["tokenizer"].tobytes())
        except KeyError as error:
            raise BadModelFile(f"{path} has no {error}. Remove it, and add it again") from None
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return cls(file.about, weights, tokenizer)

    def encode(
        self,
        texts: Sequence[str],
        kind: Kind = "passage",
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Encoded:
        """Vectors of texts, in their order. `progress` is told of texts done, and how many."""
        prefix = self.about.query_prefix if kind == "query" else self.about.passage_prefix
        started = time.perf_counter()
        ids, truncated = self._tokenize(texts, prefix)
        tokenized = time.perf_counter()
        lengths = np.array([len(one) for one in ids], np.int32)
        vectors = np.empty((len(ids), self.dimensions), np.float32)
        # Texts of like length together: the longest of a block sets what its attention costs.
        order = np.argsort(lengths, kind="stable")
        for first in range(0, len(ids), BATCH_TEXTS):
            chosen = order[first : first + BATCH_TEXTS]
            tokens = np.concatenate([ids[i] for i in chosen])
            vectors[chosen] = kernels.encode(self._weights, tokens, lengths[chosen])
            if progress is not None:
                progress(min(first + BATCH_TEXTS, len(ids)), len(ids))
        ended = time.perf_counter()
        return Encoded(
            vectors,
            lengths,
            truncated,
            (tokenized - started) * 1000,
            (ended - tokenized) * 1000,
        )

    def _tokenize(
        self, texts: Sequence[str], prefix: str
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.bool_]]:
        characters_max = self.tokens_max * CHARACTERS_PER_TOKEN_MAX
        ids, truncated = [], np.zeros(len(texts), np.bool_)
        for number, text in enumerate(texts):
            # One at a time: the package's own batches would start threads of theirs.
            found = self._tokenizer.encode(prefix + text[:characters_max]).ids
            truncated[number] = len(text) > characters_max or len(found) > self.tokens_max
            if len(found) > self.tokens_max:
                # The last id closes the text, as [SEP] does.
                found = [*found[: self.tokens_max - 1], found[-1]]
            ids.append(np.array(found, np.int32))
        return ids, truncated


def _weights(file: ModelFile) -> EncoderWeights:
    arrays, about = file.arrays, file.about

    def linear(number: int, name: str) -> Linear:
        packed, scale, bias = (
            arrays[f"{number}.{name}.{part}"] for part in ("packed", "scale", "bias")
        )
        return Linear(packed, scale, bias, arrays.get(f"{number}.{name}.smooth"))

    def layer(number: int) -> EncoderLayer:
        parts: dict[str, Any] = {name: linear(number, name) for name in LAYER_PARTS}
        parts |= {name: arrays[f"{number}.{name}"] for name in NORMS}
        return EncoderLayer(**parts)

    return EncoderWeights(
        about.heads,
        about.epsilon,
        about.pooling,
        arrays["words"],
        arrays["word_scale"],
        arrays["positions"],
        arrays["norm_weight"],
        arrays["norm_bias"],
        tuple(layer(number) for number in range(about.layers)),
    )
