"""Encoders for coroutines: many at once, each its own answer."""

from __future__ import annotations

import asyncio

import numpy as np

from monolite.models.registry import SHIPPED, Models
from monolite.models.threads import SHORT_CHARACTERS_MAX, SHORT_TEXTS_MAX, EncoderThreads, is_short


def test_queries_and_batches_at_once_give_what_each_gives_alone() -> None:
    batches = [[f"text {n} of {size}" * (n % 7 + 1) for n in range(size)] for size in (3, 70, 200)]

    async def run() -> None:
        threads = EncoderThreads(Models([SHIPPED]))
        encoder = await threads.encoder()
        alone = [encoder.encode(batch) for batch in batches]
        seen: list[tuple[int, int]] = []
        together = await asyncio.gather(
            *(threads.encode(encoder, batch, "passage") for batch in batches * 2),
            threads.encode(encoder, batches[2], None, lambda done, of: seen.append((done, of))),
        )
        for wanted, got in zip([*alone, *alone, alone[2]], together, strict=True):
            assert np.allclose(wanted.vectors, got.vectors, atol=1e-5)
            assert wanted.tokens.tolist() == got.tokens.tolist()
        assert seen == sorted(seen)
        assert seen[-1] == (200, 200)
        await threads.close()

    asyncio.run(run())


def test_a_query_does_not_wait_for_a_batch() -> None:
    async def run() -> None:
        threads = EncoderThreads(Models([SHIPPED]))
        encoder = await threads.encoder()
        batch = asyncio.create_task(threads.encode(encoder, ["word " * 300] * 150, "passage"))
        queries = 0
        while not batch.done() and queries < 5:
            await threads.encode(encoder, ["a query"], "query")
            queries += 1
        # 150 texts of 256 tokens take seconds on any machine, five queries milliseconds.
        assert queries == 5
        assert not batch.done()
        await batch
        await threads.close()

    asyncio.run(run())


def test_a_long_text_or_many_are_not_short() -> None:
    assert is_short(["a query"])
    assert not is_short(["x" * (SHORT_CHARACTERS_MAX + 1)])
    assert not is_short(["x"] * (SHORT_TEXTS_MAX + 1))
