"""The relay's logs in PostgreSQL; several servers share them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from monolite.preconditions import Precondition
from monolite.storage.postgres.companion import accompany
from monolite.storage.postgres.notifications import Notifications
from monolite.storage.postgres.pool import Pool
from monolite.sync import postgres_documents, postgres_entries
from monolite.sync.engine import Also, Changed, Heard, Read, Write
from monolite.sync.entry import Document, Entry, OwnLimits, Written
from monolite.sync.postgres_news import PostgresNews
from monolite.sync.ranges import Range

# Children before what they reference: the order in which a tenant's rows are deleted.
TENANT_TABLES = ("sync_entries", "sync_documents", "sync_tenants")

T = TypeVar("T")


class PostgresSyncEngine:
    """The SyncEngine that several servers share. What is superseded is kept for `grace_s`."""

    def __init__(
        self,
        pool: Pool,
        notifications: Notifications,
        *,
        now_ms: Callable[[], int],
        grace_s: float,
    ) -> None:
        self._pool = pool
        self._news = PostgresNews(pool, notifications)
        self._now_ms = now_ms
        self._grace_s = grace_s
        self.work_waits = asyncio.Event()

    async def begin(self) -> None:
        """Hear from other servers, until `stop`."""
        self._news.begin()

    async def stop(self) -> None:
        """Hear no more."""
        await self._news.stop()

    # ── Writes ─────────────────────────────────────────────────────────────────────────────────

    async def put_state(
        self, write: Write, replica: str, blob: bytes, digest: bytes, precondition: Precondition
    ) -> Written:
        return await self._write(
            write,
            lambda connection: postgres_entries.put_state(
                connection, write, replica, blob, digest, precondition
            ),
        )

    async def append(self, write: Write, blob: bytes, digest: bytes, also: Also = None) -> Written:
        async def work(connection: Any) -> Written:
            written = await postgres_entries.append(connection, write, blob, digest)
            await accompany(also, connection, written)
            return written

        return await self._write(write, work)

    async def compact(
        self,
        write: Write,
        blob: bytes,
        digest: bytes,
        supersedes: Sequence[Range],
        also: Also = None,
    ) -> Written:
        async def work(connection: Any) -> Written:
            written = await postgres_entries.compact(connection, write, blob, digest, supersedes)
            await accompany(also, connection, written)
            return written

        return await self._write(write, work)

    async def restore(self, write: Write, numbers: Sequence[Range]) -> Sequence[tuple[int, int]]:
        return await self._write(
            write, lambda connection: postgres_entries.restore(connection, write, numbers)
        )

    async def delete(self, write: Write) -> int | None:
        epoch = await self._write(
            write, lambda connection: postgres_documents.delete(connection, write)
        )
        self.work_waits.set()
        return epoch

    async def _write(self, write: Write, work: Callable[[Any], Awaitable[T]]) -> T:
        result = await self._pool.transaction(work)
        self._news.touch(write.tenant_id, write.document)
        return result

    # ── Reads ──────────────────────────────────────────────────────────────────────────────────

    async def document(self, tenant_id: int, name: str) -> Document | None:
        return await postgres_documents.find(self._pool, tenant_id, name)

    async def documents(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Document]:
        return await postgres_documents.find_many(self._pool, tenant_id, after or "", limit)

    async def state(self, tenant_id: int, name: str, replica: str) -> Entry | None:
        async with self._pool.connection() as connection:
            document = await postgres_documents.find(connection, tenant_id, name)
            if document is None:
                return None
            return await postgres_entries.find_state(connection, tenant_id, document.id, replica)

    async def entry(self, tenant_id: int, name: str, seq: int) -> Entry | None:
        async with self._pool.connection() as connection:
            document = await postgres_documents.find(connection, tenant_id, name)
            if document is None:
                return None
            return await postgres_entries.find_entry(connection, tenant_id, document.id, seq)

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
        async with self._pool.connection() as connection:
            document = await postgres_documents.find(connection, tenant_id, name)
            if document is None:
                return None
            found, is_whole = await postgres_entries.find_entries(
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

    # ── Tenants ────────────────────────────────────────────────────────────────────────────────

    async def own_limits(self, tenant_id: int) -> OwnLimits:
        row = await self._pool.fetchrow(
            "SELECT blob_bytes_max, entry_count_max, document_count_max, listener_count_max"
            " FROM sync_tenants WHERE tenant_id = $1",
            tenant_id,
        )
        return OwnLimits() if row is None else OwnLimits(*row)

    async def set_own_limits(self, tenant_id: int, limits: OwnLimits) -> None:
        async def work(connection: Any) -> None:
            await connection.execute(
                "INSERT INTO sync_tenants (tenant_id, document_count, blob_bytes_max,"
                " entry_count_max, document_count_max, listener_count_max)"
                " VALUES ($1, 0, $2, $3, $4, $5) ON CONFLICT (tenant_id) DO UPDATE SET"
                " blob_bytes_max = $2, entry_count_max = $3, document_count_max = $4,"
                " listener_count_max = $5",
                tenant_id,
                limits.blob_bytes_max,
                limits.entry_count_max,
                limits.document_count_max,
                limits.listener_count_max,
            )

        await self._pool.transaction(work)
        await self._news.limits_changed(tenant_id)

    async def tenant_usage(self, tenant_numbers: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Live documents of each tenant that has any, and the bytes of their live entries."""
        rows = await self._pool.fetch(
            "SELECT tenant_id, count(*), sum(byte_count)::bigint FROM sync_documents"
            " WHERE tenant_id = ANY($1) AND state = 'live' GROUP BY tenant_id",
            list(tenant_numbers),
        )
        return {number: (count, size) for number, count, size in rows}

    # ── News ───────────────────────────────────────────────────────────────────────────────────

    def follow(
        self,
        changed: Changed,
        heard: Heard,
        limits_changed: Callable[[int | None], None],
        followed: Callable[[], Sequence[tuple[int, str]]],
    ) -> None:
        self._news.follow(changed, heard, limits_changed, followed)

    async def whisper(self, tenant_id: int, name: str, blob: bytes, sender: object) -> None:
        await self._news.whisper(tenant_id, name, blob, sender)

    # ── Upkeep ─────────────────────────────────────────────────────────────────────────────────

    async def upkeep(self) -> bool:
        """Remove a slice of what was deleted; whether there was some."""
        return await self._pool.transaction(postgres_documents.remove_some)

    async def expire(self) -> None:
        """Drop what was superseded before the grace period."""
        before_ms = self._now_ms() - int(self._grace_s * 1000)
        while await self._pool.transaction(lambda c: postgres_entries.expire(c, before_ms)):
            pass
