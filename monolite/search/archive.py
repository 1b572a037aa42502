"""A tenant's search indexes as records of an export, the same for every engine."""

from __future__ import annotations

import base64
import binascii
from typing import Any, TypeVar

import msgspec

from monolite.search.index import Entry, Index, Source, Stored
from monolite.search.words import counted

T = TypeVar("T")

KINDS: tuple[str, ...] = ("search_index", "search_document")


class DocumentRecord(msgspec.Struct):
    """A document of an export; `vector` is base64."""

    index: str
    id: str
    text: str | None
    metadata: dict[str, Any]
    vector: str
    tokens: int | None
    truncated: bool
    updated_at: int


class IndexRecord(msgspec.Struct):
    """An index's definition in an export."""

    name: str
    model: str
    source: Source | None
    created_at: int
    updated_at: int


def index_record(index: Index) -> dict[str, Any]:
    """An index's definition."""
    return {
        "kind": "search_index",
        "name": index.name,
        "model": index.model,
        "source": None if index.source is None else msgspec.to_builtins(index.source),
        "created_at": index.created_at,
        "updated_at": index.updated_at,
    }


def document_record(index: str, stored: Stored) -> dict[str, Any]:
    """A document of an index, with its vector."""
    return {
        "kind": "search_document",
        "index": index,
        "id": stored.id,
        "text": stored.text,
        "metadata": msgspec.Raw(stored.metadata.encode()),
        "vector": base64.b64encode(stored.vector).decode(),
        "tokens": stored.tokens,
        "truncated": stored.truncated,
        "updated_at": stored.updated_at,
    }


def read_index(record: dict[str, Any]) -> IndexRecord:
    """An index's definition; raises TypeError where the record is none."""
    return _converted(record, IndexRecord)


def read_document(record: dict[str, Any]) -> tuple[str, Entry, int]:
    """The index's name, the document, and when it was stored; raises as `read_index` does."""
    found = _converted(record, DocumentRecord)
    try:
        vector = base64.b64decode(found.vector, validate=True)
    except binascii.Error as error:
        raise TypeError(str(error)) from None
    entry = Entry(
        found.id,
        found.text,
        msgspec.json.encode(found.metadata).decode(),
        _checked(vector),
        counted(found.text or ""),
        found.tokens,
        found.truncated,
    )
    return found.index, entry, found.updated_at


def _checked(vector: bytes) -> bytes:
    import numpy as np

    if not vector or len(vector) % 4:
        raise TypeError("a vector is float32")
    length = float(np.linalg.norm(np.frombuffer(vector, "<f4").astype(np.float64)))
    if not abs(length - 1) < 1e-3:
        raise TypeError(f"a vector has length 1, this one {length}")
    return vector


def _converted(record: dict[str, Any], kind: type[T]) -> T:
    try:
        plain = {
            name: msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
            for name, value in record.items()
        }
        return msgspec.convert(plain, kind)
    except msgspec.MsgspecError as error:
        raise TypeError(str(error)) from None
