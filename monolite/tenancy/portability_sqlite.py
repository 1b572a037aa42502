"""The records of a tenant, read from and written to SQLite."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import apsw

from monolite.errors import FieldError, Invalid
from monolite.storage.sqlite.writer import Writer
from monolite.tenancy.portability import BATCH_BYTES, Record, size_of


class Archive(Protocol):
    """One subsystem's part of a tenant's records."""

    kinds: tuple[str, ...]

    def records(self, connection: apsw.Connection, tenant_id: int) -> Iterator[Record]:
        """Its records, what is referenced first."""
        ...

    def store(self, connection: apsw.Connection, tenant_id: int, record: Record) -> None:
        """Store one of its records."""
        ...


class SqliteArchiveEngine:
    """The embedded ArchiveEngine, over the subsystems' archives in their order."""

    def __init__(
        self,
        writer: Writer,
        open_reader: Callable[[], apsw.Connection],
        archives: Sequence[Archive],
    ) -> None:
        self._writer = writer
        self._open_reader = open_reader
        self._archives = archives
        self._by_kind = {kind: archive for archive in archives for kind in archive.kinds}
        self.kinds = frozenset(self._by_kind)

    @asynccontextmanager
    async def snapshot(
        self, tenant_number: int, batch_count: int
    ) -> AsyncIterator[AsyncIterator[Sequence[Record]]]:
        # A connection of its own: an export may take minutes and the pool's are few.
        connection = await asyncio.to_thread(self._open_reader)
        try:
            connection.execute("BEGIN")
            records = itertools.chain.from_iterable(
                archive.records(connection, tenant_number) for archive in self._archives
            )
            yield _batches(records, batch_count)
        finally:
            await asyncio.to_thread(connection.close, True)

    async def store(self, tenant_number: int, records: Sequence[Record]) -> None:
        def work(connection: apsw.Connection) -> None:
            for record in records:
                try:
                    self._by_kind[record["kind"]].store(connection, tenant_number, record)
                except (KeyError, TypeError, AttributeError, apsw.ConstraintError, apsw.SQLError):
                    why = f"a {record['kind']} of the export does not fit"
                    raise Invalid(why, [FieldError("#", why)]) from None

        await self._writer.submit(work, is_long=True)


async def _batches(records: Iterator[Record], batch_count: int) -> AsyncIterator[list[Any]]:
    while batch := await asyncio.to_thread(_batch, records, batch_count):
        yield batch


def _batch(records: Iterator[Record], batch_count: int) -> list[Record]:
    batch: list[Record] = []
    size = 0
    for record in itertools.islice(records, batch_count):
        batch.append(record)
        size += size_of(record)
        if size >= BATCH_BYTES:
            break
    return batch
