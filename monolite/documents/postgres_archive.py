"""A tenant's documents as records, out of PostgreSQL and into it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from monolite.documents.archive import (
    KINDS,
    collection_record,
    document_record,
    read_collection,
    read_document,
)
from monolite.documents.postgres import PostgresDocumentEngine
from monolite.documents.postgres_catalog import load


class PostgresDocumentArchive:
    """Collections with their definitions, and documents in the order they were made."""

    kinds = KINDS

    def __init__(self, engine: PostgresDocumentEngine) -> None:
        self._engine = engine

    async def records(
        self, connection: Any, tenant_id: int
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Every collection and document, in the snapshot of the connection's transaction."""
        names = {}
        for (number,) in await connection.fetch(
            "SELECT id FROM collections WHERE tenant_id = $1 AND deleted_at IS NULL ORDER BY id",
            tenant_id,
        ):
            entry = await load(connection, tenant_id, number)
            assert entry is not None  # the snapshot has it
            names[number] = entry.collection.name
            yield collection_record(entry.collection)
        for number, name in names.items():
            async for row in connection.cursor(
                "SELECT id, data::text, revision, created_at, updated_at FROM documents"
                " WHERE tenant_id = $1 AND collection_id = $2 ORDER BY key",
                tenant_id,
                number,
                prefetch=500,
            ):
                yield document_record(name, *row)

    async def store(self, connection: Any, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError or TypeError where it is not one of ours."""
        if record["kind"] == "collection":
            await self._engine.restore_collection(connection, tenant_id, *read_collection(record))
            return
        name, document = read_document(record)
        await self._engine.restore_document(connection, tenant_id, name, document)
