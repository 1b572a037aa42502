"""The rows of documents in PostgreSQL, inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monolite.sync.engine import Write
from monolite.sync.entry import FIRST_EPOCH, Document
from monolite.sync.refusals import epoch_ended, too_many_documents, too_many_entries

REMOVED_AT_ONCE = 1000

_COLUMNS = (
    "id, name, state = 'live', epoch, seq, floor, floor_snapshot, entry_count, byte_count,"
    " created_at, updated_at"
)
_DOCUMENT = (
    f"SELECT {_COLUMNS} FROM sync_documents WHERE tenant_id = $1 AND name = $2"
    " AND state <> 'removing'"
)
_DOCUMENTS = (
    f"SELECT {_COLUMNS} FROM sync_documents WHERE tenant_id = $1 AND name > $2"
    " AND state <> 'removing' AND state = 'live' ORDER BY name LIMIT $3"
)
_LOCK = (
    "SELECT id, state = 'live', epoch, seq, floor, floor_snapshot, entry_count, byte_count"
    " FROM sync_documents WHERE tenant_id = $1 AND name = $2 AND state <> 'removing' FOR UPDATE"
)
_INSERT = (
    "INSERT INTO sync_documents (tenant_id, name, state, epoch, seq, floor, floor_snapshot,"
    " entry_count, byte_count, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, 0, 0, 0, 0,"
    " $6, $6) ON CONFLICT DO NOTHING RETURNING id"
)
_SAVE = (
    "UPDATE sync_documents SET seq = $2, floor = $3, floor_snapshot = $4, entry_count = $5,"
    " byte_count = $6, updated_at = $7 WHERE id = $1"
)


@dataclass(slots=True)
class Log:
    """A document that this transaction alone writes to; `save` writes it back."""

    id: int
    is_live: bool
    epoch: int
    seq: int
    floor: int
    floor_snapshot: int
    entry_count: int
    byte_count: int

    def make_room(self, write: Write, count: int = 1) -> None:
        """Raise Conflict unless it may have that many entries more."""
        if self.entry_count + count > write.limits.entry_count_max:
            raise too_many_entries(write.limits)

    def next(self) -> int:
        """The next number."""
        self.seq += 1
        return self.seq


async def find(connection: Any, tenant_id: int, name: str) -> Document | None:
    """A document or its tombstone."""
    row = await connection.fetchrow(_DOCUMENT, tenant_id, name)
    return None if row is None else Document(*row)


async def find_many(connection: Any, tenant_id: int, after: str, limit: int) -> Sequence[Document]:
    """Live documents by name."""
    return [Document(*row) for row in await connection.fetch(_DOCUMENTS, tenant_id, after, limit)]


async def open_log(connection: Any, write: Write) -> Log:
    """The document to write to, locked, made where there is none, in the epoch its sender knows."""
    while True:
        row = await connection.fetchrow(_LOCK, write.tenant_id, write.document)
        if row is not None:
            break
        if write.epoch is not None and write.epoch != FIRST_EPOCH:
            raise epoch_ended(write.epoch, FIRST_EPOCH)
        made = await _insert(connection, write, "live", FIRST_EPOCH, 0)
        if made is not None:
            await _count(connection, write, 1)
            return Log(made, True, FIRST_EPOCH, 0, 0, 0, 0, 0)
        # Another made it, or left its tombstone, in this instant: it is there at the next look.
    log = Log(*row)
    if write.epoch is not None and write.epoch != log.epoch:
        raise epoch_ended(write.epoch, log.epoch)
    if not log.is_live:
        await _count(connection, write, 1)
        await connection.execute(
            "UPDATE sync_documents SET state = 'live', created_at = $2 WHERE id = $1",
            log.id,
            write.now_ms,
        )
        log.is_live = True
    return log


async def save(connection: Any, log: Log, now_ms: int) -> None:
    """Write back what a transaction did to it."""
    await connection.execute(
        _SAVE,
        log.id,
        log.seq,
        log.floor,
        log.floor_snapshot,
        log.entry_count,
        log.byte_count,
        now_ms,
    )


async def delete(connection: Any, write: Write) -> int | None:
    """Leave a tombstone; the new epoch, or None where nothing is live."""
    row = await connection.fetchrow(_LOCK, write.tenant_id, write.document)
    if row is None:
        return None
    log = Log(*row)
    if write.epoch is not None and write.epoch != log.epoch:
        raise epoch_ended(write.epoch, log.epoch)
    if not log.is_live:
        return None
    await connection.execute("UPDATE sync_documents SET state = 'removing' WHERE id = $1", log.id)
    await _insert(connection, write, "tombstone", log.epoch + 1, log.seq)
    await _count(connection, write, -1)
    return log.epoch + 1


async def remove_some(connection: Any) -> bool:
    """Remove a slice of a deleted document's rows that no other server removes; whether there was
    one.
    """
    row = await connection.fetchrow(
        "SELECT id, tenant_id FROM sync_documents WHERE state = 'removing' ORDER BY id LIMIT 1"
        " FOR UPDATE SKIP LOCKED"
    )
    if row is None:
        return False
    gone = await connection.fetchval(
        "WITH gone AS (DELETE FROM sync_entries WHERE ctid = ANY(ARRAY(SELECT ctid FROM"
        " sync_entries WHERE tenant_id = $1 AND document_id = $2 LIMIT $3)) RETURNING 1)"
        " SELECT count(*) FROM gone",
        row["tenant_id"],
        row["id"],
        REMOVED_AT_ONCE,
    )
    if not gone:
        await connection.execute("DELETE FROM sync_documents WHERE id = $1", row["id"])
    return True


# ── Export and import ──────────────────────────────────────────────────────────────────────────


async def walk(connection: Any, tenant_id: int) -> Sequence[Document]:
    """Every document and tombstone, by name."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM sync_documents WHERE tenant_id = $1 AND state <> 'removing'"
        " ORDER BY name",
        tenant_id,
    )
    return [Document(*row) for row in rows]


