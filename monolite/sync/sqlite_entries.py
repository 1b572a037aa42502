"""The log in SQLite, inside the writer's transaction: each function is one write, whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apsw

from monolite.preconditions import Precondition
from monolite.sync import sqlite_documents
from monolite.sync.engine import Write
from monolite.sync.entry import Entry, Written, etag_of
from monolite.sync.ranges import Range, ranges_of, text_of
from monolite.sync.refusals import already_superseded, unknown_entries
from monolite.sync.sqlite_documents import Log
from monolite.sync.states import is_kept

EXPIRED_AT_ONCE = 200

_DESCRIBED = "seq, kind, replica, digest, size, created_at, changed_at, supersedes"
_STATE = (
    "SELECT key, seq, digest, size, kept_at FROM sync_entries WHERE tenant_id = ?"
    " AND document_id = ? AND replica = ? AND kind = 'state' AND superseded = 0"
)
_INSERT = (
    "INSERT INTO sync_entries (tenant_id, document_id, superseded, seq, kind, replica, supersedes,"
    " created_at, changed_at, kept_at, digest, size, blob)"
    " VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?7, ?8, ?9, length(?10), ?10)"
)
_OVERWRITE = (
    "UPDATE sync_entries SET seq = ?2, created_at = ?3, changed_at = ?3, digest = ?4,"
    " size = length(?5), blob = ?5 WHERE key = ?1"
)
_SAME = (
    "SELECT seq FROM sync_entries WHERE tenant_id = ? AND document_id = ? AND digest = ?"
    " AND kind <> 'state' AND kind = ? ORDER BY seq LIMIT 1"
)
_SUPERSEDE = (
    "UPDATE sync_entries SET superseded = 1, changed_at = ?5 WHERE tenant_id = ?1"
    " AND document_id = ?2 AND superseded = 0 AND seq BETWEEN ?3 AND ?4 RETURNING seq, size"
)
_SUPERSEDED = (
    "SELECT key, seq, size FROM sync_entries WHERE tenant_id = ? AND document_id = ?"
    " AND superseded = 1 AND seq BETWEEN ? AND ? ORDER BY seq"
)


def put_state(
    connection: apsw.Connection,
    log: Log,
    write: Write,
    replica: str,
    blob: bytes,
    digest: bytes,
    precondition: Precondition,
) -> Written:
    """Store a replica's state; the one before is overwritten, or kept where none was for long."""
    row = connection.execute(_STATE, (write.tenant_id, log.id, replica)).fetchone()
    if row is None:
        precondition.check(None)
        log.make_room(write)
        _insert(connection, write, log, "state", blob, digest, replica=replica)
        return _written(log, log.seq, digest, True)
    key, seq, old, old_size, kept_at = row
    precondition.check(etag_of(old))
    if old == digest:
        return _written(log, seq, digest, False, was_there=True)
    log.byte_count -= old_size
    if is_kept(kept_at, write.now_ms):
        connection.execute(
            "UPDATE sync_entries SET superseded = 1, changed_at = ? WHERE key = ?",
            (write.now_ms, key),
        )
        log.entry_count -= 1
        _insert(connection, write, log, "state", blob, digest, replica=replica, kept=True)
    else:
        connection.execute(_OVERWRITE, (key, log.next(), write.now_ms, digest, blob))
        log.byte_count += len(blob)
        sqlite_documents.save(connection, log, write.now_ms)
    return _written(log, log.seq, digest, True, was_there=True)


def append(
    connection: apsw.Connection, log: Log, write: Write, blob: bytes, digest: bytes
) -> Written:
    """Append an update, or find it."""
    seq = _same(connection, write, log, digest, "update")
    if seq is not None:
        return _written(log, seq, digest, False)
    log.make_room(write)
    _insert(connection, write, log, "update", blob, digest)
    return _written(log, log.seq, digest, True)


def compact(
    connection: apsw.Connection,
    log: Log,
    write: Write,
    blob: bytes,
    digest: bytes,
    numbers: Sequence[Range],
) -> Written:
    """Append a snapshot and supersede what is live among the numbers."""
    newest = log.seq
    missing = [(max(low, newest + 1), high) for low, high in numbers if high > newest]
    if missing:
        raise unknown_entries("X-Supersedes", missing, newest)
    gone: list[Any] = []
    for low, high in numbers:
        gone += connection.execute(
            _SUPERSEDE, (write.tenant_id, log.id, low, high, write.now_ms)
        ).fetchall()
    if not gone:
        seq = _same(connection, write, log, digest, "snapshot")
        if seq is None:
            raise already_superseded()
        return _written(log, seq, digest, False)
    gone.sort()
    log.entry_count -= len(gone)
    log.byte_count -= sum(size for _, size in gone)
    named = text_of(ranges_of(seq for seq, _ in gone))
    log.floor = max(log.floor, gone[-1][0])
    log.floor_snapshot = log.seq + 1
    _insert(connection, write, log, "snapshot", blob, digest, supersedes=named)
    return _written(log, log.seq, digest, True)


