"""The nouns of search: an index, what it follows, what lies in it, and what is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from monolite.errors import Conflict, FieldError, Invalid

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

    @property
    def declared(self) -> frozenset[tuple[str, ...]]:
        """The metadata that its source names: known as fields before a document has one."""
        if self.source is None:
            return frozenset()
        return frozenset(tuple(name.split(".")) for name in self.source.metadata)


@dataclass(frozen=True, slots=True)
class Entry:
    """A document to store: `metadata` is JSON text, `vector` float32 of length 1, little-endian;
    `words` are the text's, and how often each comes (words.py).
    """

    id: str
    text: str | None
    metadata: str
    vector: bytes
    words: Mapping[str, int]
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
    """Of `samples` searches, the part of an exact search's hits that was found; `by` says whether
    they were `queries` or, where there were none yet, `documents` of the index.
    """

    value: float
    samples: int
    by: Literal["queries", "documents"]


@dataclass(frozen=True, slots=True)
class Extent:
    """How large an index is, in documents and in the bytes a scan takes of memory. `progress` is
    the part of them that the scan's own structures have; the rest is read from the database.
    """

    documents: int
    bytes: int
    scan: Literal["exact", "prefiltered", "graph"]
    progress: float = 1.0
    recall: Recall | None = None


def wrong_dimensions(entry: Entry, number: int, dimensions: int) -> Invalid:
    """A vector that is not as long as the index's; `number` is its place in the batch."""
    why = f"{entry.id} has {len(entry.vector) // 4} dimensions, the index {dimensions}"
    return Invalid(why, [FieldError(f"#/{number}/vector", why)], code="wrong_dimensions")


def check_width(query: Query, index: Index) -> None:
    """Raise Invalid (`wrong_dimensions`) where a query's vector is not as long as the index's."""
    assert index.dimensions is not None
    if query.vector is not None and len(query.vector) != 4 * index.dimensions:
        why = f"has {len(query.vector) // 4} dimensions, the index {index.dimensions}"
        raise Invalid(f"#/vector: {why}", [FieldError("#/vector", why)], code="wrong_dimensions")


def follows(index: Index) -> Conflict:
    """Documents come into this index from its collection alone."""
    assert index.source is not None
    return Conflict(
        f"This index follows the collection {index.source.collection}: write there.",
        code="index_follows_collection",
    )
