"""Our SQLite engine in the benchmark's own process, and orders in it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench import orders
from monolite.clock import Identifiers, SystemClock
from monolite.documents.collection import Collection
from monolite.documents.document import Document
from monolite.documents.fields import FieldDefinition, checked_fields
from monolite.documents.filters import FilterParser, Group
from monolite.documents.sqlite import SqliteDocumentEngine
from monolite.documents.usage import Usage
from monolite.documents.validation import SchemaChecks
from monolite.preconditions import Precondition
from monolite.storage.sqlite.connection import open_reader, open_writer
from monolite.storage.sqlite.migrate import create_database
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.schema import shipped_schema
from monolite.storage.sqlite.writer import Writer

QUERY = (
    ("shipping_tier", f"gte.{orders.TIER_MIN}"),
    ("region", f"eq.{orders.REGION}"),
)
_BATCH_COUNT = 10_000
_clock = SystemClock()


class Embedded:
    """An engine with the writer it stands on."""

    def __init__(self, engine: SqliteDocumentEngine, writer: Writer) -> None:
        self.engine = engine
        self.writer = writer

    async def seed(self, tenants: int, each: int, block: int = 10) -> None:
        """Orders 0 to `each` of each tenant, interleaved; nothing of them is promoted."""

        def make(connection: Any) -> None:
            for tenant in range(1, tenants + 1):
                self.engine.restore_collection(
                    connection, tenant, orders.COLLECTION, ((), None), (), now_ms
                )

        now_ms = _clock.now_ms()
        await self.writer.submit(make, is_long=True)
        await self._store(orders.interleaved(tenants, each, block))

    async def store(self, tenant: int, count: int) -> None:
        """Orders 0 to `count` of one tenant whose collection is defined."""
        await self._store((tenant, n) for n in range(count))

    async def _store(self, rows: Iterator[tuple[int, int]]) -> None:
        def write(connection: Any, documents: Iterable[tuple[int, Document]]) -> None:
            for tenant, document in documents:
                self.engine.restore_document(connection, tenant, orders.COLLECTION, document)

        identifiers, now_ms = Identifiers(_clock), _clock.now_ms()
        while batch := list(itertools.islice(rows, _BATCH_COUNT)):
            documents = [
                (tenant, Document(identifiers.new(), orders.text(n), 1, now_ms, now_ms))
                for tenant, n in batch
            ]
            await self.writer.submit(partial(write, documents=documents), is_long=True)

    async def define(self, tenant: int, *indexed: str, only: Iterable[str] | None = None) -> None:
        """Promote region and shipping tier (or `only` some), those `indexed` with an index each."""
        definitions = {
            name: FieldDefinition(place["path"], place["type"], name in indexed)
            for name, place in orders.FIELDS.items()
            if only is None or name in only
        }
        await self.engine.define(
            tenant,
            orders.COLLECTION,
            (checked_fields(definitions), None),
            Precondition(),
            _clock.now_ms(),
        )

    async def index(self, tenant: int, *fields: str) -> None:
        """One index over several promoted fields."""
        name = "-".join(fields)
        await self.engine.create_index(
            tenant, orders.COLLECTION, name, fields, False, _clock.now_ms()
        )

    async def keep_up(self) -> None:
        """Finish all indexes that were begun."""
        while await self.engine.upkeep():
            pass

    async def collection(self, tenant: int) -> Collection:
        found = await self.engine.collection(tenant, orders.COLLECTION)
        assert found is not None  # it was seeded
        return found


def seeds_query(collection: Collection) -> Group:
    """The seed's query as the collection's filter."""
    return FilterParser(collection.fields).parse(QUERY)


@asynccontextmanager
async def opened(path: Path, usage: Usage | None = None) -> AsyncIterator[Embedded]:
    """The engine on the file at `path`, which is made when missing."""
    create_database(path, schema=shipped_schema(), now_ms=_clock.now_ms())
    loop = asyncio.get_running_loop()
    writer = Writer(
        lambda: open_writer(path, synchronous="normal", autocheckpoint=True),
        loop=loop,
        commit_on_loop=True,
    )
    writer.start()
    readers = Readers(lambda: open_reader(path), loop=loop)
    engine = SqliteDocumentEngine(
        writer,
        readers,
        validate=SchemaChecks(),
        usage=Usage() if usage is None else usage,
        now_ms=_clock.now_ms,
    )
    try:
        yield Embedded(engine, writer)
    finally:
        await writer.close()
        await readers.close()
