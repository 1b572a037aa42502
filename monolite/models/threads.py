"""Vectors for an event loop: encoders run in threads, a piece of work at a time.

    a few words ──► a thread for each core ────────────┐
                                                       ├──► kernels, whose own threads one of
    many texts ───► one thread, a slice of one request │     them has at a time
                    at a time, requests in turn ───────┘

So a query never waits for somebody's batch, it only shares the cores with it, and of two batches
none starves the other. What a batch holds is bounded by its slices and its answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from monolite import kernels
from monolite.models.registry import Models

if TYPE_CHECKING:
    from monolite.models.encoder import Encoded, Encoder, Kind
    from monolite.models.tokens import Tokens

T = TypeVar("T")

SHORT_CHARACTERS_MAX = 1024
SHORT_TEXTS_MAX = 4
"""What is at most this many characters in so many texts is embedded at once, in a few ms."""

TEXTS_AT_ONCE = 64
"""Texts tokenized between two looks at who else waits."""


class EncoderThreads:
    """Encoders of installed models, for coroutines. Threads begin with the first call."""

    def __init__(self, models: Models) -> None:
        self.models = models
        self._short = ThreadPoolExecutor(kernels.usable_cores(), "embed")
        self._long = ThreadPoolExecutor(1, "embed-many")

    async def close(self) -> None:
        """Begin no more work, and let end what is computed."""
        for threads in (self._short, self._long):
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)

    async def encoder(self, name: str | None = None) -> Encoder:
        """Models.encoder, which reads a file the first time; raises as it does."""
        found = self.models.opened(name)
        if found is not None:
            return found
        return await self._run(self._short, lambda: self.models.encoder(name))

    async def encode(
        self,
        encoder: Encoder,
        texts: Sequence[str],
        kind: Kind | None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Encoded:
        """Encoder.encode in a thread; `progress` is called in one."""
        if is_short(texts):
            return await self._run(
                self._short, lambda: encoder.encode(texts, kind, progress=progress)
            )
        tokens, tokenize_ms = await self.tokenize(encoder, texts, kind)
        return await self.embed(encoder, tokens, tokenize_ms, progress)

    async def tokenize(
        self, encoder: Encoder, texts: Sequence[str], kind: Kind | None
    ) -> tuple[Tokens, float]:
        """Encoder.tokenize in a thread, and the milliseconds it took there."""
        from monolite.models.tokens import joined

        threads = self._short if is_short(texts) else self._long
        slices, spent_s = [], 0.0
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            piece = texts[start : start + TEXTS_AT_ONCE]
            tokens, took_s = await self._timed(threads, lambda: encoder.tokenize(piece, kind))  # noqa: B023  # awaited here
            slices.append(tokens)
            spent_s += took_s
        return joined(slices), spent_s * 1000

    async def embed(
        self,
        encoder: Encoder,
        tokens: Tokens,
        tokenize_ms: float,
        progress: Callable[[int, int], None] | None = None,
    ) -> Encoded:
        """Vectors of what was tokenized, in its order."""
        import numpy as np

        from monolite.models.encoder import BATCH_TOKENS, Encoded

        count = len(tokens.ids)
        threads = self._short if tokens.lengths.sum() <= BATCH_TOKENS // 8 else self._long
        vectors = np.empty((count, encoder.dimensions), np.float32)
        done, spent_s = 0, 0.0
        for chosen in encoder.batches(tokens):
            vectors[chosen], took_s = await self._timed(
                threads,
                lambda: encoder.embed(tokens, chosen),  # noqa: B023  # awaited here
            )
            spent_s += took_s
            done += len(chosen)
            if progress is not None:
                progress(done, count)
        return Encoded(vectors, tokens.lengths, tokens.truncated, tokenize_ms, spent_s * 1000)

    async def _timed(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> tuple[T, float]:
        def timed() -> tuple[T, float]:
            started = time.perf_counter()
            return work(), time.perf_counter() - started

        return await self._run(threads, timed)

    @staticmethod
    async def _run(threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work)


def is_short(texts: Sequence[str]) -> bool:
    """Whether texts are embedded in a few milliseconds."""
    return len(texts) <= SHORT_TEXTS_MAX and sum(map(len, texts)) <= SHORT_CHARACTERS_MAX
