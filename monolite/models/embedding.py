"""What search asks of models: vectors by a model's name, computed where they hold up nobody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from monolite.embedder import Embedded
from monolite.errors import FieldError, Invalid, Unavailable
from monolite.models.registry import NoSuchModel
from monolite.models.threads import EncoderThreads

if TYPE_CHECKING:
    from monolite.models.encoder import Encoded, Encoder

INLINE_CHARACTERS_MAX = 200
"""A query of so many characters is embedded on the loop: that takes less than two hops of a thread
and holds others up for less than a millisecond."""


class Embedding:
    """The models of a server, as monolite.embedder.Embedder has them."""

    def __init__(self, threads: EncoderThreads) -> None:
        self._threads = threads

    def resolve(self, model: str | None) -> str:
        """The installed model that a name means; Invalid (`unknown_model`) where none is."""
        try:
            return self._threads.models.resolve(model)
        except NoSuchModel as error:
            raise Invalid(
                f"#/model: {error}", [FieldError("#/model", str(error))], code="unknown_model"
            ) from None

    async def query(self, model: str, text: str) -> Embedded:
        """One query's vector. Raises Unavailable (`model_unusable`) for a damaged model."""
        encoder = await self._encoder(model)
        if len(text) <= INLINE_CHARACTERS_MAX:
            return _embedded(encoder.encode([text], "query"))
        return _embedded(await self._threads.encode(encoder, [text], "query"))

    async def passages(self, model: str, texts: Sequence[str]) -> Embedded:
        """The vectors of texts to be found. Raises as `query` does."""
        if not texts:
            return Embedded([], [], [], 0.0, 0.0)
        encoder = await self._encoder(model)
        return _embedded(await self._threads.encode(encoder, texts, "passage"))

    async def _encoder(self, model: str) -> Encoder:
        try:
            return await self._threads.encoder(model)
        except NoSuchModel as error:
            # An index was made with it, and its file is gone since.
            raise Unavailable(str(error), 60.0, code="model_unusable") from None


def _embedded(encoded: Encoded) -> Embedded:
    return Embedded(
        [row.tobytes() for row in encoded.vectors.astype("<f4", copy=False)],
        encoded.tokens.tolist(),
        encoded.truncated.tolist(),
        encoded.tokenize_ms,
        encoded.embed_ms,
    )
