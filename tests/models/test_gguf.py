"""GGUF files: every type beside the `gguf` package, and files that are not what they say."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize as dequantize_as_peer
from gguf.quants import quantize as quantize_as_peer

from monolite.kernels import blocks
from monolite.models.gguf import TYPES, BadGguf, Gguf
from monolite.models.gguf_types import as_blocks, dequantize, floats

K_TYPES = ("Q4_K", "Q5_K", "Q6_K")


def stored(name: str) -> np.ndarray:
    """Rows of a type, as the peer writes them; the K types, which it only reads, of any bits."""
    random_numbers = np.random.default_rng(7)
    number = next(number for number, kind in TYPES.items() if kind.name == name)
    if name not in K_TYPES:
        values = random_numbers.standard_normal((48, 512), np.float32)
        made = quantize_as_peer(values, GGMLQuantizationType(number))
        return np.ascontiguousarray(made).view(np.uint8).reshape(48, -1)
    size = TYPES[number].bytes
    raw = random_numbers.integers(0, 256, (48, 2, size), dtype=np.uint8)
    scale = random_numbers.random((48, 2), np.float32).astype("<f2").view(np.uint8)
    places = [208] if name == "Q6_K" else [0, 2]
    for place in places:
        raw[:, :, place : place + 2] = scale.reshape(48, 2, 2)
    return raw.reshape(48, -1)


def as_peer(raw: np.ndarray, name: str) -> np.ndarray:
    if name in ("F32", "F16"):
        return raw.view("<f4" if name == "F32" else "<f2").astype(np.float32)
    number = next(number for number, kind in TYPES.items() if kind.name == name)
    made: np.ndarray = dequantize_as_peer(raw, GGMLQuantizationType(number))
    return made.reshape(len(raw), -1)


@pytest.mark.parametrize("name", [kind.name for kind in TYPES.values()])
def test_numbers_are_those_of_the_gguf_package(name: str) -> None:
    raw = stored(name)
    np.testing.assert_array_equal(dequantize(raw, name), as_peer(raw, name))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A small file with a matrix of each type, written by the `gguf` package."""

    def written() -> Path:
        path = tmp_path / "small.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_block_count(2)
        writer.add_array("some.words", ["a", "b", "ç"])
        writer.add_array("some.numbers", [1, 2, 3])
        writer.add_float32("some.float", 0.5)
        writer.add_bool("some.switch", True)
        for number, kind in TYPES.items():
            raw = stored(kind.name)
            if kind.name in ("F32", "F16"):
                raw = raw.view("<f4" if kind.name == "F32" else "<f2")
                writer.add_tensor(kind.name, raw)
            else:
                writer.add_tensor(kind.name, raw, raw_dtype=GGMLQuantizationType(number))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return written


def test_a_file_of_the_gguf_package_is_read(write: Callable[[], Path]) -> None:
    gguf = Gguf.open(write())
    assert gguf.metadata["llama.block_count"] == 2
    assert gguf.metadata["some.words"] == ["a", "b", "ç"]
    assert gguf.metadata["some.numbers"] == [1, 2, 3]
    assert gguf.metadata["some.float"] == 0.5
    assert gguf.metadata["some.switch"] is True
    for kind in TYPES.values():
        tensor = gguf.tensor(kind.name, (48, 512))
        np.testing.assert_array_equal(floats(gguf, tensor), as_peer(stored(kind.name), kind.name))


@pytest.mark.parametrize(
    ("name", "error_max"),
    [("Q4_0", 0), ("Q4_1", 0), ("Q8_0", 0), ("Q4_K", 1e-3), ("Q6_K", 1e-2), ("F16", 1e-2)],
)
def test_blocks_for_kernels_hold_the_same_numbers(
    write: Callable[[], Path], name: str, error_max: float
) -> None:
    gguf = Gguf.open(write())
    made = blocks.unpack(as_blocks(gguf, gguf.tensor(name)))
    wanted = as_peer(stored(name), name)
    largest = np.abs(wanted).max()
    # A minimum that is -8 scale, or -128 scale, is rounded to float16 once.
    assert np.abs(made - wanted).max() <= max(error_max, 1e-3) * largest


def test_rows_are_padded_for_kernels(write: Callable[[], Path]) -> None:
    gguf = Gguf.open(write())
    made = blocks.unpack(as_blocks(gguf, gguf.tensor("Q8_0"), rows=64))
    assert made.shape == (64, 512)
    assert not made[48:].any()


def test_a_file_cut_off_anywhere_is_refused_by_name(
    write: Callable[[], Path], tmp_path: Path
) -> None:
    whole = write().read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in sorted(random.Random(3).sample(range(len(whole) - 64), 150)):
        cut.write_bytes(whole[:length])
        with pytest.raises((BadGguf, ValueError), match=r"cut\.gguf|empty"):
            Gguf.open(cut)


def test_a_file_with_any_byte_changed_is_refused_or_read_within_itself(
    write: Callable[[], Path], tmp_path: Path
) -> None:
    path = write()
    whole = bytearray(path.read_bytes())
    header = Gguf.open(path)
    start = min(tensor.start for tensor in header.tensors.values())
    changed = tmp_path / "changed.gguf"
    chance = random.Random(5)
    for _ in range(400):
        place = chance.randrange(start)
        before = whole[place]
        whole[place] = chance.randrange(256)
        changed.write_bytes(whole)
        whole[place] = before
        try:
            gguf = Gguf.open(changed)
        except BadGguf:
            continue
        for tensor in gguf.tensors.values():
            assert gguf.raw(tensor).size == tensor.bytes
