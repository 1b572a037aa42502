"""Embeddings for a server: models by name, computed where they hold up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from monolite.embedder import Embedded
from monolite.errors import FieldError, Invalid, Unavailable
from monolite.models.file import BadModelFile
from monolite.models.registry import Models, NoSuchModel

if TYPE_CHECKING:
    from monolite.models.encoder import Encoder, Kind

INLINE_CHARACTERS_MAX = 200
"""A query of so many characters is embedded on the loop: that takes less than two hops of a thread
and holds others up for less than a millisecond."""


class Embedding:
    """The models of a server. One thread embeds passages, a batch after the other."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="monolite-embedding")
        self._open: dict[str, Encoder] = {}

    def resolve(self, model: str | None) -> str:
        """The installed model that a name means; Invalid (`unknown_model`) where none is."""
        try:
            return self._models.resolve(model)
        except NoSuchModel as error:
            raise Invalid(
                f"#/model: {error}", [FieldError("#/model", str(error))], code="unknown_model"
            ) from None

    async def dimensions(self, model: str) -> int:
        """How long the model's vectors are."""
        return (await self._encoder(model)).dimensions

    async def query(self, model: str, text: str) -> Embedded:
        """One query's vector. Raises Unavailable (`model_unusable`) for a damaged model."""
        encoder = await self._encoder(model)
        if len(text) <= INLINE_CHARACTERS_MAX:
            return _embed(encoder, [text], "query")
        return await self._run(encoder, [text], "query")

    async def passages(self, model: str, texts: Sequence[str]) -> Embedded:
        """The vectors of texts to be found. Raises as `query` does."""
        if not texts:
            return Embedded([], [], [], 0.0, 0.0)
        return await self._run(await self._encoder(model), texts, "passage")

    async def close(self) -> None:
        """Let the batch that is computed end."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    async def _run(self, encoder: Encoder, texts: Sequence[str], kind: Kind) -> Embedded:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _embed, encoder, texts, kind)

    async def _encoder(self, model: str) -> Encoder:
        found = self._open.get(model)
        if found is None:
            loop = asyncio.get_running_loop()
            try:
                found = await loop.run_in_executor(self._thread, self._models.encoder, model)
            except (BadModelFile, NoSuchModel) as error:
                raise Unavailable(str(error), 60.0, code="model_unusable") from None
            self._open[model] = found
        return found


def _embed(encoder: Encoder, texts: Sequence[str], kind: Kind) -> Embedded:
    encoded = encoder.encode(texts, kind)
    return Embedded(
        [row.tobytes() for row in encoded.vectors.astype("<f4", copy=False)],
        encoded.tokens.tolist(),
        encoded.truncated.tolist(),
        encoded.tokenize_ms,
        encoded.embed_ms,
    )