def restore(
    connection: apsw.Connection, log: Log, write: Write, numbers: Sequence[Range]
) -> list[tuple[int, int]]:
    """Make superseded entries live again, under new numbers."""
    rows: list[Any] = []
    for low, high in numbers:
        rows += connection.execute(_SUPERSEDED, (write.tenant_id, log.id, low, high)).fetchall()
    if not rows:
        raise unknown_entries("#/entries", numbers, log.seq)
    log.make_room(write, len(rows))
    moved = []
    for key, seq, size in rows:
        moved.append((seq, log.next()))
        log.entry_count += 1
        log.byte_count += size
        connection.execute(
            "UPDATE sync_entries SET superseded = 0, seq = ?2, changed_at = ?3,"
            " kind = iif(kind = 'state', 'update', kind) WHERE key = ?1",
            (key, log.seq, write.now_ms),
        )
    sqlite_documents.save(connection, log, write.now_ms)
    return moved


def expire(connection: apsw.Connection, before_ms: int) -> int:
    """Drop some of what was superseded before a time; returns how many."""
    gone = connection.execute(
        "DELETE FROM sync_entries WHERE key IN (SELECT key FROM sync_entries"
        " WHERE superseded = 1 AND changed_at < ? ORDER BY changed_at LIMIT ?) RETURNING 1",
        (before_ms, EXPIRED_AT_ONCE),
    ).fetchall()
    return len(gone)


# ── Reads ──────────────────────────────────────────────────────────────────────────────────────


def find_state(
    connection: apsw.Connection, tenant_id: int, document_id: int, replica: str
) -> Entry | None:
    """A replica's live state."""
    row = connection.execute(
        f"SELECT {_DESCRIBED}, blob FROM sync_entries WHERE tenant_id = ? AND document_id = ?"
        " AND replica = ? AND kind = 'state' AND superseded = 0",
        (tenant_id, document_id, replica),
    ).fetchone()
    return None if row is None else Entry(*row)


def find_entry(
    connection: apsw.Connection, tenant_id: int, document_id: int, seq: int
) -> Entry | None:
    """One entry, live or superseded."""
    row = connection.execute(
        f"SELECT {_DESCRIBED}, blob FROM sync_entries WHERE tenant_id = ? AND document_id = ?"
        " AND superseded IN (0, 1) AND seq = ?",
        (tenant_id, document_id, seq),
    ).fetchone()
    return None if row is None else Entry(*row)


def find_entries(
    connection: apsw.Connection,
    tenant_id: int,
    document_id: int,
    after: int,
    *,
    limit: int,
    bytes_max: int,
    blobs: bool,
    superseded: bool,
) -> tuple[list[Entry], bool]:
    """Entries beyond a number, and whether these are all of them."""
    blob = "blob" if blobs else "NULL"
    rows = connection.execute(
        f"SELECT {_DESCRIBED}, {blob} FROM sync_entries WHERE tenant_id = ? AND document_id = ?"
        " AND superseded = ? AND seq > ? ORDER BY seq LIMIT ?",
        (tenant_id, document_id, int(superseded), after, limit + 1),
    )
    found: list[Entry] = []
    size = 0
    for row in rows:
        entry = Entry(*row)
        size += entry.size if blobs else 0
        if len(found) == limit or (found and size > bytes_max):
            rows.close()
            return found, False
        found.append(entry)
    return found, True


# ── Export and import ──────────────────────────────────────────────────────────────────────────


def walk_entries(connection: apsw.Connection, tenant_id: int, document_id: int) -> Iterator[Entry]:
    """Every live entry, in order."""
    for row in connection.execute(
        f"SELECT {_DESCRIBED}, blob FROM sync_entries WHERE tenant_id = ? AND document_id = ?"
        " AND superseded = 0 ORDER BY seq",
        (tenant_id, document_id),
    ):
        yield Entry(*row)


def insert_entry(
    connection: apsw.Connection, tenant_id: int, document_id: int, entry: Entry
) -> None:
    """Store an exported entry as it was; TypeError where its document does not know the number."""
    connection.execute(
        _INSERT,
        (
            tenant_id,
            document_id,
            entry.seq,
            entry.kind,
            entry.replica,
            entry.supersedes,
            entry.created_at,
            0,
            entry.digest,
            entry.blob,
        ),
    )
    seq: Any = connection.execute(
        "UPDATE sync_documents SET entry_count = entry_count + 1, byte_count = byte_count + ?2"
        " WHERE id = ?1 RETURNING seq",
        (document_id, entry.size),
    ).get
    if not 0 < entry.seq <= seq:
        raise TypeError("sync_entry")


# ── Inside ─────────────────────────────────────────────────────────────────────────────────────


def _same(
    connection: apsw.Connection, write: Write, log: Log, digest: bytes, kind: str
) -> int | None:
    row = connection.execute(_SAME, (write.tenant_id, log.id, digest, kind)).fetchone()
    return None if row is None else row[0]


def _insert(
    connection: apsw.Connection,
    write: Write,
    log: Log,
    kind: str,
    blob: bytes,
    digest: bytes,
    *,
    replica: str | None = None,
    supersedes: str | None = None,
    kept: bool = False,
) -> None:
    values: tuple[Any, ...] = (
        write.tenant_id,
        log.id,
        log.next(),
        kind,
        replica,
        supersedes,
        write.now_ms,
        write.now_ms if kept else 0,
        digest,
        blob,
    )
    connection.execute(_INSERT, values)
    log.entry_count += 1
    log.byte_count += len(blob)
    sqlite_documents.save(connection, log, write.now_ms)


def _written(
    log: Log, seq: int, digest: bytes, is_new: bool, *, was_there: bool = False
) -> Written:
    return Written(seq, etag_of(digest), log.epoch, is_new, was_there, log.entry_count)
