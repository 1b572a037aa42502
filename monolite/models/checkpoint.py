"""Checkpoints of the BERT family, as Hugging Face lays them out.

A checkpoint is a directory with `config.json`, `model.safetensors` and `tokenizer.json`, and, where
sentence-transformers trained it, its pooling and its longest text beside them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from monolite.errors import Invalid

F32 = NDArray[np.float32]

# RoBERTa numbers positions from its padding's id on, which is 1: two rows are never used.
_FIRST_POSITION = {"bert": 0, "roberta": 2, "xlm-roberta": 2}


class BadCheckpoint(Invalid):
    """A checkpoint that no encoder can be made of; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """An encoder as it was trained: D `width`, F `hidden`, and what to do with a text.

    `prefixes` go before a query and before a passage: the checkpoint's own where it names some,
    and E5's (Wang et al. 2022) where its name says that it is one. `pooling` is `mean` or `first`.
    """

    directory: Path
    width: int
    hidden: int
    layers: int
    heads: int
    epsilon: float
    pooling: str
    tokens_max: int
    prefixes: tuple[str, str]
    licence: str
    tokenizer: bytes
    tensors: Tensors
    first_position: int

    @classmethod
    def read(cls, directory: Path, name: str) -> Checkpoint:
        """Read all but the weights.

        Raises:
            BadCheckpoint: a file is missing, or the model is not of the BERT family.
        """
        config_file = directory / "config.json"
        if not config_file.is_file():
            raise BadCheckpoint(
                f"{directory} is no checkpoint: one is a directory with config.json, "
                "model.safetensors and tokenizer.json, as Hugging Face has them"
            )
        config = _json(config_file)
        first_position = _require_bert(directory, config)
        _require_nothing_after(directory)
        width, hidden, layers, heads = (
            _number(config_file, config, field)
            for field in (
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
            )
        )
        if width % heads:
            raise BadCheckpoint(f"{config_file}: {width} can't be shared by {heads} heads")
        positions = _number(config_file, config, "max_position_embeddings") - first_position
        return cls(
            directory=directory,
            width=width,
            hidden=hidden,
            layers=layers,
            heads=heads,
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            pooling=_pooling(directory),
            tokens_max=_tokens_max(directory, positions),
            prefixes=_prefixes(directory, name),
            licence=_licence(directory),
            tokenizer=_bytes(directory / "tokenizer.json"),
            tensors=Tensors(directory / "model.safetensors"),
            first_position=first_position,
        )

    @property
    def head_width(self) -> int:
        """D by the number of heads."""
        return self.width // self.heads

    def positions(self) -> F32:
        """What each position adds to a word [P, D]; a text of one sentence is of the first type."""
        rows = self.tensors("embeddings.position_embeddings.weight")[self.first_position :]
        rows += self.tensors("embeddings.token_type_embeddings.weight")[0]
        return rows

    def sha256(self) -> str:
        """Of the weights' file, in hexadecimal."""
        with (self.directory / "model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


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


def _number(path: Path, config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise BadCheckpoint(f"{path}: {name} is {value}, not a number above 0")
    return value


class Tensors:
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

    def rows(self, name: str, numbers: NDArray[np.int32]) -> F32:
        """Some rows of a matrix [len(numbers), K], the rest of it unread."""
        matrix = self._file.get_slice(self._name(name))
        different, where = np.unique(numbers, return_inverse=True)
        found = [matrix[number : number + 1] for number in different.tolist()]
        return self._checked(name, np.concatenate(found))[where]

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
