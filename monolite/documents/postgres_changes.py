"""The change log in PostgreSQL: live rows are their own newest change, history has a table.

A place in it is a transaction's number and a sequence's, written `xid-seq`. Transactions draw
their numbers in another order than they commit, so what is given out ends below the oldest one that
still runs: nothing can come before it any more. (See pg_snapshot_xmin in the manual, 9.27.) A
transaction may have drawn its number before it got a document's row from another, so a version's is
never below that of the version before.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from monolite.documents.changes import changes_expired
from monolite.documents.collection import Change

Place = tuple[int, int]

FIRST: Place = (0, 0)
EXPIRED_AT_ONCE = 1000
_SEQ_MAX = 2**63 - 1
_PLACE = re.compile(r"(\d{1,18})-(\d{1,19})").fullmatch

_KEEP = (
    "INSERT INTO document_changes (tenant_id, collection_id, xid, seq, type, document_id, revision,"
    " data, changed_at) SELECT tenant_id, collection_id, xid, seq, CASE revision WHEN 1 THEN"
    " 'created' ELSE 'updated' END, id, revision, data, updated_at FROM documents"
    " WHERE tenant_id = $1 AND collection_id = $2 AND key = $3"
)
_DELETED = (
    "INSERT INTO document_changes (tenant_id, collection_id, xid, type, document_id, revision,"
    " data, changed_at) SELECT tenant_id, collection_id, greatest(xid, pg_current_xact_id()),"
    " 'deleted', id, revision, NULL, $4"
    " FROM documents WHERE tenant_id = $1 AND collection_id = $2 AND key = $3"
)
_RANGE = (
    "tenant_id = $1 AND collection_id = $2 AND (xid, seq) > ($3::text::xid8, $4)"
    " ORDER BY xid, seq LIMIT $5"
)
_CHANGES = (
    "SELECT xid::text::bigint, seq, type, id, revision, data,"
    " xid < pg_snapshot_xmin(pg_current_snapshot()) FROM ("
    "(SELECT xid, seq, CASE revision WHEN 1 THEN 'created' ELSE 'updated' END AS type, id,"
    f" revision, data::text AS data FROM documents WHERE {_RANGE}) UNION ALL"
    " (SELECT xid, seq, type, document_id, revision, data::text FROM document_changes"
    f" WHERE {_RANGE})) log ORDER BY log.xid, log.seq LIMIT $5"
)


def place(text: str) -> Place:
    """A position as the place it is; ValueError where it is none."""
    if text == "0":
        return FIRST
    found = _PLACE(text)
    if found is None or int(found[2]) > _SEQ_MAX:
        raise ValueError(f"not a position: {text!r}")
    return int(found[1]), int(found[2])


async def keep_version(
    connection: Any, tenant_id: int, number: int, key: int, deleted_ms: int | None = None
) -> None:
    """Move a document's version to the history before it is replaced, or deleted at a time."""
    await connection.execute(_KEEP, tenant_id, number, key)
    if deleted_ms is not None:
        await connection.execute(_DELETED, tenant_id, number, key, deleted_ms)


async def newest(connection: Any) -> str:
    """The position behind everything that is given out now."""
    oldest_running = await connection.fetchval(
        "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
    )
    return f"{int(oldest_running) - 1}-{_SEQ_MAX}"


async def changes_after(
    connection: Any, tenant_id: int, number: int, after: Place, limit: int
) -> tuple[Sequence[Change], bool]:
    """Changes beyond a place, and whether more have been committed that wait for older ones.

    Raises Gone where some of them were dropped, or the place was never reached.
    """
    rows = await connection.fetch(_CHANGES, tenant_id, number, str(after[0]), after[1], limit)
    row = await connection.fetchrow(
        "SELECT changes_expired_xid::text::bigint, changes_expired_seq,"
        " pg_snapshot_xmax(pg_current_snapshot())::text::bigint FROM collections"
        " WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL",
        tenant_id,
        number,
    )
    if row is None or (after != FIRST and (after < (row[0], row[1]) or after[0] >= row[2])):
        raise changes_expired()
    changes = [
        Change(f"{xid}-{seq}", type, id, revision, data)
        for xid, seq, type, id, revision, data, is_final in rows
        if is_final
    ]
    return changes, len(changes) < len(rows)


async def expire_changes(connection: Any, before_ms: int) -> int:
    """Drop some of the history from before a time; returns how many, in an open transaction."""
    rows = await connection.fetch(
        "DELETE FROM document_changes WHERE (tenant_id, collection_id, xid, seq) IN (SELECT"
        " tenant_id, collection_id, xid, seq FROM document_changes WHERE changed_at < $1"
        " ORDER BY changed_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
        " RETURNING tenant_id, collection_id, xid::text::bigint, seq",
        before_ms,
        EXPIRED_AT_ONCE,
    )
    last: dict[tuple[int, int], Place] = {}
    for tenant_id, number, xid, seq in rows:
        last[tenant_id, number] = max(last.get((tenant_id, number), FIRST), (xid, seq))
    for (tenant_id, number), (xid, seq) in sorted(last.items()):
        await connection.execute(
            "UPDATE collections SET changes_expired_xid = $3::text::xid8, changes_expired_seq = $4"
            " WHERE tenant_id = $1 AND id = $2"
            " AND (changes_expired_xid, changes_expired_seq) < ($3::text::xid8, $4)",
            tenant_id,
            number,
            str(xid),
            seq,
        )
    return len(rows)


async def settle_cluster(connection: Any) -> bool:
    """Make the log's places ones of this cluster, in an open transaction; whether it was needed.

    A database that was dumped and restored brings transaction numbers that here have not come yet.
    Its order is kept: the sequence says it.
    """
    cluster = await connection.fetchval("SELECT system_identifier::text FROM pg_control_system()")
    known = await connection.fetchval("SELECT value FROM installation WHERE name = 'cluster'")
    if known == cluster:
        return False
    await connection.execute(
        "INSERT INTO installation (name, value) VALUES ('cluster', $1)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        cluster,
    )
    if known is None:
        return False
    await connection.execute("UPDATE documents SET xid = '1'")
    await connection.execute("UPDATE document_changes SET xid = '1'")
    await connection.execute(
        "UPDATE collections SET changes_expired_xid = '1' WHERE changes_expired_seq > 0"
    )
    return True
