"""A tenant's search indexes as records, out of SQLite and into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw

from monolite.search import sqlite_store
from monolite.search.archive import (
    KINDS,
    document_record,
    index_record,
    read_document,
    read_index,
)


class SqliteSearchArchive:
    """Indexes with their definitions, and documents with their vectors. An index that follows a
    collection comes without its documents: it finds them there.
    """

    kinds: tuple[str, ...] = KINDS

    def records(self, connection: apsw.Connection, tenant_id: int) -> Iterator[dict[str, Any]]:
        """Every index and document, in one snapshot of the reader's connection."""
        indexes = sqlite_store.find_after(connection, tenant_id, "", -1)
        for index in indexes:
            yield index_record(index)
        for index in indexes:
            if index.source is None:
                for stored in sqlite_store.all_stored(connection, tenant_id, index.number):
                    yield document_record(index.name, stored)

    def store(self, connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError, TypeError or apsw.Error where it isn't ours."""
        if record["kind"] == "search_index":
            made = read_index(record)
            sqlite_store.create(
                *(connection, tenant_id, made.name, made.model, made.source),
                *(made.created_at, made.updated_at),
            )
            return
        name, entry, updated_at = read_document(record)
        index = sqlite_store.find(connection, tenant_id, name)
        if index is None:
            raise KeyError(name)
        sqlite_store.store(connection, tenant_id, index, [entry], updated_at)
