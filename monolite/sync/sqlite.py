"""The relay's logs in SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import apsw

from monolite.preconditions import Precondition
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer
from monolite.sync import sqlite_documents, sqlite_entries
from monolite.sync.engine import Also, Changed, Heard, Read, Write
from monolite.sync.entry import Document, Entry, OwnLimits, Written
from monolite.sync.ranges import Range
from monolite.sync.sqlite_documents import Log, Logs

# Children before what they reference: the order in which a tenant's rows are deleted.
TENANT_TABLES = ("sync_entries", "sync_documents", "sync_tenants")

T = TypeVar("T")

SHORT_COUNT = 64
SHORT_BYTES = 256 * 1024
"""What is read on the loop itself; more goes to a thread."""

_SUPERSEDED_ON_LOOP = 64


class SqliteSyncEngine:
    """The embedded SyncEngine. What is superseded is kept for `grace_s`."""

    def __init__(
        self, writer: Writer, readers: Readers, *, now_ms: Callable[[], int], grace_s: float
    ) -> None:
        self._writer = writer
        self._readers = readers
        self._now_ms = now_ms
        self._grace_s = grace_s
        self._changed: Changed | None = None
        self._heard: Heard | None = None
        self._logs = Logs()
        self._touched: set[tuple[int, str]] = set()
        self.work_waits = asyncio.Event()
        writer.on_commit.append(self._tell)
        writer.on_failure.append(self._logs.forget_all)

    # ── Writes ─────────────────────────────────────────────────────────────────────────────────

    def put_state(
        self, write: Write, replica: str, blob: bytes, digest: bytes, precondition: Precondition
    ) -> Awaitable[Written]:
        return self._submit(
            write,
            lambda connection, log: sqlite_entries.put_state(
                connection, log, write, replica, blob, digest, precondition
            ),
        )

    def append(
        self, write: Write, blob: bytes, digest: bytes, also: Also = None
    ) -> Awaitable[Written]:
        def work(connection: apsw.Connection, log: Log) -> Written:
            written = sqlite_entries.append(connection, log, write, blob, digest)
            if also is not None:
                also(connection, written)
            return written

        return self._submit(write, work)

    def compact(
        self,
        write: Write,
        blob: bytes,
        digest: bytes,
        supersedes: Sequence[Range],
        also: Also = None,
    ) -> Awaitable[Written]:
        def work(connection: apsw.Connection, log: Log) -> Written:
            written = sqlite_entries.compact(connection, log, write, blob, digest, supersedes)
            if also is not None:
                also(connection, written)
            return written

        count = sum(high - low + 1 for low, high in supersedes)
        return self._submit(write, work, is_long=count > _SUPERSEDED_ON_LOOP)

    def restore(
        self, write: Write, numbers: Sequence[Range]
    ) -> Awaitable[Sequence[tuple[int, int]]]:
        return self._submit(
            write,
            lambda connection, log: sqlite_entries.restore(connection, log, write, numbers),
            is_long=True,
        )

    def _submit(
        self,
        write: Write,
        work: Callable[[apsw.Connection, Log], T],
        *,
        is_long: bool = False,
    ) -> Awaitable[T]:
        def whole(connection: apsw.Connection) -> T:
            try:
                result = work(connection, self._logs.open(connection, write))
            except BaseException:
                # What was learned in this savepoint is rolled back with it.
                self._logs.forget(write)
                raise
            self._touched.add((write.tenant_id, write.document))
            return result

        return self._writer.submit(whole, is_long=is_long)

    async def delete(self, write: Write) -> int | None:
        def work(connection: apsw.Connection) -> int | None:
            self._logs.forget(write)
            self._touched.add((write.tenant_id, write.document))
            return sqlite_documents.delete(connection, write)

        epoch = await self._writer.submit(work)
        self.work_waits.set()
        return epoch

    # ── Reads ──────────────────────────────────────────────────────────────────────────────────

    async def document(self, tenant_id: int, name: str) -> Document | None:
        return sqlite_documents.find(self._readers.inline, tenant_id, name)

    async def documents(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Document]:
        return sqlite_documents.find_many(self._readers.inline, tenant_id, after or "", limit)

    async def state(self, tenant_id: int, name: str, replica: str) -> Entry | None:
        connection = self._readers.inline
        document = sqlite_documents.find(connection, tenant_id, name)
        if document is None:
            return None
        return sqlite_entries.find_state(connection, tenant_id, document.id, replica)

    async def entry(self, tenant_id: int, name: str, seq: int) -> Entry | None:
        connection = self._readers.inline
        document = sqlite_documents.find(connection, tenant_id, name)
        if document is None:
            return None
        return sqlite_entries.find_entry(connection, tenant_id, document.id, seq)

    async def entries(
        self,
        tenant_id: int,
        name: str,
        after: int,
        *,
        limit: int,
        bytes_max: int,
        blobs: bool,
        superseded: bool = False,
    ) -> Read | None:
        def read(connection: apsw.Connection, limit: int, bytes_max: int) -> Read | None:
            document = sqlite_documents.find(connection, tenant_id, name)
            if document is None:
                return None
            found, is_whole = sqlite_entries.find_entries(
                connection,
                tenant_id,
                document.id,
                after,
                limit=limit,
                bytes_max=bytes_max,
                blobs=blobs,
                superseded=superseded,
            )
            return Read(document, found, is_whole)

        short = read(self._readers.inline, min(limit, SHORT_COUNT), min(bytes_max, SHORT_BYTES))
        if short is None or short.is_whole or len(short.entries) == limit:
            return short
        return await self._readers.run(partial(read, limit=limit, bytes_max=bytes_max))

    # ── Tenants ────────────────────────────────────────────────────────────────────────────────

    async def own_limits(self, tenant_id: int) -> OwnLimits:
        row = self._readers.inline.execute(
            "SELECT blob_bytes_max, entry_count_max, document_count_max, listener_count_max"
            " FROM sync_tenants WHERE tenant_id = ?",
            (tenant_id,),
        ).fetchone()
        return OwnLimits() if row is None else OwnLimits(*row)

    async def set_own_limits(self, tenant_id: int, limits: OwnLimits) -> None:
        def work(connection: apsw.Connection) -> None:
            connection.execute(
                "INSERT INTO sync_tenants (tenant_id, document_count, blob_bytes_max,"
                " entry_count_max, document_count_max, listener_count_max)"
                " VALUES (?1, 0, ?2, ?3, ?4, ?5) ON CONFLICT (tenant_id) DO UPDATE SET"
                " blob_bytes_max = ?2, entry_count_max = ?3, document_count_max = ?4,"
                " listener_count_max = ?5",
                (
                    tenant_id,
                    limits.blob_bytes_max,
                    limits.entry_count_max,
                    limits.document_count_max,
                    limits.listener_count_max,
                ),
            )

        await self._writer.submit(work)

    # ── News ───────────────────────────────────────────────────────────────────────────────────

    def follow(
        self,
        changed: Changed,
        heard: Heard,
        limits_changed: Callable[[int | None], None],
        followed: Callable[[], Sequence[tuple[int, str]]],
    ) -> None:
        # No other process writes: what is committed is known here, and no news is lost.
        self._changed, self._heard = changed, heard

    async def whisper(self, tenant_id: int, name: str, blob: bytes, sender: object) -> None:
        if self._heard is not None:
            self._heard(tenant_id, name, blob, sender)

    def _tell(self, _: int) -> None:
        touched, self._touched = self._touched, set()
        if self._changed is not None:
            for tenant_id, name in touched:
                self._changed(tenant_id, name)

    # ── Upkeep ─────────────────────────────────────────────────────────────────────────────────

    async def upkeep(self) -> bool:
        """Remove a slice of what was deleted; whether more may be left."""
        if not sqlite_documents.is_any_removing(self._readers.inline):
            return False
        return await self._writer.submit(sqlite_documents.remove_some, is_long=True)

    async def expire(self) -> None:
        """Drop what was superseded before the grace period."""
        before_ms = self._now_ms() - int(self._grace_s * 1000)
        work = partial(sqlite_entries.expire, before_ms=before_ms)
        while await self._writer.submit(work, is_long=True):
            pass
