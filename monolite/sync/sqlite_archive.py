"""A tenant's logs as records, out of SQLite and into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw

from monolite.sync.archive import (
    KINDS,
    document_record,
    entry_record,
    read_document,
    read_entry,
)
from monolite.sync.sqlite_documents import insert_document, open_restored, walk
from monolite.sync.sqlite_entries import insert_entry, walk_entries


class SqliteSyncArchive:
    """Documents and tombstones by name, each with its live entries in order."""

    kinds = KINDS

    def records(self, connection: apsw.Connection, tenant_id: int) -> Iterator[dict[str, Any]]:
        """Every document and entry, in one snapshot of the reader's connection."""
        for document in walk(connection, tenant_id):
            yield document_record(document)
            for entry in walk_entries(connection, tenant_id, document.id):
                yield entry_record(document.name, entry)

    def store(self, connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError, TypeError or apsw.Error where it isn't ours."""
        if record["kind"] == "sync_document":
            insert_document(connection, tenant_id, read_document(record))
            return
        name, entry = read_entry(record)
        insert_entry(connection, tenant_id, open_restored(connection, tenant_id, name), entry)
