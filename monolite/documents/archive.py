"""Documents as records of an export, the same over every engine."""

from __future__ import annotations

from typing import Any

import msgspec

from monolite.documents.collection import INDEXED_FIELDS_MAX, Collection, Definition
from monolite.documents.document import Document
from monolite.documents.fields import Field

KINDS: tuple[str, ...] = ("collection", "document")
"""A document's collection comes before it. The change log stays behind: an imported collection's
begins with its documents.
"""


def collection_record(collection: Collection) -> dict[str, Any]:
    """A collection with its definition."""
    return {
        "kind": "collection",
        "name": collection.name,
        "created_at": collection.created_at,
        "fields": msgspec.to_builtins(collection.fields),
        "schema": collection.schema,
        "indexes": [
            {"name": i.name, "fields": list(i.fields), "tenant_only": i.tenant_only}
            for i in collection.indexes
            if not i.declared
        ],
    }


def document_record(
    collection: str, document_id: str, data: str, revision: int, created_at: int, updated_at: int
) -> dict[str, Any]:
    """A document of a collection; `data` is JSON text."""
    return {
        "kind": "document",
        "collection": collection,
        "id": document_id,
        "data": msgspec.Raw(data.encode()),
        "revision": revision,
        "created_at": created_at,
        "updated_at": updated_at,
    }


def read_collection(
    record: dict[str, Any],
) -> tuple[str, Definition, list[tuple[str, tuple[str, ...], bool]], int]:
    """Name, definition, indexes asked for by themselves (name, fields, tenant_only), and time made.

    Raises KeyError, TypeError or msgspec.ValidationError where the record is no collection's.
    """
    fields = msgspec.convert(_decoded(record.get("fields", [])), tuple[Field, ...])
    indexes = [
        (i["name"], tuple(i["fields"])[:INDEXED_FIELDS_MAX], bool(i["tenant_only"]))
        for i in _decoded(record.get("indexes", []))
    ]
    return record["name"], (fields, record.get("schema")), indexes, record["created_at"]


def read_document(record: dict[str, Any]) -> tuple[str, Document]:
    """A document and its collection's name; raises as `read_collection` does."""
    document = Document(
        record["id"],
        bytes(record["data"]).decode(),
        record["revision"],
        record["created_at"],
        record["updated_at"],
    )
    return record["collection"], document


def _decoded(value: Any) -> Any:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value
