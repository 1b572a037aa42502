"""LoRA adapters for tests: made of noise, or so that a model says one thing and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

from monolite.models.gguf import Gguf
from monolite.models.llama import Dimensions

MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
Factors = dict[str, tuple[np.ndarray, np.ndarray]]
"""A [r, columns] and B [rows, r], by the matrix's name."""


def dimensions_of(model: Path) -> tuple[str, Dimensions]:
    """A model's architecture, and what it says of itself."""
    opened = Gguf.open(model)
    architecture: str = opened.get("general.architecture", str)
    return architecture, Dimensions.read(opened, architecture)


def shape_of(matrix: str, d: Dimensions) -> tuple[int, int]:
    """Rows and columns of a layer's matrix."""
    queries, keys = d.heads * d.head_width, d.kv_heads * d.head_width
    return {
        "attn_q": (queries, d.width),
        "attn_k": (keys, d.width),
        "attn_v": (keys, d.width),
        "attn_output": (d.width, queries),
        "ffn_gate": (d.hidden, d.width),
        "ffn_up": (d.hidden, d.width),
        "ffn_down": (d.width, d.hidden),
    }[matrix]


def noise(d: Dimensions, rank: int, seed: int, size: float = 0.3) -> Factors:
    """Of all matrices of all layers; `size` is that of B A x beside x."""
    rng = np.random.default_rng(seed)
    made = {}
    for layer in range(d.layers):
        for matrix in MATRICES:
            rows, columns = shape_of(matrix, d)
            a = rng.normal(size=(rank, columns)) / columns**0.5
            b = rng.normal(size=(rows, rank)) * (size / (rank * d.layers) ** 0.5)
            made[f"blk.{layer}.{matrix}.weight"] = a.astype("f4"), b.astype("f4")
    return made


def write_adapter(
    path: Path,
    factors: Factors,
    *,
    alpha: float | None = None,
    architecture: str = "llama",
    kind: str = "adapter",
    store: Callable[[np.ndarray], np.ndarray] = lambda one: one.astype("f2"),
) -> Path:
    """Write a file, by default in float16."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for name, (a, b) in factors.items():
        writer.add_tensor(f"{name}.lora_a", store(a))
        writer.add_tensor(f"{name}.lora_b", store(b))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
