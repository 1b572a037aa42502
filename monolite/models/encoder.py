"""Texts to vectors (Reimers and Gurevych 2019): tokens, BERT, the mean of the tokens, length 1."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from monolite import kernels
from monolite.kernels.arrays import EncoderLayer, EncoderWeights, Linear
from monolite.models.conversion import LAYER_PARTS, NORMS
from monolite.models.file import About, BadModelFile, ModelFile
from monolite.models.tokens import TextTokenizer, Tokens

Kind = Literal["query", "passage"]

BATCH_TOKENS = 2048
"""About so many tokens between two calls of `progress`, some 0.1 s on one core; the kernels cut
them into blocks of their own.
"""


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

    def __init__(self, about: About, weights: EncoderWeights, tokenizer: TextTokenizer) -> None:
        self.about = about
        self.name = about.name
        self.dimensions = about.dimensions
        self.tokens_max = about.tokens_max
        self.vocabulary = len(weights.words)
        self._weights = weights
        self._tokenizer = tokenizer

    @classmethod
    def open(cls, path: Path, *, offset: int = 0, length: int | None = None) -> Encoder:
        """Open a model file, as ModelFile.open does, and raise as it does."""
        file = ModelFile.open(path, offset=offset, length=length)
        if file.about.kind != "encoder":
            raise BadModelFile(f"{path} holds a {file.about.kind}, not an encoder")
        try:
            weights = _weights(file)
            content = file.arrays["tokenizer"].tobytes()
            return cls(file.about, weights, TextTokenizer(content, file.about.tokens_max))
        except KeyError as error:
            why = f"it has no {error}"
        except ValueError as error:
            why = str(error)
        raise BadModelFile(f"{path} can't be used: {why}. Remove it, and add it again")

    def prefix(self, kind: Kind | None) -> str:
        """What the model wants before a text of this kind."""
        if kind is None:
            return ""
        return self.about.query_prefix if kind == "query" else self.about.passage_prefix

    def encode(
        self,
        texts: Sequence[str],
        kind: Kind | None = "passage",
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Encoded:
        """Vectors of texts, in their order. `progress` is told of texts done, and how many.

        With `kind` None a text is taken as it is, without the model's prefix.
        """
        started = time.perf_counter()
        tokens = self.tokenize(texts, kind)
        tokenized = time.perf_counter()
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        done = 0
        for chosen in self.batches(tokens):
            vectors[chosen] = self.embed(tokens, chosen)
            done += len(chosen)
            if progress is not None:
                progress(done, len(texts))
        ended = time.perf_counter()
        return Encoded(
            vectors,
            tokens.lengths,
            tokens.truncated,
            (tokenized - started) * 1000,
            (ended - tokenized) * 1000,
        )

    def tokenize(self, texts: Sequence[str], kind: Kind | None = "passage") -> Tokens:
        """The first step of `encode`."""
        return self._tokenizer.tokenize(texts, self.prefix(kind))

    def wrap(self, ids: Sequence[Sequence[int]]) -> Tokens:
        """Ids that the caller made, below `vocabulary`, with or without special tokens round them,
        as `tokenize` gives them.
        """
        return self._tokenizer.wrap(ids)

    def batches(self, tokens: Tokens) -> Iterator[NDArray[np.intp]]:
        """Which texts to embed together: shorter ones first, each batch of some BATCH_TOKENS.

        Texts of like length go together, since the longest sets what attention costs.
        """
        order = np.argsort(tokens.lengths, kind="stable")
        number = (np.cumsum(tokens.lengths[order], dtype=np.int64) - 1) // BATCH_TOKENS
        return iter(np.split(order, np.flatnonzero(np.diff(number)) + 1) if len(order) else ())

    def embed(self, tokens: Tokens, chosen: NDArray[np.intp]) -> NDArray[np.float32]:
        """Vectors float32 [len(chosen), D] of the chosen texts."""
        ids = np.concatenate([tokens.ids[i] for i in chosen])
        return kernels.encode(self._weights, ids, tokens.lengths[chosen])


def _weights(file: ModelFile) -> EncoderWeights:
    """The arrays as the kernels take them. Raises ValueError where their shapes don't agree, since
    C would read past them.
    """
    arrays, about = file.arrays, file.about

    def array(name: str, dtype: str, *shape: int | None) -> NDArray[Any]:
        found = arrays[name]
        fits = len(found.shape) == len(shape) and all(
            wanted in (None, size) for size, wanted in zip(found.shape, shape, strict=True)
        )
        if not fits or found.dtype != dtype:
            raise ValueError(f"its {name} is {found.dtype} {found.shape}, not {dtype} {shape}")
        return found

    width = about.dimensions
    hidden = len(arrays["0.up.bias"])
    shapes = {
        "qkv": (3 * width, width),
        "out": (width, width),
        "up": (hidden, width),
        "down": (width, hidden),
    }

    def linear(number: int, name: str) -> Linear:
        rows, columns = shapes[name]
        smooth = f"{number}.{name}.smooth"
        return Linear(
            array(f"{number}.{name}.packed", "u1", rows // 16, columns // 4, 16, 4),
            array(f"{number}.{name}.scale", "f4", rows),
            array(f"{number}.{name}.bias", "f4", rows),
            array(smooth, "f4", columns) if smooth in arrays else None,
        )

    def layer(number: int) -> EncoderLayer:
        parts: dict[str, Any] = {name: linear(number, name) for name in LAYER_PARTS}
        parts |= {name: array(f"{number}.{name}", "f4", width) for name in NORMS}
        return EncoderLayer(**parts)

    if about.heads < 1 or width % about.heads or about.pooling not in ("mean", "first"):
        raise ValueError(f"it has {about.heads} heads and pooling {about.pooling}")
    words = array("words", "i1", None, width)
    positions = array("positions", "f4", None, width)
    if not 2 < about.tokens_max <= len(positions):
        raise ValueError(f"it takes {about.tokens_max} tokens and has {len(positions)} positions")
    return EncoderWeights(
        about.heads,
        about.epsilon,
        about.pooling,
        words,
        array("word_scale", "f4", len(words)),
        positions,
        array("norm_weight", "f4", width),
        array("norm_bias", "f4", width),
        tuple(layer(number) for number in range(about.layers)),
    )
