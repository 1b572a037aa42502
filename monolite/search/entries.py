"""Documents on their way into an index: their vectors, and their words."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from monolite.embedder import Embedder
from monolite.search.index import Entry
from monolite.search.words import LONG_CHARACTERS, counted


@dataclass(frozen=True, slots=True)
class Draft:
    """A document as it was given; `metadata` is JSON text, `vector` as it is stored."""

    id: str
    text: str | None
    metadata: str
    vector: bytes | None = None


async def entries_of(embedder: Embedder, model: str, drafts: Sequence[Draft]) -> list[Entry]:
    """What is to be stored; texts that come without a vector are embedded together."""
    texts = [draft.text or "" for draft in drafts if draft.vector is None]
    embedded = await embedder.passages(model, texts)
    each = iter(zip(embedded.vectors, embedded.tokens, embedded.truncated, strict=True))
    words = await _words([draft.text or "" for draft in drafts])
    entries = []
    for draft, counts in zip(drafts, words, strict=True):
        vector, tokens, truncated = draft.vector, None, False
        if vector is None:
            vector, tokens, truncated = next(each)
        entries.append(
            Entry(draft.id, draft.text, draft.metadata, vector, counts, tokens, truncated)
        )
    return entries


async def _words(texts: Sequence[str]) -> list[Mapping[str, int]]:
    if sum(map(len, texts)) < LONG_CHARACTERS:
        return list(map(counted, texts))
    return await asyncio.to_thread(lambda: list(map(counted, texts)))
