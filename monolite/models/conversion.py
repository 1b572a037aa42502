"""A checkpoint made into a model file: weights to int8, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monolite.kernels.arrays import ROWS_MULTIPLE, Linear, pack
from monolite.models import calibration
from monolite.models.bert import Bert
from monolite.models.checkpoint import F32, BadCheckpoint, Checkpoint, Tensors
from monolite.models.file import About, write
from monolite.models.tokens import TextTokenizer

LAYER_PARTS = ("qkv", "out", "up", "down")
NORMS = ("attention_norm_weight", "attention_norm_bias", "output_norm_weight", "output_norm_bias")

_WORDS_AT_ONCE = 8192


def convert(
    directory: Path,
    output: Path,
    name: str,
    *,
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    licence: str = "",
    source: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> About:
    """Quantize a checkpoint into the model file `output`; returns what it is.

    Weights become int8 by row, norms and positions stay float32. What is not given is the
    checkpoint's own. `progress` is told of layers done, and how many there are.

    Raises:
        BadCheckpoint: a file is missing, or the model is not of the BERT family.
        OSError: `output` can't be written.
    """
    checkpoint = Checkpoint.read(directory, name)
    tensors, width, head_width = checkpoint.tensors, checkpoint.width, checkpoint.head_width
    if width % ROWS_MULTIPLE or checkpoint.hidden % ROWS_MULTIPLE or head_width % 16:
        raise BadCheckpoint(
            f"{directory}: widths {width} and {checkpoint.hidden} with heads of {head_width} don't "
            f"suit the kernels, which take multiples of {ROWS_MULTIPLE} and 16"
        )
    words, word_scale = _quantize_words(tensors)
    tokenizer = _tokenizer(checkpoint, len(words))
    reaches = _reaches(checkpoint, tokenizer)
    arrays: dict[str, NDArray[Any]] = {
        "tokenizer": np.frombuffer(checkpoint.tokenizer, np.uint8),
        "words": words,
        "word_scale": word_scale,
        "positions": checkpoint.positions(),
        "norm_weight": tensors("embeddings.LayerNorm.weight"),
        "norm_bias": tensors("embeddings.LayerNorm.bias"),
    }
    for number in range(checkpoint.layers):
        arrays |= _layer(tensors, number, head_width, reaches)
        if progress is not None:
            progress(number + 1, checkpoint.layers)
    prefixes = checkpoint.prefixes
    about = About(
        name=name,
        kind="encoder",
        dimensions=width,
        tokens_max=checkpoint.tokens_max,
        heads=checkpoint.heads,
        layers=checkpoint.layers,
        epsilon=checkpoint.epsilon,
        pooling=checkpoint.pooling,
        query_prefix=prefixes[0] if query_prefix is None else query_prefix,
        passage_prefix=prefixes[1] if passage_prefix is None else passage_prefix,
        licence=licence or checkpoint.licence,
        source=source,
        source_sha256=checkpoint.sha256(),
    )
    write(output, about, arrays)
    return about


def _tokenizer(checkpoint: Checkpoint, words: int) -> TextTokenizer:
    try:
        tokenizer = TextTokenizer(checkpoint.tokenizer, checkpoint.tokens_max)
    except ValueError as error:
        raise BadCheckpoint(f"{checkpoint.directory / 'tokenizer.json'}: {error}") from None
    if tokenizer.vocabulary > words:
        raise BadCheckpoint(
            f"{checkpoint.directory}: tokenizer.json has ids up to {tokenizer.vocabulary - 1}, but "
            f"model.safetensors knows {words} words"
        )
    return tokenizer


def _quantize_words(tensors: Tensors) -> tuple[NDArray[np.int8], F32]:
    """Word embeddings [V, D] as int8 with a scale by word.

    In pieces, since those of a multilingual model are the larger part of a gigabyte.
    """
    codes, scales = [], []
    for words in tensors.pieces("embeddings.word_embeddings.weight", _WORDS_AT_ONCE):
        scale = (np.abs(words).max(axis=1) / 127).astype(np.float32)
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
        codes.append(np.rint(words * inverse[:, None]).astype(np.int8))
        scales.append(scale)
    return np.concatenate(codes), np.concatenate(scales)


def _reaches(checkpoint: Checkpoint, tokenizer: TextTokenizer) -> Mapping[tuple[int, str], F32]:
    """The largest magnitude [D] of each channel, by layer and by which matrix it is input to."""
    reaches: dict[tuple[int, str], F32] = {}

    def see(number: int, name: str, x: F32) -> None:
        size = np.abs(x).max(axis=0)
        reaches[number, name] = np.maximum(size, reaches.get((number, name), size))

    Bert(checkpoint).hidden(tokenizer.tokenize(calibration.TEXTS).ids, see)
    return reaches


def _smooth(weight: F32, reach: F32) -> F32:
    """What to multiply the input of W by, so that no channel of it dwarfs the others.

    SmoothQuant (Xiao et al. 2022, equation 4, alpha 1/2) divides a channel by sqrt(max |x| / max
    |W|). BERT has channels that reach forty times as far as others, at special tokens and full
    stops above all, which no statistic of the weights shows: so they are measured.
    """
    size = np.abs(weight).max(axis=0)
    ratio = np.sqrt(np.maximum(size, 1e-6) / np.maximum(reach, 1e-6))
    smooth: F32 = (ratio / np.exp(np.log(ratio).mean())).astype(np.float32)
    return smooth


def _layer(
    tensors: Tensors, number: int, head_width: int, reaches: Mapping[tuple[int, str], F32]
) -> dict[str, NDArray[Any]]:
    def part(name: str) -> tuple[F32, F32]:
        prefix = f"encoder.layer.{number}.{name}"
        return tensors(f"{prefix}.weight"), tensors(f"{prefix}.bias")

    # Softmax takes query key' / sqrt(d): dividing the query's weights saves doing it per token.
    scale = np.float32(head_width**-0.5)
    query, key, value = (part(f"attention.self.{name}") for name in ("query", "key", "value"))
    matrices = {
        "qkv": (
            np.concatenate([query[0] * scale, key[0], value[0]]),
            np.concatenate([query[1] * scale, key[1], value[1]]),
        ),
        "out": part("attention.output.dense"),
        "up": part("intermediate.dense"),
        "down": part("output.dense"),
    }
    norms = (*part("attention.output.LayerNorm"), *part("output.LayerNorm"))
    arrays: dict[str, NDArray[Any]] = {}
    for name, (weight, bias) in matrices.items():
        reach = reaches.get((number, name))
        smooth = None if reach is None else _smooth(weight, reach)
        packed: Linear = pack(weight, bias, smooth)
        arrays |= {
            f"{number}.{name}.{field}": value
            for field, value in vars(packed).items()
            if value is not None
        }
    return arrays | {f"{number}.{name}": norm for name, norm in zip(NORMS, norms, strict=True)}
