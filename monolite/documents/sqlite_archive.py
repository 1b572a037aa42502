"""A tenant's documents as records, out of SQLite and into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw

from monolite.documents.archive import (
    KINDS,
    collection_record,
    document_record,
    read_collection,
    read_document,
)
from monolite.documents.sqlite import SqliteDocumentEngine
from monolite.documents.sqlite_catalog import load


class SqliteDocumentArchive:
    """Collections with their definitions, and documents in the order they were made."""

    kinds = KINDS

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
            yield collection_record(collection)
        for number, name in names.items():
            for row in connection.execute(
                "SELECT id, json(data), revision, created_at, updated_at FROM documents"
                " INDEXED BY documents_in_order WHERE tenant_id = ? AND collection_id = ?"
                " ORDER BY key",
                (tenant_id, number),
            ):
                yield document_record(name, *row)

    def store(self, connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError, TypeError or apsw.Error where it isn't ours."""
        if record["kind"] == "collection":
            self._engine.restore_collection(connection, tenant_id, *read_collection(record))
            return
        name, document = read_document(record)
        self._engine.restore_document(connection, tenant_id, name, document)