async def insert_document(connection: Any, tenant_id: int, document: Document) -> None:
    """Store an exported document, its entries still to come."""
    await connection.execute(
        "INSERT INTO sync_documents (tenant_id, name, state, epoch, seq, floor, floor_snapshot,"
        " entry_count, byte_count, created_at, updated_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, $8, $9)",
        tenant_id,
        document.name,
        "live" if document.is_live else "tombstone",
        document.epoch,
        document.seq,
        document.floor,
        document.floor_snapshot,
        document.created_at,
        document.updated_at,
    )
    await connection.execute(
        "INSERT INTO sync_tenants AS t (tenant_id, document_count) VALUES ($1, $2)"
        " ON CONFLICT (tenant_id) DO UPDATE SET document_count = t.document_count + $2",
        tenant_id,
        int(document.is_live),
    )


async def open_restored(connection: Any, tenant_id: int, name: str) -> int:
    """The id of an imported document; KeyError where it isn't there."""
    document = await find(connection, tenant_id, name)
    if document is None or not document.is_live:
        raise KeyError(name)
    return document.id


# ── Inside ─────────────────────────────────────────────────────────────────────────────────────


async def _insert(connection: Any, write: Write, state: str, epoch: int, seq: int) -> int | None:
    made: int | None = await connection.fetchval(
        _INSERT, write.tenant_id, write.document, state, epoch, seq, write.now_ms
    )
    return made


async def _count(connection: Any, write: Write, change: int) -> None:
    count = await connection.fetchval(
        "INSERT INTO sync_tenants AS t (tenant_id, document_count) VALUES ($1, greatest(0, $2))"
        " ON CONFLICT (tenant_id) DO UPDATE SET document_count = t.document_count + $2"
        " RETURNING document_count",
        write.tenant_id,
        change,
    )
    if change > 0 and count > write.limits.document_count_max:
        raise too_many_documents(write.limits)
