"""A tenant's documents as records, out of one installation and into another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw
import msgspec

from monolite.documents.collection import INDEXED_FIELDS_MAX
from monolite.documents.document import Document
from monolite.documents.fields import Field
from monolite.documents.sqlite import SqliteDocumentEngine
from monolite.documents.sqlite_catalog import load


class SqliteDocumentArchive:
    """Collections with their definitions, and documents in the order they were made.

    The change log stays behind: an imported collection's begins with its documents.
    """

    kinds: tuple[str, ...] = ("collection", "document")

    def __init__(self, engine: SqliteDocumentEngine) -> None:
        self._engine = engine

    def records(self, connection: apsw.Connection, tenant_id: int) -> Iterator[dict[str, Any]]:
        """Every collection and document, in one snapshot of the reader's connection."""
        names = {}
        numbers: list[Any] = connection.execute(
            "SELECT id FROM collections WHERE tenant_id = ? AND deleted_at IS NULL ORDER BY id",
            (tenant_id,),
        ).fetchall()
        for (number,) in numbers:
            collection = load(connection, tenant_id, number).collection
            names[collection.number] = collection.name
            yield {
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
        for number, name in names.items():
            for document_id, data, revision, created_at, updated_at in connection.execute(
                "SELECT id, json(data), revision, created_at, updated_at FROM documents"
                " INDEXED BY documents_in_order WHERE tenant_id = ? AND collection_id = ?"
                " ORDER BY key",
                (tenant_id, number),
            ):
                yield {
                    "kind": "document",
                    "collection": name,
                    "id": document_id,
                    "data": msgspec.Raw(data.encode()),
                    "revision": revision,
                    "created_at": created_at,
                    "updated_at": updated_at,
                }

    def store(self, connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError, TypeError or apsw.Error where it is not one of ours.

        A document's collection comes before it.
        """
        if record["kind"] == "collection":
            fields = msgspec.convert(record.get("fields", []), tuple[Field, ...])
            indexes = [
                (i["name"], tuple(i["fields"])[:INDEXED_FIELDS_MAX], bool(i["tenant_only"]))
                for i in record.get("indexes", [])
            ]
            self._engine.restore_collection(
                connection,
                tenant_id,
                record["name"],
                (fields, record.get("schema")),
                indexes,
                record["created_at"],
            )
            return
        document = Document(
            record["id"],
            bytes(record["data"]).decode(),
            record["revision"],
            record["created_at"],
            record["updated_at"],
        )
        self._engine.restore_document(connection, tenant_id, record["collection"], document)
