"""Entries of collections' indexes, kept in step with the documents in each write's transaction."""

from __future__ import annotations

from typing import Any

import apsw

from monolite.documents.sqlite_catalog import Entry

Rows = list[tuple[Any, ...]]


def add_entries(connection: apsw.Connection, entry: Entry, tenant_id: int, key: int) -> None:
    """Enter a new document."""
    if entry.entries_sql is not None:
        # OR IGNORE: the slices of a build may have been here before.
        connection.execute(
            f"INSERT OR IGNORE INTO document_index_entries {entry.entries_sql}",
            (tenant_id, key, *entry.index_ids),
        )


def entries_of(connection: apsw.Connection, entry: Entry, tenant_id: int, key: int) -> Rows:
    """What a document's entries are by its row as it is now."""
    if entry.entries_sql is None:
        return []
    return connection.execute(entry.entries_sql, (tenant_id, key, *entry.index_ids)).fetchall()


def change_entries(connection: apsw.Connection, before: Rows, after: Rows) -> set[int]:
    """Replace a document's entries, those that differ; returns the numbers of their indexes."""
    gone, come = set(before).difference(after), set(after).difference(before)
    for row in gone:
        connection.execute(
            "DELETE FROM document_index_entries WHERE tenant_id = ? AND index_id = ? AND v1 = ?"
            " AND v2 = ? AND v3 = ? AND key = ?",
            row[:6],
        )
    for row in come:
        connection.execute(
            "INSERT OR IGNORE INTO document_index_entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row
        )
    return {row[1] for row in come}
