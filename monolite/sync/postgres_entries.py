"""The log in PostgreSQL, inside a transaction: each function is one write, whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from monolite.preconditions import Precondition
from monolite.sync import postgres_documents
from monolite.sync.engine import Write
from monolite.sync.entry import Entry, Written, etag_of
from monolite.sync.postgres_documents import Log, open_log
from monolite.sync.ranges import Range, ranges_of, text_of
from monolite.sync.refusals import already_superseded, unknown_entries
from monolite.sync.states import is_kept

EXPIRED_AT_ONCE = 1000

_DESCRIBED = "seq, kind, replica, digest, size, created_at, changed_at, supersedes"
_LOG = "tenant_id = $1 AND document_id = $2"
_STATE = (
    f"SELECT seq, digest, size, kept_at FROM sync_entries WHERE {_LOG}"
    " AND replica = $3 AND kind = 'state' AND NOT superseded"
)
_INSERT = (
    "INSERT INTO sync_entries (tenant_id, document_id, superseded, seq, kind, replica, supersedes,"
    " created_at, changed_at, kept_at, digest, size, blob)"
    " VALUES ($1, $2, false, $3, $4, $5, $6, $7, $7, $8, $9, $10, $11)"
)
_OVERWRITE = (
    "UPDATE sync_entries SET seq = $4, created_at = $5, changed_at = $5, digest = $6, size = $7,"
    f" blob = $8 WHERE {_LOG} AND NOT superseded AND seq = $3"
)
_SAME = (
    f"SELECT seq FROM sync_entries WHERE {_LOG} AND digest = $3 AND kind <> 'state' AND kind = $4"
    " ORDER BY seq LIMIT 1"
)
_SUPERSEDE = (
    f"UPDATE sync_entries SET superseded = true, changed_at = $5 WHERE {_LOG}"
    " AND NOT superseded AND seq BETWEEN $3 AND $4 RETURNING seq, size"
)
_SUPERSEDED = (
    f"SELECT seq, size FROM sync_entries WHERE {_LOG} AND superseded AND seq BETWEEN $3 AND $4"
    " ORDER BY seq"
)


async def put_state(
    connection: Any,
    write: Write,
    replica: str,
    blob: bytes,
    digest: bytes,
    precondition: Precondition,
) -> Written:
    """Store a replica's state; the one before is overwritten, or kept where none was for long."""
    log = await open_log(connection, write)
    row = await connection.fetchrow(_STATE, write.tenant_id, log.id, replica)
    if row is None:
        precondition.check(None)
        log.make_room(write)
        await _insert(connection, write, log, "state", blob, digest, replica=replica)
        return _written(log, log.seq, digest, True)
    seq, old, old_size, kept_at = row
    precondition.check(etag_of(old))
    if old == digest:
        return _written(log, seq, digest, False, was_there=True)
    log.byte_count -= old_size
    if is_kept(kept_at, write.now_ms):
        await connection.fetch(_SUPERSEDE, write.tenant_id, log.id, seq, seq, write.now_ms)
        log.entry_count -= 1
        await _insert(connection, write, log, "state", blob, digest, replica=replica, kept=True)
    else:
        await connection.execute(
            _OVERWRITE,
            write.tenant_id,
            log.id,
            seq,
            log.next(),
            write.now_ms,
            digest,
            len(blob),
            blob,
        )
        log.byte_count += len(blob)
        await postgres_documents.save(connection, log, write.now_ms)
    return _written(log, log.seq, digest, True, was_there=True)


async def append(connection: Any, write: Write, blob: bytes, digest: bytes) -> Written:
    """Append an update, or find it."""
    log = await open_log(connection, write)
    seq = await _same(connection, write, log, digest, "update")
    if seq is not None:
        return _written(log, seq, digest, False)
    log.make_room(write)
    await _insert(connection, write, log, "update", blob, digest)
    return _written(log, log.seq, digest, True)


async def compact(
    connection: Any, write: Write, blob: bytes, digest: bytes, numbers: Sequence[Range]
) -> Written:
    """Append a snapshot and supersede what is live among the numbers."""
    log = await open_log(connection, write)
    newest = log.seq
    missing = [(max(low, newest + 1), high) for low, high in numbers if high > newest]
    if missing:
        raise unknown_entries("X-Supersedes", missing, newest)
    gone: list[Any] = []
    for low, high in numbers:
        gone += await connection.fetch(_SUPERSEDE, write.tenant_id, log.id, low, high, write.now_ms)
    if not gone:
        seq = await _same(connection, write, log, digest, "snapshot")
        if seq is None:
            raise already_superseded()
        return _written(log, seq, digest, False)
    log.entry_count -= len(gone)
    log.byte_count -= sum(row["size"] for row in gone)
    named = sorted(row["seq"] for row in gone)
    log.floor = max(log.floor, named[-1])
    log.floor_snapshot = log.seq + 1
    supersedes = text_of(ranges_of(named))
    await _insert(connection, write, log, "snapshot", blob, digest, supersedes=supersedes)
    return _written(log, log.seq, digest, True)


async def restore(
    connection: Any, write: Write, numbers: Sequence[Range]
) -> Sequence[tuple[int, int]]:
    """Make superseded entries live again, under new numbers."""
    log = await open_log(connection, write)
    rows: list[Any] = []
    for low, high in numbers:
        rows += await connection.fetch(_SUPERSEDED, write.tenant_id, log.id, low, high)
    if not rows:
        raise unknown_entries("#/entries", numbers, log.seq)
    log.make_room(write, len(rows))
    moved = [(row["seq"], log.next()) for row in rows]
    log.entry_count += len(rows)
    log.byte_count += sum(row["size"] for row in rows)
    await connection.executemany(
        "UPDATE sync_entries SET superseded = false, seq = $4, changed_at = $5,"
        f" kind = CASE kind WHEN 'state' THEN 'update' ELSE kind END WHERE {_LOG}"
        " AND superseded AND seq = $3",
        [(write.tenant_id, log.id, old, new, write.now_ms) for old, new in moved],
    )
    await postgres_documents.save(connection, log, write.now_ms)
    return moved


