"""The nouns of search: an index, what it follows, what lies in it, and what is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

Mode = Literal["semantic", "keyword", "hybrid"]


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The collection that an index follows: which fields are its text and its metadata."""

    collection: str
    text: tuple[str, ...]
    metadata: tuple[str, ...] = ()


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """An index as it is defined now. `dimensions` is None until its first vector; `position` is how
    far it has followed its source; `version` grows with each write.
    """

    number: int
    name: str
    model: str
    dimensions: int | None
    source: Source | None
    position: str | None
    version: int
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A document to store: `metadata` is JSON text, `vector` float32 of length 1, little-endian."""

    id: str
    text: str | None
    metadata: str
    vector: bytes
    tokens: int | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as it lies in an index."""

    id: str
    text: str | None
    metadata: str
    vector: bytes
    tokens: int | None
    truncated: bool
    updated_at: int


@dataclass(frozen=True, slots=True)
class Condition:
    """One part of a filter: the metadata at a path compared with a value, or with several."""

    path: tuple[str, ...]
    operator: str
    value: Any
    pointer: str


@dataclass(frozen=True, slots=True)
class Query:
    """What a search looks for. `vector` is None where `mode` is keyword, `words` where semantic."""

    mode: Mode
    k: int
    vector: bytes | None
    words: tuple[str, ...]
    where: tuple[Condition, ...] = ()
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that was found; `metadata` is JSON text."""

    id: str
    score: float
    text: str | None
    metadata: str


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, best first, and the milliseconds that finding them took."""

    hits: Sequence[Hit]
    scan_ms: float


@dataclass(frozen=True, slots=True)
class Recall:
    """Of `samples` results of prefiltered searches, the part that an exact search finds too."""

    value: float | None
    samples: int


@dataclass(frozen=True, slots=True)
class Extent:
    """How large an index is, in documents and in the bytes that are mapped for it."""

    documents: int
    bytes: int
    scan: Literal["exact", "prefiltered"]
    recall: Recall = field(default_factory=lambda: Recall(None, 0))
