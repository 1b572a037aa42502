"""Work on many documents, in slices between other writes: filling indexes, and removing.

A slice takes rows until its time is over; where it stopped is in the database, so that a killed
server goes on there. Documents written meanwhile are entered by their own writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import apsw

from monolite.documents.sqlite_catalog import index_values, load, touch
from monolite.documents.sqlite_columns import drop_unused_columns

SLICE_S = 0.010
ROWS_AT_ONCE = 200

_WAITING = (
    "SELECT (SELECT count(*) FROM document_indexes WHERE state <> 'ready')"
    " + (SELECT count(*) FROM collections WHERE deleted_at IS NOT NULL)"
    " + (SELECT count(*) FROM promoted_columns WHERE (path, kind) NOT IN"
    " (SELECT value ->> '$.path', value ->> '$.kind' FROM collections, json_each(fields)))"
)


def is_work_left(connection: apsw.Connection) -> bool:
    """Whether anything is to be filled or removed."""
    (row,) = connection.execute(_WAITING)
    return bool(row[0])


def work_a_slice(
    connection: apsw.Connection, monotonic: Callable[[], float] = time.monotonic
) -> list[tuple[int, str]]:
    """Work for SLICE_S on the first thing that waits; returns the collections it changed for
    queries, as tenant and name.
    """
    end = monotonic() + SLICE_S
    row = connection.execute(
        "SELECT i.id, i.tenant_id, i.state, c.name FROM document_indexes i JOIN collections c"
        " ON c.tenant_id = i.tenant_id AND c.id = i.collection_id WHERE i.state <> 'ready'"
        " ORDER BY i.state = 'dropping', i.id LIMIT 1"
    ).fetchone()
    if row is not None:
        index_id, tenant_id, state, name = row
        step = build_some if state == "building" else _drop_some
        while step(connection, tenant_id, index_id):
            if monotonic() >= end:
                return []
        return [(tenant_id, name)]
    row = connection.execute(
        "SELECT tenant_id, id FROM collections WHERE deleted_at IS NOT NULL LIMIT 1"
    ).fetchone()
    if row is not None:
        while _remove_some(connection, *row) and monotonic() < end:
            pass
        return []
    drop_unused_columns(connection)
    return []


def build_some(connection: apsw.Connection, tenant_id: int, index_id: int) -> bool:
    """Enter some documents in an index; makes it ready behind the last. Whether any are left."""
    row = connection.execute(
        "SELECT collection_id, built_to FROM document_indexes WHERE tenant_id = ? AND id = ?",
        (tenant_id, index_id),
    ).fetchone()
    assert row is not None  # only the writer removes it, and this is the writer
    number, built_to = row
    # Found by the index on order alone: reading documents here would read them twice.
    (last,) = connection.execute(
        "SELECT max(key), count(*) FROM (SELECT key FROM documents INDEXED BY documents_in_order"
        " WHERE tenant_id = ? AND collection_id = ? AND key > ? ORDER BY key LIMIT ?)",
        (tenant_id, number, built_to, ROWS_AT_ONCE),
    )
    to, count = last
    if count:
        entry = load(connection, tenant_id, number)
        index = next(index for index in entry.indexes if index.id == index_id)
        values = ", ".join(index_values(index, entry.columns))
        connection.execute(
            "INSERT OR IGNORE INTO document_index_entries"
            f" SELECT d.tenant_id, {index_id}, {values} FROM documents d"
            " INDEXED BY documents_in_order WHERE d.tenant_id = ? AND d.collection_id = ?"
            " AND d.key > ? AND d.key <= ? ORDER BY 3, 4, 5, 6",
            (tenant_id, number, built_to, to),
        )
    is_over = count < ROWS_AT_ONCE
    connection.execute(
        "UPDATE document_indexes SET built_to = ?3, state = iif(?4, 'ready', state)"
        " WHERE tenant_id = ?1 AND id = ?2",
        (tenant_id, index_id, to or built_to, is_over),
    )
    if is_over:
        touch(connection, tenant_id, number)
    return not is_over


def _drop_some(connection: apsw.Connection, tenant_id: int, index_id: int) -> bool:
    connection.execute(
        "DELETE FROM document_index_entries WHERE (tenant_id, index_id, v1, v2, v3, key) IN (SELECT"
        " tenant_id, index_id, v1, v2, v3, key FROM document_index_entries WHERE tenant_id = ?"
        " AND index_id = ? LIMIT ?)",
        (tenant_id, index_id, ROWS_AT_ONCE),
    )
    if connection.changes() == ROWS_AT_ONCE:
        return True
    connection.execute(
        "DELETE FROM document_usage WHERE tenant_id = ? AND subject = 'index' AND name = ?",
        (tenant_id, str(index_id)),
    )
    connection.execute(
        "DELETE FROM document_indexes WHERE tenant_id = ? AND id = ?", (tenant_id, index_id)
    )
    return False


def _remove_some(connection: apsw.Connection, tenant_id: int, number: int) -> bool:
    """Remove some rows of a deleted collection, and it with the last; whether any are left."""
    connection.execute(
        "DELETE FROM documents WHERE key IN (SELECT key FROM documents INDEXED BY"
        " documents_in_order WHERE tenant_id = ? AND collection_id = ? LIMIT ?)",
        (tenant_id, number, ROWS_AT_ONCE),
    )
    if connection.changes():
        return True
    connection.execute(
        "DELETE FROM document_changes WHERE (tenant_id, collection_id, seq) IN (SELECT tenant_id,"
        " collection_id, seq FROM document_changes WHERE tenant_id = ? AND collection_id = ?"
        " LIMIT ?)",
        (tenant_id, number, ROWS_AT_ONCE),
    )
    if connection.changes():
        return True
    for table in ("document_usage", "document_indexes"):
        connection.execute(
            f"DELETE FROM {table} WHERE tenant_id = ? AND collection_id = ?", (tenant_id, number)
        )
    connection.execute(
        "DELETE FROM collections WHERE tenant_id = ? AND id = ?", (tenant_id, number)
    )
    return False
