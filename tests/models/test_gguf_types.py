"""Every tensor type, against the `gguf` package that its format's authors keep."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from monolite.kernels import blocks
from monolite.models import gguf_types
from monolite.models.gguf import TYPES, Gguf

ROWS, COLUMNS = 32, 512
QUANTIZED = [kind for kind in TYPES.values() if kind.items > 1]


def stored(kind_name: str, seed: int = 0) -> np.ndarray:
    """Rows of random bytes that are numbers of a type: any code, scales of a sane size."""
    kind = gguf.GGMLQuantizationType[kind_name]
    items, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (ROWS, COLUMNS // items, size), dtype=np.uint8)
    places = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
    for place in places.get(kind_name, (0,)):
        scale = rng.uniform(-1, 1, raw.shape[:2]).astype(np.float16)
        raw[:, :, place : place + 2] = scale[..., None].view(np.uint8)
    return raw.reshape(ROWS, -1)


@pytest.mark.parametrize("name", [kind.name for kind in QUANTIZED])
def test_quantized_type_is_what_gguf_makes_of_it(name: str) -> None:
    raw = stored(name)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
    np.testing.assert_allclose(gguf_types.dequantize(raw, name), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_float_type_is_what_gguf_makes_of_it(name: str) -> None:
    values = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name]
    raw = np.ascontiguousarray(gguf.quants.quantize(values, kind)).view(np.uint8)
    expected = gguf.quants.dequantize(raw, kind)
    np.testing.assert_array_equal(gguf_types.dequantize(raw, name), expected)


@pytest.mark.parametrize("name", [kind.name for kind in TYPES.values()])
def test_blocks_of_a_type_are_near_its_numbers(name: str, tmp_path: Path) -> None:
    """Four bits and Q8_0 are kept as they are; the rest is off by half a step of eight bits."""
    kind = gguf.GGMLQuantizationType[name]
    raw = (
        np.random.default_rng(1).normal(size=(ROWS, COLUMNS)).astype(np.float32)
        if name == "F32"
        else stored(name)
    )
    if name in ("F16", "BF16"):
        values = np.random.default_rng(1).normal(size=(ROWS, COLUMNS)).astype(np.float32)
        raw = np.ascontiguousarray(gguf.quants.quantize(values, kind)).view(np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "llama")
    writer.add_tensor("m", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = Gguf.open(tmp_path / "one.gguf")
    tensor = opened.tensor("m", (ROWS, COLUMNS))
    expected = gguf_types.floats(opened, tensor)
    made = blocks.unpack(gguf_types.as_blocks(opened, tensor))
    most = np.abs(expected.reshape(ROWS, -1, 32)).max(axis=2).repeat(32, axis=1)
    exact = name in ("Q8_0", "Q4_0", "Q4_1")
    allowed = most * (1e-6 if exact else 2e-3 if name == "Q4_K" else 0.51 / 127 + 1e-3)
    assert (np.abs(made - expected) <= allowed + 1e-6).all()
