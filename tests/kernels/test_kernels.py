"""Every kernel in every variant against its numpy twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolite import kernels
from monolite.kernels import reference
from monolite.kernels.arrays import EncoderLayer, EncoderWeights, Linear, Rows, pack, unpack

F32 = np.ndarray
each_variant = settings(
    deadline=None,
    max_examples=25,
    # A variant is chosen for the whole test, not for an example.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**32 - 1)


def misaligned(array: np.ndarray, offset: int) -> np.ndarray:
    """The same values at an address that no vector likes."""
    raw = np.empty(array.nbytes + offset, np.uint8)
    moved = raw[offset:].view(np.uint8)[: array.nbytes]
    moved[:] = np.frombuffer(array.tobytes(), np.uint8)
    return np.frombuffer(moved.data, array.dtype).reshape(array.shape)


def normals(rng: np.random.Generator, *shape: int) -> F32:
    return rng.normal(size=shape).astype(np.float32)


def packed(rng: np.random.Generator, rows: int, columns: int) -> Linear:
    # As trained weights are: an output is about as large as its inputs.
    return pack(normals(rng, rows, columns) / np.float32(columns**0.5), 0.1 * normals(rng, rows))


@each_variant
@given(
    seed=seeds,
    count=st.integers(0, 40),
    groups=st.integers(1, 3),
    quads=st.integers(1, 60),
    gelu=st.booleans(),
    offset=st.integers(0, 7),
    smoothed=st.booleans(),
)
def test_linear_is_its_twin(
    variant: str,
    seed: int,
    count: int,
    groups: int,
    quads: int,
    gelu: bool,
    offset: int,
    smoothed: bool,
) -> None:
    rng = np.random.default_rng(seed)
    weights = packed(rng, groups * 32, quads * 4)
    smooth = rng.uniform(0.5, 2, quads * 4).astype(np.float32) if smoothed else None
    weights = Linear(misaligned(weights.packed, offset), weights.scale, weights.bias, smooth)
    x = normals(rng, count, quads * 4)
    made = kernels.linear(weights, x, gelu=gelu)
    assert made.shape == (count, groups * 32)
    np.testing.assert_allclose(made, reference.linear(weights, x, gelu=gelu), atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30, -3.0])
def test_linear_of_extremes_is_its_twin(variant: str, value: float) -> None:
    weights = packed(np.random.default_rng(1), 32, 12)
    x = np.full((3, 12), value, np.float32)
    x[1] = 0
    expected = reference.linear(weights, x)
    np.testing.assert_allclose(kernels.linear(weights, x), expected, rtol=1e-5, atol=1e-5)


def test_the_largest_products_do_not_overflow(variant: str) -> None:
    ones = np.ones((32, 4096), np.float32)
    weights = pack(ones, np.zeros(32, np.float32))
    for sign in (1, -1):
        made = kernels.linear(weights, sign * np.ones((5, 4096), np.float32))
        np.testing.assert_allclose(made, sign * 4096.0, rtol=1e-5)


@each_variant
@given(seed=seeds, count=st.integers(0, 30), width=st.integers(1, 200))
def test_quantize_and_signs_are_their_twins(
    variant: str, seed: int, count: int, width: int
) -> None:
    x = normals(np.random.default_rng(seed), count, width)
    if count > 1:
        x[1] = 0
    codes, scale = kernels.quantize(x)
    expected_codes, expected_scale = reference.quantize(x)
    assert codes.tolist() == expected_codes.tolist()
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)
    bits = np.zeros((count // 8 + 2, -(-width // 64), 8), np.uint64)
    expected_bits = bits.copy()
    kernels.signs(x, bits, 3)
    reference.signs(x, expected_bits, 3)
    assert bits.tolist() == expected_bits.tolist()


@each_variant
@given(
    seed=seeds,
    count=st.integers(0, 5000),
    width=st.sampled_from([1, 3, 63, 64, 65, 100, 384]),
    k=st.integers(0, 50),
    candidates=st.sampled_from([0, 1, 7, 100, 10_000]),
    filtered=st.booleans(),
)
def test_search_is_its_twin(
    variant: str, seed: int, count: int, width: int, k: int, candidates: int, filtered: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Few different values, so that scores and distances tie.
    x = rng.integers(-2, 3, (count, width)).astype(np.float32)
    codes, scale = kernels.quantize(x)
    bits = np.zeros((-(-count // 8), -(-width // 64), 8), np.uint64)
    kernels.signs(x, bits, 0)
    allowed = rng.integers(0, 256, -(-count // 8), dtype=np.uint8) if filtered else None
    rows = Rows(width, codes, scale, bits, allowed)
    query = normals(rng, width)
    found, scores = kernels.search(rows, query, k, candidates=candidates)
    expected, expected_scores = reference.search(rows, query, k, candidates=candidates)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)
    assert found.tolist() == expected.tolist()


def test_search_where_nothing_is_allowed_finds_nothing(variant: str) -> None:
    x = normals(np.random.default_rng(0), 100, 64)
    codes, scale = kernels.quantize(x)
    rows = Rows(64, codes, scale, None, np.zeros(13, np.uint8))
    found, scores = kernels.search(rows, x[0], 10)
    assert (len(found), len(scores)) == (0, 0)


def small_encoder(rng: np.random.Generator, pooling: str) -> EncoderWeights:
    width, hidden, vocabulary, positions = 64, 96, 50, 40
    return EncoderWeights(
        heads=2,
        epsilon=1e-12,
        pooling=pooling,
        words=rng.integers(-127, 128, (vocabulary, width)).astype(np.int8),
        word_scale=rng.uniform(0.001, 0.01, vocabulary).astype(np.float32),
        positions=normals(rng, positions, width) * 0.1,
        norm_weight=1 + 0.1 * normals(rng, width),
        norm_bias=0.1 * normals(rng, width),
        layers=tuple(
            EncoderLayer(
                packed(rng, 3 * width, width),
                packed(rng, width, width),
                packed(rng, hidden, width),
                packed(rng, width, hidden),
                1 + 0.1 * normals(rng, width),
                0.1 * normals(rng, width),
                1 + 0.1 * normals(rng, width),
                0.1 * normals(rng, width),
            )
            for _ in range(2)
        ),
    )


@each_variant
@given(
    seed=seeds,
    lengths=st.lists(st.integers(1, 40), max_size=20),
    pooling=st.sampled_from(["mean", "first"]),
)
def test_encoder_is_its_twin(variant: str, seed: int, lengths: list[int], pooling: str) -> None:
    rng = np.random.default_rng(seed)
    weights = small_encoder(rng, pooling)
    ids = rng.integers(0, 50, sum(lengths)).astype(np.int32)
    made = kernels.encode(weights, ids, np.array(lengths, np.int32))
    expected = reference.encode(weights, ids, np.array(lengths, np.int32))
    # A value near the middle of two codes may fall to either side: not bit for bit.
    assert made.shape == expected.shape
    assert ((made * expected).sum(axis=1) > 0.999).all()


def test_a_batch_gives_what_its_sentences_give_alone(variant: str) -> None:
    rng = np.random.default_rng(7)
    weights = small_encoder(rng, "mean")
    lengths = rng.integers(1, 41, 64).astype(np.int32)
    ids = rng.integers(0, 50, lengths.sum()).astype(np.int32)
    together = kernels.encode(weights, ids, lengths)
    starts = np.concatenate([[0], lengths.cumsum()])
    for i, length in enumerate(lengths):
        alone = kernels.encode(weights, ids[starts[i] : starts[i + 1]], lengths[i : i + 1])
        assert np.array_equal(alone[0], together[i]), length


@pytest.mark.parametrize(
    ("ids", "lengths"),
    [([1], [2]), ([50], [1]), ([-1], [1]), ([], [0]), ([1] * 41, [41])],
)
def test_tokens_outside_the_model_are_refused(ids: list[int], lengths: list[int]) -> None:
    weights = small_encoder(np.random.default_rng(0), "mean")
    with pytest.raises(ValueError):
        kernels.encode(weights, np.array(ids, np.int32), np.array(lengths, np.int32))


def test_packing_is_undone_by_unpacking() -> None:
    weight = normals(np.random.default_rng(0), 64, 20)
    weights = pack(weight, np.zeros(64, np.float32))
    np.testing.assert_allclose(
        unpack(weights) * weights.scale[:, None], weight, atol=float(weights.scale.max()) / 2
    )


@pytest.mark.parametrize("shape", [(16, 4), (33, 4), (32, 3)])
def test_matrix_that_no_tile_fits_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="rows go by 32"):
        pack(np.ones(shape, np.float32), np.ones(shape[0], np.float32))
