"""The rows of documents in SQLite, inside the writer's transaction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apsw

from monolite.sync.engine import Write
from monolite.sync.entry import FIRST_EPOCH, Document
from monolite.sync.refusals import epoch_ended, too_many_documents, too_many_entries

REMOVED_AT_ONCE = 200
_KNOWN_MAX = 4096

_COLUMNS = (
    "id, name, state = 'live', epoch, seq, floor, floor_snapshot, entry_count, byte_count,"
    " created_at, updated_at"
)
_DOCUMENT = (
    f"SELECT {_COLUMNS} FROM sync_documents WHERE tenant_id = ? AND name = ?"
    " AND state <> 'removing'"
)
_DOCUMENTS = (
    f"SELECT {_COLUMNS} FROM sync_documents WHERE tenant_id = ? AND name > ?"
    " AND state <> 'removing' AND state = 'live' ORDER BY name LIMIT ?"
)
_OPEN = "SELECT id, state = 'live', epoch, seq, floor, floor_snapshot, entry_count, byte_count" + (
    " FROM sync_documents WHERE tenant_id = ? AND name = ? AND state <> 'removing'"
)


@dataclass(slots=True)
class Log:
    """A document while a transaction writes to it; `save` writes it back."""

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


def find(connection: apsw.Connection, tenant_id: int, name: str) -> Document | None:
    """A document or its tombstone."""
    row = connection.execute(_DOCUMENT, (tenant_id, name)).fetchone()
    return None if row is None else _document(row)


def find_many(
    connection: apsw.Connection, tenant_id: int, after: str, limit: int
) -> list[Document]:
    """Live documents by name."""
    return [_document(row) for row in connection.execute(_DOCUMENTS, (tenant_id, after, limit))]


class Logs:
    """The documents that were written to lately, as their last transaction left them.

    Only the writer's works use it. One that fails forgets its document; where a whole transaction
    is lost all are forgotten.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], Log] = {}

    def open(self, connection: apsw.Connection, write: Write) -> Log:
        """The document to write to, made where there is none, in the epoch its sender knows."""
        key = (write.tenant_id, write.document)
        log = self._known.get(key)
        if log is None:
            row = connection.execute(_OPEN, key).fetchone()
            log = None if row is None else Log(*row)
        epoch = FIRST_EPOCH if log is None else log.epoch
        if write.epoch is not None and write.epoch != epoch:
            raise epoch_ended(write.epoch, epoch)
        if log is None or not log.is_live:
            log = _begin(connection, write, log)
        if key not in self._known:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[key] = log
        return log

    def forget(self, write: Write) -> None:
        """What is known of it may not be true any more."""
        self._known.pop((write.tenant_id, write.document), None)

    def forget_all(self) -> None:
        """The same of all."""
        self._known.clear()


def _begin(connection: apsw.Connection, write: Write, log: Log | None) -> Log:
    _count(connection, write, 1)
    if log is None:
        number = _insert(connection, write, "live", FIRST_EPOCH, 0)
        return Log(number, True, FIRST_EPOCH, 0, 0, 0, 0, 0)
    connection.execute(
        "UPDATE sync_documents SET state = 'live', created_at = ? WHERE id = ?",
        (write.now_ms, log.id),
    )
    log.is_live = True
    return log


def save(connection: apsw.Connection, log: Log, now_ms: int) -> None:
    """Write back what a transaction did to it."""
    connection.execute(
        "UPDATE sync_documents SET seq = ?, floor = ?, floor_snapshot = ?, entry_count = ?,"
        " byte_count = ?, updated_at = ? WHERE id = ?",
        (log.seq, log.floor, log.floor_snapshot, log.entry_count, log.byte_count, now_ms, log.id),
    )


def delete(connection: apsw.Connection, write: Write) -> int | None:
    """Leave a tombstone; the new epoch, or None where nothing is live."""
    row = connection.execute(_OPEN, (write.tenant_id, write.document)).fetchone()
    if row is None:
        return None
    log = Log(*row)
    if write.epoch is not None and write.epoch != log.epoch:
        raise epoch_ended(write.epoch, log.epoch)
    if not log.is_live:
        return None
    connection.execute("UPDATE sync_documents SET state = 'removing' WHERE id = ?", (log.id,))
    _insert(connection, write, "tombstone", log.epoch + 1, log.seq)
    _count(connection, write, -1)
    return log.epoch + 1


