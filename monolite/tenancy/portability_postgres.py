"""The records of a tenant, read from and written to PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Protocol

import asyncpg

from monolite.errors import FieldError, Invalid
from monolite.storage.postgres.pool import Pool
from monolite.tenancy.portability import BATCH_BYTES, Record, size_of


class Archive(Protocol):
    """One subsystem's part of a tenant's records."""

    kinds: tuple[str, ...]

    def records(self, connection: Any, tenant_id: int) -> AsyncGenerator[Record, None]:
        """Its records, what is referenced first; in a transaction, so a cursor may be used."""
        ...

    async def store(self, connection: Any, tenant_id: int, record: Record) -> None:
        """Store one of its records."""
        ...


class PostgresArchiveEngine:
    """The shared ArchiveEngine, over the subsystems' archives in their order."""

    def __init__(self, pool: Pool, archives: Sequence[Archive]) -> None:
        self._pool = pool
        self._archives = archives
        self._by_kind = {kind: archive for archive in archives for kind in archive.kinds}
        self.kinds = frozenset(self._by_kind)

    @asynccontextmanager
    async def snapshot(
        self, tenant_number: int, batch_count: int
    ) -> AsyncIterator[AsyncIterator[Sequence[Record]]]:
        async with AsyncExitStack() as stack:
            # A connection of its own: an export may take minutes and the pool's are few.
            connection = await stack.enter_async_context(self._pool.dedicated())
            await connection.execute("SET idle_in_transaction_session_timeout = 0")
            await stack.enter_async_context(
                connection.transaction(isolation="repeatable_read", readonly=True)
            )
            records = self._records(connection, tenant_number)
            batches = await stack.enter_async_context(aclosing(_batches(records, batch_count)))
            yield batches

    async def store(self, tenant_number: int, records: Sequence[Record]) -> None:
        async def work(connection: Any) -> None:
            for record in records:
                try:
                    await self._by_kind[record["kind"]].store(connection, tenant_number, record)
                except (
                    KeyError,
                    TypeError,
                    AttributeError,
                    asyncpg.DataError,
                    asyncpg.IntegrityConstraintViolationError,
                ):
                    why = f"a {record['kind']} of the export does not fit"
                    raise Invalid(why, [FieldError("#", why)]) from None

        await self._pool.transaction(work)

    async def _records(self, connection: Any, tenant_number: int) -> AsyncGenerator[Record, None]:
        for archive in self._archives:
            async with aclosing(archive.records(connection, tenant_number)) as records:
                async for record in records:
                    yield record


async def _batches(
    records: AsyncGenerator[Record, None], batch_count: int
) -> AsyncGenerator[list[Record], None]:
    async with aclosing(records):
        batch: list[Record] = []
        size = 0
        async for record in records:
            batch.append(record)
            size += size_of(record)
            if len(batch) >= batch_count or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch
