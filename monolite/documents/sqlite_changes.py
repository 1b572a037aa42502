"""The change log in SQLite: live rows are their own newest change, history has a table.

An insert so logs itself, for the price of an index on `seq`. What an update or a delete replaces
moves to `document_changes` first. Both ranges together, in the order of `seq`, are the log; a
collection's writes are in one order, that of the one writer, and so no commit ever comes late.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from monolite.documents.collection import Change

EXPIRED_AT_ONCE = 500

_KEEP = (
    "INSERT INTO document_changes (tenant_id, collection_id, seq, type, document_id, revision,"
    " data, changed_at) SELECT tenant_id, collection_id, seq, iif(revision = 1, 'created',"
    " 'updated'), id, revision, data, updated_at FROM documents WHERE key = ?"
)
_DELETED = (
    "INSERT INTO document_changes (tenant_id, collection_id, seq, type, document_id, revision,"
    " data, changed_at) SELECT tenant_id, collection_id, ?2, 'deleted', id, revision, NULL, ?3"
    " FROM documents WHERE key = ?1"
)
_CHANGES = (
    "SELECT seq, iif(revision = 1, 'created', 'updated'), id, revision, json(data)"
    " FROM documents INDEXED BY documents_by_change"
    " WHERE tenant_id = ?1 AND collection_id = ?2 AND seq > ?3"
    " UNION ALL SELECT seq, type, document_id, revision, json(data) FROM document_changes"
    " WHERE tenant_id = ?1 AND collection_id = ?2 AND seq > ?3 ORDER BY 1 LIMIT ?4"
)


def keep_version(
    connection: apsw.Connection, key: int, deleted: tuple[int, int] | None = None
) -> None:
    """Move a document's version to the history before it is replaced.

    `deleted` is the number and the time (ms) of the deletion that replaces it.
    """
    connection.execute(_KEEP, (key,))
    if deleted is not None:
        connection.execute(_DELETED, (key, *deleted))


def changes_after(
    connection: apsw.Connection, tenant_id: int, number: int, after: int, limit: int
) -> Sequence[Change] | None:
    """Changes beyond a number; None where some of them were dropped. 0 is the earliest known."""
    row = connection.execute(
        "SELECT changes_expired_to FROM collections WHERE tenant_id = ? AND id = ?"
        " AND deleted_at IS NULL",
        (tenant_id, number),
    ).fetchone()
    if row is None or 0 < after < row[0]:
        return None
    found = connection.execute(_CHANGES, (tenant_id, number, after, limit))
    return [Change(str(seq), type, id, revision, data) for seq, type, id, revision, data in found]


def expire_changes(
    connection: apsw.Connection, after: tuple[int, int], before_ms: int
) -> tuple[int, int] | None:
    """Drop some of the history from before a time, of the first collection at or behind a place.

    Returns the place to go on at, or None at the end.
    """
    place = connection.execute(
        "SELECT tenant_id, collection_id FROM document_changes"
        " WHERE (tenant_id, collection_id) >= (?, ?) ORDER BY tenant_id, collection_id LIMIT 1",
        after,
    ).fetchone()
    if place is None:
        return None
    tenant_id, number = place
    oldest = connection.execute(
        "SELECT seq, changed_at < ? FROM document_changes WHERE tenant_id = ?"
        " AND collection_id = ? ORDER BY seq LIMIT ?",
        (before_ms, tenant_id, number, EXPIRED_AT_ONCE),
    ).fetchall()
    expired = [seq for seq, is_old in oldest if is_old]
    if expired:
        connection.executemany(
            "DELETE FROM document_changes WHERE tenant_id = ? AND collection_id = ? AND seq = ?",
            [(tenant_id, number, seq) for seq in expired],
        )
        connection.execute(
            "UPDATE collections SET changes_expired_to = max(changes_expired_to, ?3)"
            " WHERE tenant_id = ?1 AND id = ?2",
            (tenant_id, number, expired[-1]),
        )
    if len(expired) == EXPIRED_AT_ONCE:
        return tenant_id, number
    return tenant_id, number + 1
