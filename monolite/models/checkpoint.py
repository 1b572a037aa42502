"""Checkpoints of the BERT family, as Hugging Face lays them out, made into model files.

A checkpoint is a directory with `config.json`, `model.safetensors` and `tokenizer.json`, and, where
sentence-transformers trained it, its pooling and its longest text beside them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from monolite.errors import Invalid
from monolite.kernels.arrays import ROWS_MULTIPLE, Linear, pack
from monolite.models.file import About, write

F32 = NDArray[np.float32]

LAYER_PARTS = ("qkv", "out", "up", "down")
NORMS = ("attention_norm_weight", "attention_norm_bias", "output_norm_weight", "output_norm_bias")


_WORDS_AT_ONCE = 8192

# RoBERTa numbers positions from its padding's id on, which is 1: two rows are never used.
_FIRST_POSITION = {"bert": 0, "roberta": 2, "xlm-roberta": 2}


class BadCheckpoint(Invalid):
    """A checkpoint that no encoder can be made of; the message says why."""


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

    Weights become int8 by row, norms and positions stay float32. The prefixes are the checkpoint's
    own where it names some, and E5's (Wang et al. 2022) where its name says that it is one.
    `progress` is told of layers done, and how many there are.

    Raises:
        BadCheckpoint: a file is missing, or the model is not of the BERT family.
    """
    config = _json(directory / "config.json")
    first_position = _require_bert(directory, config)
    _require_nothing_after(directory)
    width, layers, hidden, heads = (
        _number(directory, config, name)
        for name in (
            "hidden_size",
            "num_hidden_layers",
            "intermediate_size",
            "num_attention_heads",
        )
    )
    if width % ROWS_MULTIPLE or hidden % ROWS_MULTIPLE or width % heads or (width // heads) % 16:
        raise BadCheckpoint(f"{directory}: widths {width} and {hidden} don't suit the kernels")
    weights_file = directory / "model.safetensors"
    tensors = _Tensors(weights_file)
    tokenizer = _bytes(directory / "tokenizer.json")
    words, word_scale = _quantize_words(tensors)
    positions = tensors("embeddings.position_embeddings.weight")[first_position:]
    first_type = tensors("embeddings.token_type_embeddings.weight")[0]
    arrays: dict[str, NDArray[Any]] = {
        "tokenizer": np.frombuffer(tokenizer, np.uint8),
        "words": words,
        "word_scale": word_scale,
        "positions": positions + first_type,
        "norm_weight": tensors("embeddings.LayerNorm.weight"),
        "norm_bias": tensors("embeddings.LayerNorm.bias"),
    }
    norm = arrays["norm_weight"], arrays["norm_bias"]
    for number in range(layers):
        arrays |= _layer(tensors, number, width // heads, norm)
        norm = arrays[f"{number}.output_norm_weight"], arrays[f"{number}.output_norm_bias"]
        if progress is not None:
            progress(number + 1, layers)
    prefixes = _prefixes(directory, name)
    about = About(
        name=name,
        kind="encoder",
        dimensions=width,
        tokens_max=_tokens_max(directory, len(positions)),
        heads=heads,
        layers=layers,
        epsilon=config.get("layer_norm_eps", 1e-12),
        pooling=_pooling(directory),
        query_prefix=prefixes[0] if query_prefix is None else query_prefix,
        passage_prefix=prefixes[1] if passage_prefix is None else passage_prefix,
        licence=licence or _licence(directory),
        source=source,
        source_sha256=_sha256(weights_file),
    )
    write(output, about, arrays)
    return about


def _require_bert(directory: Path, config: dict[str, Any]) -> int:
    """The row of the first position."""
    kind, activation = config.get("model_type"), config.get("hidden_act", "gelu")
    if kind not in _FIRST_POSITION or activation != "gelu":
        raise BadCheckpoint(
            f"{directory} holds a {kind} model with {activation}: this takes encoders of the BERT"
            " family with GELU, such as all-MiniLM-L6-v2 or multilingual-e5-small"
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise BadCheckpoint(f"{directory}: positions must be absolute")
    return _FIRST_POSITION[kind]


def _require_nothing_after(directory: Path) -> None:
    """Refuse a checkpoint with more steps than an encoder has, whose vectors would be others."""
    modules = _parsed(directory / "modules.json") or []
    for module in modules if isinstance(modules, list) else []:
        step = str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else ""
        if step not in ("Transformer", "Pooling", "Normalize"):
            raise BadCheckpoint(f"{directory} has a step {step} in modules.json, unknown here")


def _number(directory: Path, config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise BadCheckpoint(f"{directory / 'config.json'}: {name} is {value}, not a number above 0")
    return value


def _quantize_words(tensors: _Tensors) -> tuple[NDArray[np.int8], F32]:
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


def _smooth(weight: F32, norm: tuple[F32, F32]) -> F32:
    """What to multiply the input of W by, so that no channel of it dwarfs the others.

    SmoothQuant (Xiao et al. 2022, equation 4, alpha 1/2) divides a channel by sqrt(max |x| / max
    |W|). The input comes from a layer norm, whose bias and weight tell how far a channel reaches:
    three standard deviations here, so no texts are needed to measure it.
    """
    reach = np.abs(norm[1]) + 3 * np.abs(norm[0])
    size = np.abs(weight).max(axis=0)
    ratio = np.sqrt(np.maximum(size, 1e-6) / np.maximum(reach, 1e-6))
    smooth: F32 = (ratio / np.exp(np.log(ratio).mean())).astype(np.float32)
    return smooth


def _layer(
    tensors: _Tensors, number: int, head_width: int, norm: tuple[F32, F32]
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
    inputs = {"qkv": norm, "up": norms[:2]}
    arrays: dict[str, NDArray[Any]] = {}
    for name, (weight, bias) in matrices.items():
        smooth = _smooth(weight, inputs[name]) if name in inputs else None
        packed: Linear = pack(weight, bias, smooth)
        arrays |= {
            f"{number}.{name}.{field}": value
            for field, value in vars(packed).items()
            if value is not None
        }
    return arrays | {f"{number}.{name}": norm for name, norm in zip(NORMS, norms, strict=True)}


class _Tensors:
    """The weights of a safetensors file by their names in BERT, one at a time in memory."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self._path = path
        self._file: Any
        try:
            self._file = safe_open(path, framework="numpy")
        except (OSError, SafetensorError) as error:
            raise BadCheckpoint(f"{path} can't be read: {error}") from None
        self._names = set(self._file.keys())

    def __call__(self, name: str) -> F32:
        found: F32 = self._checked(name, self._file.get_tensor(self._name(name)))
        return found

    def pieces(self, name: str, rows: int) -> Iterator[F32]:
        """The rows of a matrix, some at a time."""
        matrix = self._file.get_slice(self._name(name))
        count = matrix.get_shape()[0]
        for start in range(0, count, rows):
            yield self._checked(name, matrix[start : min(start + rows, count)])

    def _name(self, name: str) -> str:
        for prefix in ("", "bert.", "roberta.", "0.auto_model."):
            if prefix + name in self._names:
                return prefix + name
        raise BadCheckpoint(f"{self._path} has no {name}")

    def _checked(self, name: str, values: NDArray[Any]) -> F32:
        found = values.astype(np.float32)
        if not np.isfinite(found).all():
            raise BadCheckpoint(f"{self._path}: {name} has a value that is no finite number")
        return found


def _pooling(directory: Path) -> str:
    config = _json(directory / "1_Pooling" / "config.json", missing_ok=True)
    if config.get("pooling_mode_cls_token"):
        return "first"
    return "mean"


def _tokens_max(directory: Path, positions: int) -> int:
    config = _json(directory / "sentence_bert_config.json", missing_ok=True)
    return min(int(config.get("max_seq_length") or positions), positions)


def _prefixes(directory: Path, name: str) -> tuple[str, str]:
    config = _json(directory / "config_sentence_transformers.json", missing_ok=True)
    prompts = config.get("prompts") or {}
    if prompts:
        return prompts.get("query", ""), prompts.get("passage", prompts.get("document", ""))
    return ("query: ", "passage: ") if "e5" in name.lower().split("-") else ("", "")


def _licence(directory: Path) -> str:
    """The licence that the model's card names, as cards of Hugging Face begin."""
    try:
        card = (directory / "README.md").read_text(errors="replace")
    except OSError:
        return ""
    front = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    found = re.search(r"^license:\s*([\w.-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else ""


def _json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    if missing_ok and not path.is_file():
        return {}
    value = _parsed(path, missing_ok=False)
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} is not a JSON object")
    return value


def _parsed(path: Path, *, missing_ok: bool = True) -> Any:
    if missing_ok and not path.is_file():
        return None
    try:
        return msgspec.json.decode(_bytes(path))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadCheckpoint(f"{path} is not JSON: {error}") from None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadCheckpoint(f"{path} can't be read: {error.strerror}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