async def expire(connection: Any, before_ms: int) -> int:
    """Drop some of what was superseded before a time; returns how many."""
    gone: int = await connection.fetchval(
        "WITH gone AS (DELETE FROM sync_entries WHERE (tenant_id, document_id, superseded, seq) IN"
        " (SELECT tenant_id, document_id, superseded, seq FROM sync_entries WHERE superseded"
        " AND changed_at < $1 ORDER BY changed_at LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1)"
        " SELECT count(*) FROM gone",
        before_ms,
        EXPIRED_AT_ONCE,
    )
    return gone


# ── Reads ──────────────────────────────────────────────────────────────────────────────────────


async def find_state(
    connection: Any, tenant_id: int, document_id: int, replica: str
) -> Entry | None:
    """A replica's live state."""
    row = await connection.fetchrow(
        f"SELECT {_DESCRIBED}, blob FROM sync_entries WHERE {_LOG} AND replica = $3"
        " AND kind = 'state' AND NOT superseded",
        tenant_id,
        document_id,
        replica,
    )
    return None if row is None else Entry(*row)


async def find_entry(connection: Any, tenant_id: int, document_id: int, seq: int) -> Entry | None:
    """One entry, live or superseded."""
    row = await connection.fetchrow(
        f"SELECT {_DESCRIBED}, blob FROM sync_entries WHERE {_LOG}"
        " AND superseded IN (false, true) AND seq = $3",
        tenant_id,
        document_id,
        seq,
    )
    return None if row is None else Entry(*row)


async def find_entries(
    connection: Any,
    tenant_id: int,
    document_id: int,
    after: int,
    *,
    limit: int,
    bytes_max: int,
    blobs: bool,
    superseded: bool,
) -> tuple[Sequence[Entry], bool]:
    """Entries beyond a number, and whether these are all of them."""
    where = f"{_LOG} AND superseded = $3 AND seq > $4"
    place = (tenant_id, document_id, superseded, after)
    if not blobs:
        rows = await connection.fetch(
            f"SELECT {_DESCRIBED}, NULL FROM sync_entries WHERE {where} ORDER BY seq LIMIT $5",
            *place,
            limit + 1,
        )
        return [Entry(*row) for row in rows[:limit]], len(rows) <= limit
    sizes = await connection.fetch(
        f"SELECT seq, size FROM sync_entries WHERE {where} ORDER BY seq LIMIT $5",
        *place,
        limit + 1,
    )
    count, size = 0, 0
    for row in sizes[:limit]:
        size += row["size"]
        if count and size > bytes_max:
            break
        count += 1
    if not count:
        return [], True
    rows = await connection.fetch(
        f"SELECT {_DESCRIBED}, blob FROM sync_entries WHERE {where} AND seq <= $5 ORDER BY seq",
        *place,
        sizes[count - 1]["seq"],
    )
    return [Entry(*row) for row in rows], count == len(sizes)


# ── Export and import ──────────────────────────────────────────────────────────────────────────


async def walk_entries(connection: Any, tenant_id: int, document_id: int) -> AsyncIterator[Entry]:
    """Every live entry, in order."""
    async for row in connection.cursor(
        f"SELECT {_DESCRIBED}, blob FROM sync_entries WHERE {_LOG} AND NOT superseded ORDER BY seq",
        tenant_id,
        document_id,
        # Blobs may be large: these are held at once.
        prefetch=8,
    ):
        yield Entry(*row)


async def insert_entry(connection: Any, tenant_id: int, document_id: int, entry: Entry) -> None:
    """Store an exported entry as it was; TypeError where its document does not know the number."""
    await connection.execute(
        _INSERT,
        tenant_id,
        document_id,
        entry.seq,
        entry.kind,
        entry.replica,
        entry.supersedes,
        entry.created_at,
        0,
        entry.digest,
        entry.size,
        entry.blob,
    )
    seq = await connection.fetchval(
        "UPDATE sync_documents SET entry_count = entry_count + 1, byte_count = byte_count + $2"
        " WHERE id = $1 RETURNING seq",
        document_id,
        entry.size,
    )
    if not 0 < entry.seq <= seq:
        raise TypeError("sync_entry")


# ── Inside ─────────────────────────────────────────────────────────────────────────────────────


async def _same(connection: Any, write: Write, log: Log, digest: bytes, kind: str) -> int | None:
    seq: int | None = await connection.fetchval(_SAME, write.tenant_id, log.id, digest, kind)
    return seq


async def _insert(
    connection: Any,
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
    await connection.execute(
        _INSERT,
        write.tenant_id,
        log.id,
        log.next(),
        kind,
        replica,
        supersedes,
        write.now_ms,
        write.now_ms if kept else 0,
        digest,
        len(blob),
        blob,
    )
    log.entry_count += 1
    log.byte_count += len(blob)
    await postgres_documents.save(connection, log, write.now_ms)


def _written(
    log: Log, seq: int, digest: bytes, is_new: bool, *, was_there: bool = False
) -> Written:
    return Written(seq, etag_of(digest), log.epoch, is_new, was_there, log.entry_count)
