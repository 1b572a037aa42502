"""A decoder's pass in every variant: against its numpy twin, and itself otherwise batched."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest

from monolite import kernels
from monolite.kernels import blocks, cache, decoder
from monolite.kernels.decoder import Decoder, Layer, Room, Span

WIDTH, HIDDEN, HEADS, KV_HEADS, D, WORDS = 64, 96, 4, 2, 24, 80


def normals(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def model(
    seed: int = 0, *, layers: int = 2, spread: bool = True, neighbours: bool = False
) -> Decoder:
    rng = np.random.default_rng(seed)

    def matrix(
        rows: int, columns: int, bits: Literal[4, 8], *, bias: bool = False
    ) -> blocks.Blocks:
        weight = normals(rng, rows, columns) / np.float32(columns**0.5)
        return blocks.quantize(weight, bits, normals(rng, rows) / 8 if bias else None)

    def norm() -> np.ndarray:
        return 1 + normals(rng, WIDTH) / 8

    return Decoder(
        [
            Layer(
                norm(),
                matrix(HEADS * D, WIDTH, 4, bias=True),
                matrix(KV_HEADS * D, WIDTH, 8, bias=True),
                matrix(KV_HEADS * D, WIDTH, 4),
                matrix(WIDTH, HEADS * D, 8),
                norm(),
                matrix(HIDDEN, WIDTH, 4),
                matrix(HIDDEN, WIDTH, 8),
                matrix(WIDTH, HIDDEN, 4),
            )
            for _ in range(layers)
        ],
        norm(),
        matrix(WORDS, WIDTH, 4),
        HEADS,
        KV_HEADS,
        D,
        1e-5,
        neighbours,
        spread,
    )


def room(capacity: int, key_bits: Literal[4, 8, 32], layers: int = 2) -> Room:
    return Room([cache.empty(KV_HEADS, capacity, D, key_bits) for _ in range(layers)])


def turns(positions: list[int]) -> tuple[np.ndarray, np.ndarray]:
    angles = np.array(positions)[:, None] * 10_000.0 ** (-np.arange(0, D, 2) / D)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def passed(weights: Decoder, spans: list[Span], x: np.ndarray, wanted: list[int]) -> np.ndarray:
    positions = [at for span in spans for at in range(span.first, span.first + span.count)]
    return decoder.decode(weights, spans, x, *turns(positions), np.array(wanted, np.int32))


def assert_near(made: np.ndarray, expected: np.ndarray) -> None:
    cosine = (made * expected).sum(1) / np.linalg.norm(made, axis=1)
    assert (cosine / np.linalg.norm(expected, axis=1)).min() > 0.9995


@pytest.mark.parametrize("key_bits", [4, 8, 32])
@pytest.mark.parametrize("neighbours", [False, True])
def test_pass_is_its_twin(variant: str, key_bits: Literal[4, 8, 32], neighbours: bool) -> None:
    weights = model(neighbours=neighbours)
    rng = np.random.default_rng(1)
    long, short = normals(rng, 290, WIDTH), normals(rng, 5, WIDTH)
    mine, theirs = ([room(304, key_bits), room(16, key_bits)] for _ in range(2))
    first = passed(weights, [Span(mine[0], 0, 290)], long, [0, 289])
    kernels.configure("numpy")
    expected = passed(weights, [Span(theirs[0], 0, 290)], long, [0, 289])
    kernels.configure(variant)
    assert_near(first, expected)
    both = [Span(mine[0], 290, 2), Span(mine[1], 0, 3)]
    second = passed(weights, both, short, [1, 4, 2])
    kernels.configure("numpy")
    both = [Span(theirs[0], 290, 2), Span(theirs[1], 0, 3)]
    assert_near(second, passed(weights, both, short, [1, 4, 2]))
    kernels.configure(variant)


@pytest.mark.parametrize("key_bits", [4, 8, 32])
def test_tokens_are_the_same_however_they_share_passes(
    variant: str, key_bits: Literal[4, 8, 32]
) -> None:
    """Exactly: one by one, in chunks, and eight sequences at once."""
    weights = model()
    x = normals(np.random.default_rng(2), 300, WIDTH)
    alone = room(304, key_bits)
    whole = passed(weights, [Span(alone, 0, 300)], x, list(range(300)))
    chunked = room(304, key_bits)
    for first, end in ((0, 1), (1, 140), (140, 290)):
        some = list(range(end - first))
        made = passed(weights, [Span(chunked, first, end - first)], x[first:end], some)
        np.testing.assert_array_equal(made, whole[first:end])
    for at in range(290, 300):
        made = passed(weights, [Span(chunked, at, 1)], x[at : at + 1], [0])
        np.testing.assert_array_equal(made[0], whole[at])
    eight = [room(304, key_bits) for _ in range(8)]
    for number, each in enumerate(eight):
        passed(weights, [Span(each, 0, 280 + number)], x[: 280 + number], [])
    spans = [Span(each, 280 + number, 1) for number, each in enumerate(eight)]
    made = passed(weights, spans, x[280:288], list(range(8)))
    np.testing.assert_array_equal(made, whole[280:288])


def test_spreading_keys_changes_next_to_nothing(variant: str) -> None:
    x = normals(np.random.default_rng(3), 40, WIDTH)
    made = [
        passed(model(spread=spread), [Span(room(48, 8), 0, 40)], x, [39])
        for spread in (False, True)
    ]
    assert not np.array_equal(*made)
    assert_near(*made)


def test_pass_of_nothing_and_logits_of_none(variant: str) -> None:
    weights = model()
    assert passed(weights, [], np.empty((0, WIDTH), np.float32), []).shape == (0, WORDS)
    made = passed(weights, [Span(room(16, 8), 0, 1)], np.ones((1, WIDTH), np.float32), [])
    assert made.shape == (0, WORDS)


def test_what_does_not_fit_is_refused() -> None:
    weights = model()
    ones = np.ones((2, WIDTH), np.float32)
    for wrong in (
        lambda: passed(weights, [Span(room(16, 8), 0, 2)], ones[:1], []),
        lambda: passed(weights, [Span(room(16, 8), 15, 2)], ones, []),
        lambda: passed(weights, [Span(room(16, 8), -1, 2)], ones, []),
        lambda: passed(weights, [Span(room(16, 8), 0, 2)], ones, [2]),
        lambda: passed(weights, [Span(room(16, 8, layers=1), 0, 2)], ones, []),
        lambda: Decoder(
            weights.layers, weights.norm, weights.output, HEADS, KV_HEADS, 32, 1e-5, False
        ),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_what_is_taken_off_all_keys_changes_no_answer(variant: str) -> None:
    rng = np.random.default_rng(8)
    weights = model()
    mean = normals(rng, KV_HEADS, D)
    shifted = replace(weights, layers=[replace(layer, key_mean=mean) for layer in weights.layers])
    x, positions = normals(rng, 60, WIDTH), turns(list(range(60)))
    made = []
    for one in (weights, shifted):
        kept = room(64, 4)
        every = np.arange(60, dtype=np.int32)
        made.append(decoder.decode(one, [Span(kept, 0, 60)], x, *positions, every))
    lengths = np.linalg.norm(made[0], axis=1) * np.linalg.norm(made[1], axis=1)
    assert ((made[0] * made[1]).sum(axis=1) / lengths).min() > 0.98
