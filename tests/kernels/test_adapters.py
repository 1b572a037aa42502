"""Low-rank products beside a pass's matrices, in every variant."""

from __future__ import annotations

import numpy as np
import pytest

from monolite import kernels
from monolite.kernels.adapters import MATRICES, Adapter, AdapterLayer, low_rank
from monolite.kernels.blocks import Blocks, quantize, unpack
from monolite.kernels.decoder import Decoder, Layer, Span
from tests.kernels.test_decoder import WIDTH, model, normals, passed, room

RANKS = (1, 8, 16, 23, 64)
Factors = list[dict[str, tuple[np.ndarray, np.ndarray]]]
"""A and B of each matrix, layer by layer."""


def factors(weights: Decoder, rank: int, seed: int, size: float = 0.5) -> Factors:
    rng = np.random.default_rng(seed)
    return [
        {
            name: (
                normals(rng, rank, w.columns) / np.float32(w.columns**0.5),
                normals(rng, w.rows, rank) * np.float32(size / rank**0.5),
            )
            for name in MATRICES
            if (w := getattr(layer, name)) is not None
        }
        for layer in weights.layers
    ]


def cosines(made: np.ndarray, expected: np.ndarray) -> np.ndarray:
    products = (made * expected).sum(1)
    return products / np.linalg.norm(made, axis=1) / np.linalg.norm(expected, axis=1)


def adapter(made: Factors, scale: float = 1.0) -> Adapter:
    return Adapter(
        [
            AdapterLayer(**{name: low_rank(a, b, scale) for name, (a, b) in one.items()})
            for one in made
        ]
    )


def merged(weights: Decoder, made: Factors) -> Decoder:
    """W + B A, in eight bits, of which the packed matrices of the model are as near as can be."""
    layers = []
    for layer, change in zip(weights.layers, made, strict=True):
        matrices: dict[str, Blocks] = {}
        for name, (a, b) in change.items():
            old: Blocks = getattr(layer, name)
            matrices[name] = quantize(unpack(old) + b @ a, 8, old.bias)
        layers.append(Layer(layer.attention_norm, mlp_norm=layer.mlp_norm, **matrices))  # type: ignore[arg-type]
    return Decoder(
        layers, weights.norm, weights.output, weights.heads, weights.kv_heads,
        weights.head_width, weights.epsilon, weights.neighbours, weights.spread,
    )  # fmt: skip


@pytest.mark.parametrize("rank", RANKS)
def test_a_pass_with_an_adapter_is_its_twin_and_the_merged_models(variant: str, rank: int) -> None:
    weights, made = model(), factors(model(), rank, 3)
    x = normals(np.random.default_rng(1), 20, WIDTH)
    everything = list(range(20))
    got = passed(weights, [Span(room(32, 32), 0, 20, adapter(made))], x, everything)
    kernels.configure("numpy")
    twin = passed(weights, [Span(room(32, 32), 0, 20, adapter(made))], x, everything)
    kernels.configure(variant)
    np.testing.assert_allclose(got, twin, atol=2e-3)
    plain = passed(weights, [Span(room(32, 32), 0, 20)], x, everything)
    whole = passed(merged(weights, made), [Span(room(32, 32), 0, 20)], x, everything)
    assert cosines(got, whole).min() > 0.999
    assert np.corrcoef((got - plain).ravel(), (whole - plain).ravel())[0, 1] > 0.98


def test_sequences_of_a_pass_have_adapters_of_their_own(variant: str) -> None:
    weights = model()
    ours, theirs = adapter(factors(weights, 16, 4)), adapter(factors(weights, 8, 5), 2.0)
    x = normals(np.random.default_rng(2), 7, WIDTH)
    alone = [
        passed(weights, [Span(room(16, 8), 0, 7, one)], x, list(range(7)))
        for one in (ours, None, theirs)
    ]
    together = passed(
        weights,
        [Span(room(16, 8), 0, 7, one) for one in (ours, None, theirs)],
        np.concatenate([x] * 3),
        list(range(21)),
    )
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_matrices_that_it_leaves_alone_stay(variant: str) -> None:
    weights = model()
    x = normals(np.random.default_rng(2), 4, WIDTH)
    nothing = Adapter([AdapterLayer() for _ in weights.layers])
    plain = passed(weights, [Span(room(16, 8), 0, 4)], x, [0, 3])
    same = passed(weights, [Span(room(16, 8), 0, 4, nothing)], x, [0, 3])
    np.testing.assert_array_equal(plain, same)
    made = factors(weights, 4, 6)
    one = Adapter([AdapterLayer(down=low_rank(*made[0]["down"], 1.0)), AdapterLayer()])
    changed = passed(weights, [Span(room(16, 8), 0, 4, one)], x, [0, 3])
    assert np.abs(changed - plain).max() > 0


def test_one_of_another_model_is_refused() -> None:
    weights = model()
    x = normals(np.random.default_rng(2), 1, WIDTH)
    short = adapter(factors(model(layers=1), 4, 1))
    with pytest.raises(ValueError, match="another model"):
        passed(weights, [Span(room(16, 8), 0, 1, short)], x, [0])
    a, b = factors(weights, 4, 1)[0]["down"]
    wrong = Adapter([AdapterLayer(query=low_rank(a, b, 1.0))] * 2)
    with pytest.raises(ValueError, match="query"):
        passed(weights, [Span(room(16, 8), 0, 1, wrong)], x, [0])
    with pytest.raises(ValueError, match="A is"):
        low_rank(a, b[:, :2], 1.0)
