"""What language models are made of, in every variant, against its numpy twin."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolite import kernels
from monolite.kernels import blocks, cache, language, reference

each_variant = settings(
    deadline=None,
    max_examples=20,
    # A variant is chosen for the whole test, not for an example.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**32 - 1)
odd_sizes = st.integers(1, 70)


def normals(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def misaligned(array: np.ndarray, offset: int) -> np.ndarray:
    raw = np.empty(array.nbytes + offset, np.uint8)
    raw[offset:] = np.frombuffer(array.tobytes(), np.uint8)
    return raw[offset:].view(array.dtype).reshape(array.shape)


def unaligned_blocks(weights: blocks.Blocks, offset: int) -> blocks.Blocks:
    return blocks.Blocks(misaligned(weights.packed, offset), weights.bits, weights.bias)


@each_variant
@given(
    seed=seeds,
    tokens=st.integers(0, 19),
    groups=st.integers(1, 6),
    columns=st.integers(1, 5),
    bits=st.sampled_from([4, 8]),
    activation=st.sampled_from([None, "gelu", "silu"]),
    has_bias=st.booleans(),
    offset=st.integers(0, 7),
)
def test_block_product_is_its_twin(
    variant: str,
    seed: int,
    tokens: int,
    groups: int,
    columns: int,
    bits: Literal[4, 8],
    activation: Literal["gelu", "silu"] | None,
    has_bias: bool,
    offset: int,
) -> None:
    bias = normals(seed + 1, 16 * groups) if has_bias else None
    weights = blocks.quantize(normals(seed, 16 * groups, 32 * columns), bits, bias)
    weights = unaligned_blocks(weights, offset)
    x = normals(seed + 2, tokens, 32 * columns)
    made = language.multiply(weights, x, activation=activation)
    expected = reference.multiply(weights, x, activation=activation)
    assert made.shape == (tokens, 16 * groups)
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=3e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_codes_do_not_overflow(variant: str, bits: Literal[4, 8]) -> None:
    codes = np.full((16, 64), 2**bits - 1, np.uint8)
    scale = np.ones((16, 2), np.float16)
    weights = blocks.pack(codes, scale, np.zeros((16, 2), np.float16) if bits == 4 else None)
    for value in (1, -1):
        x = np.full((3, 64), value, np.float32)
        made = language.multiply(weights, x)
        np.testing.assert_allclose(made, 64.0 * value * (15 if bits == 4 else 127), rtol=1e-5)


@given(seed=seeds, bits=st.sampled_from([4, 8]), scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_quantizing_in_blocks_is_off_by_half_a_step(
    seed: int, bits: Literal[4, 8], scale: float
) -> None:
    weight = normals(seed, 32, 64) * np.float32(scale)
    weight[3] = 0
    found = blocks.unpack(blocks.quantize(weight, bits))
    by_block = weight.reshape(32, 2, 32)
    spread = by_block.max(axis=2) - by_block.min(axis=2)
    step = spread / 15 if bits == 4 else np.abs(by_block).max(axis=2) / 127
    # The ends of a block may be off by what float16 rounds of its scale and minimum.
    allowed = 0.51 * step + 1e-3 * np.abs(by_block).max(axis=2)
    assert (np.abs(found - weight).reshape(32, 2, 32) <= allowed[:, :, None]).all()


@given(seed=seeds)
def test_packed_codes_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (48, 96), dtype=np.uint8)
    scale, minimum = (rng.normal(size=(48, 3)).astype(np.float16) for _ in range(2))
    whole = minimum.astype("f4")[:, :, None] + scale.astype("f4")[:, :, None] * codes.reshape(
        48, 3, 32
    )
    found = blocks.unpack(blocks.pack(codes, scale, minimum))
    np.testing.assert_array_equal(found, whole.reshape(48, 96))


@pytest.mark.parametrize("shape", [(15, 32), (16, 33)])
def test_matrix_that_no_block_fits_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="rows go by 16"):
        blocks.quantize(np.ones(shape, np.float32), 4)


@each_variant
@given(seed=seeds, rows=st.integers(0, 5), width=odd_sizes, offset=st.integers(0, 3))
def test_norms_and_softmax_are_their_twins(
    variant: str, seed: int, rows: int, width: int, offset: int
) -> None:
    x, weight, bias = normals(seed, rows, width), normals(seed + 1, width), normals(seed + 2, width)
    x = misaligned(x, offset)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(
        language.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5), **close
    )
    np.testing.assert_allclose(
        language.layer_norm(x, weight, bias, 1e-5),
        reference.normalize(x, weight, bias, 1e-5),
        **close,
    )
    np.testing.assert_allclose(language.softmax(10 * x), reference.softmax(10 * x), **close)


def test_softmax_of_extremes_sums_to_one(variant: str) -> None:
    x = np.array([[1e30, 0, -1e30, 1e30, 5], [-1e30] * 5, [-3e38, 3e38, 0, 0, 0]], np.float32)
    made = language.softmax(x)
    np.testing.assert_allclose(made.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(made, reference.softmax(x.astype(np.float64)), atol=1e-6)


@each_variant
@given(
    seed=seeds,
    tokens=st.integers(0, 4),
    heads=st.integers(1, 3),
    half=st.integers(1, 40),
    neighbours=st.booleans(),
)
def test_rotation_is_its_twin_and_keeps_lengths(
    variant: str, seed: int, tokens: int, heads: int, half: int, neighbours: bool
) -> None:
    x = normals(seed, tokens, heads, 2 * half)
    angle = normals(seed + 1, tokens, half)
    cosine, sine = np.cos(angle), np.sin(angle)
    made = language.rotate(x, cosine, sine, neighbours=neighbours)
    expected = reference.rotate(x, cosine, sine, neighbours=neighbours)
    np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-6)
    lengths = np.linalg.norm(x, axis=2)
    np.testing.assert_allclose(np.linalg.norm(made, axis=2), lengths, rtol=1e-4)


@each_variant
@given(seed=seeds, size=st.integers(0, 100))
def test_gate_is_its_twin(variant: str, seed: int, size: int) -> None:
    x, up = 20 * normals(seed, size), normals(seed + 1, size)
    np.testing.assert_allclose(language.gate(x, up), reference.gate(x, up), rtol=1e-5, atol=1e-6)


@each_variant
@given(
    seed=seeds,
    heads=st.integers(1, 3),
    share=st.integers(1, 3),
    width=st.sampled_from([8, 24, 64]),
    key_bits=st.sampled_from([4, 8, 32]),
    stored=st.integers(0, 48),
    seen=st.lists(st.integers(0, 48), max_size=5),
)
def test_cache_and_attention_are_their_twins(
    variant: str,
    seed: int,
    heads: int,
    share: int,
    width: int,
    key_bits: Literal[4, 8, 32],
    stored: int,
    seen: list[int],
) -> None:
    keys, values = normals(seed, stored, heads, width), normals(seed + 1, stored, heads, width)
    made, expected = (cache.empty(heads, 48, width, key_bits) for _ in range(2))
    for first in range(0, stored, 7):
        some = np.s_[first : first + 7]
        language.append(made, first, keys[some], values[some])
    reference.append(expected, 0, keys, values)
    for name in ("keys", "first_keys", "values"):
        # A value in the middle of two codes may fall to either side.
        mine, theirs = getattr(made, name), getattr(expected, name)
        assert (mine == theirs).mean() > 0.999 if mine.size else True
    for name in ("key_scale", "value_scale"):
        np.testing.assert_allclose(getattr(made, name), getattr(expected, name), rtol=2e-3)
    visible = np.minimum(np.array(seen, np.int64), stored)
    queries = normals(seed + 2, len(visible), heads * share, width)
    np.testing.assert_allclose(
        language.attend(made, queries, visible),
        reference.attend_to_cache(made, queries, visible),
        rtol=1e-3,
        atol=2e-4,
    )


@pytest.mark.parametrize(("key_bits", "least"), [(32, 0.999999), (8, 0.9999), (4, 0.99)])
def test_quantized_attention_is_near_the_exact_one(
    variant: str, key_bits: Literal[4, 8, 32], least: float
) -> None:
    heads, tokens, width = 2, 300, 64
    keys, values = normals(1, tokens, heads, width), normals(2, tokens, heads, width)
    kept = cache.empty(heads, 304, width, key_bits)
    language.append(kept, 0, keys, values)
    queries = normals(3, 1, heads, width)
    found = language.attend(kept, queries, np.array([tokens]))
    scores = np.einsum("thd,phd->thp", queries, keys) / 8
    exact = np.einsum("thp,phd->thd", reference.softmax(scores), values)
    cosine = (found * exact).sum(2) / np.linalg.norm(found, axis=2) / np.linalg.norm(exact, axis=2)
    assert cosine.min() > least


def test_token_that_sees_nothing_gets_zeros(variant: str) -> None:
    kept = cache.empty(1, 16, 8, 8)
    found = language.attend(kept, normals(0, 1, 1, 8), np.zeros(1, np.int64))
    assert found.tolist() == np.zeros((1, 1, 8)).tolist()


def test_arguments_that_do_not_fit_are_refused(variant: str) -> None:
    kept = cache.empty(2, 16, 8, 4)
    weights = blocks.quantize(np.ones((16, 32), np.float32), 4)
    ones = np.ones((1, 2, 8), np.float32)
    for wrong in (
        lambda: language.multiply(weights, np.ones((2, 31), np.float32)),
        lambda: language.rms_norm(np.ones((2, 3), np.float32), np.ones(4, np.float32), 0),
        lambda: language.softmax(np.ones((2, 0), np.float32)),
        lambda: language.rotate(ones, np.ones((1, 3)), np.ones((1, 3))),
        lambda: language.gate(np.ones(3, np.float32), np.ones(4, np.float32)),
        lambda: language.append(kept, 16, ones, ones),
        lambda: language.append(kept, 0, ones[:, :1], ones),
        lambda: language.attend(kept, ones, np.array([17])),
        lambda: language.attend(kept, np.ones((1, 3, 8), np.float32), np.array([1])),
        lambda: cache.empty(1, 15, 8, 4),
        lambda: cache.empty(1, 16, 12, 4),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_without_the_library_numpy_answers_the_same() -> None:
    weights = blocks.quantize(normals(0, 32, 64), 4)
    x = normals(1, 3, 64)
    fast = language.multiply(weights, x, activation="silu")
    kernels.configure("numpy")
    slow = language.multiply(weights, x, activation="silu")
    kernels.configure()
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=3e-4)
