"""What search needs of an embedding model; the assembly passes one in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors as float32 little-endian of length 1, with the tokens used of each text, and whether
    it had more; milliseconds.
    """

    vectors: Sequence[bytes]
    tokens: Sequence[int]
    truncated: Sequence[bool]
    tokenize_ms: float
    embed_ms: float


class Embedder(Protocol):
    """Texts to vectors, by a model's name."""

    def resolve(self, model: str | None) -> str:
        """The installed model that a name means; Invalid (`unknown_model`) where none is."""
        ...

    async def query(self, model: str, text: str) -> Embedded:
        """One query's vector."""
        ...

    async def passages(self, model: str, texts: Sequence[str]) -> Embedded:
        """The vectors of texts to be found."""
        ...