def is_any_removing(connection: apsw.Connection) -> bool:
    """Whether a deleted document still has rows."""
    row = connection.execute("SELECT 1 FROM sync_documents WHERE state = 'removing' LIMIT 1")
    return row.fetchone() is not None


def remove_some(connection: apsw.Connection) -> bool:
    """Remove a slice of the first deleted document's rows; whether there was one."""
    row = connection.execute(
        "SELECT id, tenant_id FROM sync_documents WHERE state = 'removing' ORDER BY id LIMIT 1"
    ).fetchone()
    if row is None:
        return False
    document_id, tenant_id = row
    gone = connection.execute(
        "DELETE FROM sync_entries WHERE key IN (SELECT key FROM sync_entries"
        " WHERE tenant_id = ? AND document_id = ? LIMIT ?) RETURNING 1",
        (tenant_id, document_id, REMOVED_AT_ONCE),
    ).fetchall()
    if not gone:
        connection.execute("DELETE FROM sync_documents WHERE id = ?", (document_id,))
    return True


def tenant_usage(connection: apsw.Connection, tenant_id: int) -> tuple[int, int]:
    """A tenant's live documents, and the bytes of their live entries."""
    row: Any = connection.execute(
        "SELECT count(*), coalesce(sum(byte_count), 0) FROM sync_documents WHERE tenant_id = ?"
        " AND state <> 'removing' AND state = 'live'",
        (tenant_id,),
    ).fetchone()
    return row[0], row[1]


# ── Export and import ──────────────────────────────────────────────────────────────────────────


def walk(connection: apsw.Connection, tenant_id: int) -> Iterator[Document]:
    """Every document and tombstone, by name."""
    for row in connection.execute(
        f"SELECT {_COLUMNS} FROM sync_documents WHERE tenant_id = ? AND state <> 'removing'"
        " ORDER BY name",
        (tenant_id,),
    ):
        yield _document(row)


def insert_document(connection: apsw.Connection, tenant_id: int, document: Document) -> None:
    """Store an exported document, its entries still to come."""
    connection.execute(
        "INSERT INTO sync_documents (tenant_id, name, state, epoch, seq, floor, floor_snapshot,"
        " entry_count, byte_count, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, ?, ?)",
        (
            tenant_id,
            document.name,
            "live" if document.is_live else "tombstone",
            document.epoch,
            document.seq,
            document.floor,
            document.floor_snapshot,
            document.created_at,
            document.updated_at,
        ),
    )
    connection.execute(
        "INSERT INTO sync_tenants (tenant_id, document_count) VALUES (?1, ?2)"
        " ON CONFLICT (tenant_id) DO UPDATE SET document_count = document_count + ?2",
        (tenant_id, int(document.is_live)),
    )


def open_restored(connection: apsw.Connection, tenant_id: int, name: str) -> int:
    """The id of an imported document; KeyError where it isn't there."""
    document = find(connection, tenant_id, name)
    if document is None or not document.is_live:
        raise KeyError(name)
    return document.id


# ── Inside ─────────────────────────────────────────────────────────────────────────────────────


def _insert(connection: apsw.Connection, write: Write, state: str, epoch: int, seq: int) -> int:
    connection.execute(
        "INSERT INTO sync_documents (tenant_id, name, state, epoch, seq, floor, floor_snapshot,"
        " entry_count, byte_count, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, 0, 0,"
        " ?6, ?6)",
        (write.tenant_id, write.document, state, epoch, seq, write.now_ms),
    )
    return connection.last_insert_rowid()


def _count(connection: apsw.Connection, write: Write, change: int) -> None:
    count: Any = connection.execute(
        "INSERT INTO sync_tenants (tenant_id, document_count) VALUES (?1, max(0, ?2))"
        " ON CONFLICT (tenant_id) DO UPDATE SET document_count = document_count + ?2"
        " RETURNING document_count",
        (write.tenant_id, change),
    ).get
    if change > 0 and count > write.limits.document_count_max:
        raise too_many_documents(write.limits)


def _document(row: tuple[Any, ...]) -> Document:
    id, name, is_live, *rest = row
    return Document(id, name, bool(is_live), *rest)
