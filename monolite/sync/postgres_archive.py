"""A tenant's logs as records, out of PostgreSQL and into it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from monolite.sync.archive import (
    KINDS,
    document_record,
    entry_record,
    read_document,
    read_entry,
)
from monolite.sync.postgres_documents import insert_document, open_restored, walk
from monolite.sync.postgres_entries import insert_entry, walk_entries


class PostgresSyncArchive:
    """Documents and tombstones by name, each with its live entries in order."""

    kinds = KINDS

    async def records(
        self, connection: Any, tenant_id: int
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Every document and entry, in the snapshot of the connection's transaction."""
        for document in await walk(connection, tenant_id):
            yield document_record(document)
            async for entry in walk_entries(connection, tenant_id, document.id):
                yield entry_record(document.name, entry)

    async def store(self, connection: Any, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError or TypeError where it is not one of ours."""
        if record["kind"] == "sync_document":
            await insert_document(connection, tenant_id, read_document(record))
            return
        name, entry = read_entry(record)
        document_id = await open_restored(connection, tenant_id, name)
        await insert_entry(connection, tenant_id, document_id, entry)
