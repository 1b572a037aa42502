"""Documents in PostgreSQL, as jsonb: a row each, their history beside it; several servers share it.

channel monolite_documents     TENANT.COLLECTION   something in it was committed

A write tells others a few milliseconds after its commit, many at once: NOTIFY inside the write's
own transaction would make every commit of the database wait for the one before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import asyncpg

from monolite.documents.access import is_served
from monolite.documents.collection import (
    Change,
    Collection,
    Definition,
    Explanation,
    Index,
    UsageReport,
)
from monolite.documents.counting import count_query
from monolite.documents.document import Document
from monolite.documents.engine import Also, AlsoDelete, AlsoIndex, AlsoPut, Validate
from monolite.documents.filters import Group
from monolite.documents.postgres_catalog import Catalog, Entry, insert_collection
from monolite.documents.postgres_changes import (
    EXPIRED_AT_ONCE,
    changes_after,
    expire_changes,
    keep_version,
    newest,
    place,
)
from monolite.documents.postgres_definitions import create_index, define, drop_index, hide
from monolite.documents.postgres_query import (
    Statement,
    count_statement,
    explained,
    find_statement,
    found,
)
from monolite.documents.postgres_rows import (
    PATCH,
    PUT,
    SHOWN,
    alone,
    changed_fields,
    etag_of,
    lock_row,
    refusing,
    store,
)
from monolite.documents.postgres_upkeep import work_a_slice
from monolite.documents.postgres_usage import read_usage, tenant_usage, write_usage
from monolite.documents.query import Found, Query
from monolite.documents.slow import too_slow
from monolite.documents.usage import Key, Usage
from monolite.documents.watchers import Watchers
from monolite.errors import DomainError, Invalid, NotFound
from monolite.preconditions import Precondition
from monolite.storage.errors import ReadDeadline
from monolite.storage.postgres.companion import accompanied, accompany
from monolite.storage.postgres.notifications import Notifications
from monolite.storage.postgres.pool import Pool

CHANNEL = "monolite_documents"

# Children before what they reference: the order in which a tenant's rows are deleted.
TENANT_TABLES = (
    "document_changes",
    "document_usage",
    "document_indexes",
    "documents",
    "collections",
)

T = TypeVar("T")

_TELL_AFTER_S = 0.005
_WAITING_AGAIN_S = 0.02
_GET = (
    f"SELECT {SHOWN} FROM documents WHERE tenant_id = $1 AND collection_id ="
    " (SELECT id FROM collections WHERE tenant_id = $1 AND name = $2 AND deleted_at IS NULL)"
    " AND id = $3"
)
_COLLECTIONS = (
    "SELECT name FROM collections WHERE tenant_id = $1 AND name > $2 AND deleted_at IS NULL"
    " ORDER BY name LIMIT $3"
)
_LOCK_COLLECTION = (
    "SELECT id FROM collections WHERE tenant_id = $1 AND name = $2 AND deleted_at IS NULL"
    " FOR UPDATE"
)


class PostgresDocumentEngine:
    """The DocumentEngine that several servers share. `deadline_s` ends a query that reads much."""

    def __init__(
        self,
        pool: Pool,
        notifications: Notifications,
        *,
        validate: Validate,
        usage: Usage,
        now_ms: Callable[[], int],
        deadline_s: float = 5.0,
        changes_retention_s: float = 7 * 86_400,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._validate = validate
        self._usage = usage
        self._now_ms = now_ms
        self._deadline_s = deadline_s
        self._changes_retention_s = changes_retention_s
        self._monotonic = monotonic
        self._catalog = Catalog()
        self._touched: set[tuple[int, int]] = set()
        self._telling: asyncio.Task[None] | None = None
        self._watchers = Watchers()
        self.work_waits = asyncio.Event()
        notifications.listen(CHANNEL, self._heard, self._watchers.tell_all)

    # ── Documents ──────────────────────────────────────────────────────────────────────────────

    async def insert(
        self, tenant_id: int, collection: str, document: Document, also: Also = None
    ) -> Document:
        async def work(connection: Any) -> Document:
            await self._insert(connection, tenant_id, collection, document)
            return document

        if also is not None:
            return await self._change(tenant_id, collection, work, also)
        # By itself a statement is a transaction, without the round trips of one.
        await self._insert(self._pool, tenant_id, collection, document)
        return document

    async def insert_many(
        self, tenant_id: int, collection: str, documents: Sequence[Document]
    ) -> Sequence[Exception | None]:
        outcomes: list[Exception | None] = [None] * len(documents)
        entry = await self._entry_to_write(tenant_id, collection, documents[0].created_at)
        fitting: list[Document] = []
        for at, document in enumerate(documents):
            try:
                self._check(entry, document.data)
                fitting.append(document)
            except DomainError as error:
                outcomes[at] = error
        try:
            if fitting:
                await self._insert_all(tenant_id, collection, entry, fitting)
            return outcomes
        except DomainError:
            # One of them is to blame; each by itself tells which.
            for at, document in enumerate(documents):
                if outcomes[at] is None:
                    try:
                        await self.insert(tenant_id, collection, document)
                    except DomainError as error:
                        outcomes[at] = error
            return outcomes

    async def put(
        self,
        tenant_id: int,
        collection: str,
        document: Document,
        precondition: Precondition,
        also: AlsoPut = None,
    ) -> tuple[Document, bool]:
        async def work(connection: Any) -> tuple[Document, bool]:
            await alone(connection, tenant_id, collection, document.id)
            while True:
                entry = await self._catalog.read(connection, tenant_id, collection)
                row = None
                if entry is not None:
                    number = entry.collection.number
                    row = await lock_row(connection, tenant_id, number, document.id)
                precondition.check(None if row is None else etag_of(document.id, row))
                if entry is None or row is None:
                    try:
                        async with connection.transaction():
                            await self._insert(connection, tenant_id, collection, document)
                    except asyncpg.UniqueViolationError:
                        continue
                    return document, True
                values = (document.data, document.updated_at)
                return await self._update(connection, entry, tenant_id, row, PUT, *values), False

        return await self._change(tenant_id, collection, work, also)

    async def patch(
        self,
        tenant_id: int,
        collection: str,
        document_id: str,
        merge_patch: str,
        precondition: Precondition,
        now_ms: int,
        also: Also = None,
    ) -> Document:
        async def work(connection: Any) -> Document:
            entry, row = await self._existing(
                connection, tenant_id, collection, document_id, precondition
            )
            return await self._update(connection, entry, tenant_id, row, PATCH, merge_patch, now_ms)

        return await self._change(tenant_id, collection, work, also)

    async def delete(
        self,
        tenant_id: int,
        collection: str,
        document_id: str,
        precondition: Precondition,
        now_ms: int,
        also: AlsoDelete = None,
    ) -> bool:
        async def work(connection: Any) -> bool:
            await alone(connection, tenant_id, collection, document_id)
            try:
                entry, row = await self._existing(
                    connection, tenant_id, collection, document_id, precondition
                )
            except NotFound:
                return False
            place_of = (tenant_id, entry.collection.number, row["key"])
            await keep_version(connection, *place_of, deleted_ms=now_ms)
            await connection.execute(
                "DELETE FROM documents WHERE tenant_id = $1 AND collection_id = $2 AND key = $3",
                *place_of,
            )
            await accompany(also, connection, document_id)
            return True

        return await self._change(tenant_id, collection, work)

    async def get(self, tenant_id: int, collection: str, document_id: str) -> Document | None:
        row = await self._pool.fetchrow(_GET, tenant_id, collection, document_id)
        return None if row is None else Document(*row)

    # ── Queries ────────────────────────────────────────────────────────────────────────────────

    async def find(self, tenant_id: int, collection: Collection, query: Query) -> Found:
        entry = await self._entry(tenant_id, collection)
        rows = await self._run(tenant_id, entry, find_statement(entry, tenant_id, query), query)
        return found(rows, query)

    async def count(self, tenant_id: int, collection: Collection, where: Group) -> int:
        entry = await self._entry(tenant_id, collection)
        statement = count_statement(entry, tenant_id, where)
        ((count,),) = await self._run(tenant_id, entry, statement, Query(where))
        return int(count)

    async def explain(self, tenant_id: int, collection: Collection, query: Query) -> Explanation:
        entry = await self._entry(tenant_id, collection)
        statement = find_statement(entry, tenant_id, query)
        rows = await self._pool.fetch("EXPLAIN " + statement.text, *statement.parameters)
        return explained(entry, statement, [str(row[0]) for row in rows])

    async def _run(
        self, tenant_id: int, entry: Entry, statement: Statement, query: Query
    ) -> Sequence[Any]:
        started = self._monotonic()
        try:
            rows: Sequence[Any] = await self._pool.fetch(
                statement.text, *statement.parameters, deadline_s=self._deadline_s
            )
        except ReadDeadline:
            if not query.where.members and not query.order:
                raise
            raise too_slow(query) from None
        finally:
            count_query(
                self._usage,
                tenant_id,
                entry.collection.number,
                query,
                self._now_ms(),
                self._monotonic() - started,
                is_served=is_served(entry.collection.indexes, query),
            )
        return rows

    # ── Collections and indexes ────────────────────────────────────────────────────────────────

    async def collection(self, tenant_id: int, name: str) -> Collection | None:
        entry = await self._catalog.read(self._pool, tenant_id, name)
        return None if entry is None else entry.collection

    async def collections(
        self, tenant_id: int, after: str | None, limit: int
    ) -> Sequence[Collection]:
        rows = await self._pool.fetch(_COLLECTIONS, tenant_id, after or "", limit)
        entries = [await self._catalog.read(self._pool, tenant_id, name) for (name,) in rows]
        return [entry.collection for entry in entries if entry is not None]

    async def define(
        self,
        tenant_id: int,
        name: str,
        definition: Definition,
        precondition: Precondition,
        now_ms: int,
    ) -> tuple[Collection, bool]:
        async def work(connection: Any) -> tuple[Collection, bool]:
            while True:
                entry = await self._locked(connection, tenant_id, name)
                precondition.check(None if entry is None else entry.collection.etag)
                if entry is not None:
                    number: int | None = entry.collection.number
                else:
                    number = await insert_collection(connection, tenant_id, name, "[]", now_ms)
                if number is None:
                    continue
                made = await define(connection, entry, number, tenant_id, definition, now_ms)
                return made.collection, entry is None

        collection, is_new = await self._pool.transaction(work)
        self._catalog.forget(tenant_id, name)
        self.work_waits.set()
        return collection, is_new

    async def delete_collection(self, tenant_id: int, name: str, now_ms: int) -> bool:
        async def work(connection: Any) -> bool:
            entry = await self._locked(connection, tenant_id, name)
            if entry is None:
                return False
            await hide(connection, tenant_id, entry.collection.number, now_ms)
            self._touch(tenant_id, entry.collection.number)
            return True

        existed = await self._change(tenant_id, name, work)
        self._catalog.forget(tenant_id, name)
        self.work_waits.set()
        return existed

    async def create_index(
        self,
        tenant_id: int,
        collection: str,
        name: str,
        fields: tuple[str, ...],
        tenant_only: bool,
        now_ms: int,
        also: AlsoIndex = None,
    ) -> Index:
        async def work(connection: Any) -> Index:
            entry = await self._locked(connection, tenant_id, collection)
            if entry is None:
                raise NotFound("There is no such collection.")
            index = await create_index(
                connection, entry, tenant_id, name, fields, tenant_only, now_ms
            )
            await accompany(also, connection, index)
            return index

        index = await self._pool.transaction(work)
        self.work_waits.set()
        return index

    async def drop_index(self, tenant_id: int, collection: str, name: str) -> bool:
        async def work(connection: Any) -> bool:
            entry = await self._locked(connection, tenant_id, collection)
            if entry is None:
                raise NotFound("There is no such collection.")
            return await drop_index(connection, entry, tenant_id, name)

        existed = await self._pool.transaction(work)
        self.work_waits.set()
        return existed

    async def usage(self, tenant_id: int, collection: str) -> UsageReport | None:
        await self.flush_usage()
        async with self._pool.connection() as connection:
            entry = await self._catalog.read(connection, tenant_id, collection)
            return None if entry is None else await read_usage(connection, entry, tenant_id)

    async def tenant_usage(self, tenant_numbers: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Documents and bytes of each tenant that has any."""
        return await tenant_usage(self._pool, tenant_numbers)

    async def flush_usage(self) -> None:
        """Write down what was counted since the last time."""
        counts = self._usage.take()
        if counts:
            try:
                await self._pool.transaction(lambda connection: write_usage(connection, counts))
            except Exception:
                self._usage.give_back(counts)
                raise

    async def upkeep(self) -> bool:
        """Build, drop or remove the first thing that waits; whether more is left."""
        return await work_a_slice(self._pool)

    async def expire_changes(self) -> None:
        """Drop what is older than the retention from the change logs."""
        before_ms = self._now_ms() - int(self._changes_retention_s * 1000)
        while True:
            count = await self._pool.transaction(lambda c: expire_changes(c, before_ms))
            if count < EXPIRED_AT_ONCE:
                return

    # ── Changes ────────────────────────────────────────────────────────────────────────────────

    async def last_change(self, tenant_id: int, collection: Collection) -> str:
        return await newest(self._pool)

    async def changes(
        self, tenant_id: int, collection: Collection, after: str, limit: int
    ) -> Sequence[Change]:
        at = place(after)
        async with self._pool.connection() as connection:
            changes, waits = await changes_after(
                connection, tenant_id, collection.number, at, limit
            )
        if waits:
            loop = asyncio.get_running_loop()
            loop.call_later(_WAITING_AGAIN_S, self._watchers.tell, tenant_id, collection.number)
        return changes

    @contextmanager
    def watch(self, tenant_id: int, collection: Collection) -> Iterator[asyncio.Event]:
        with self._watchers.watch(tenant_id, collection.number) as event:
            yield event

    def _touch(self, tenant_id: int, number: int) -> None:
        self._touched.add((tenant_id, number))
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        """Tell every server, this one too, what was committed; Watchers look by themselves where
        that fails.
        """
        while self._touched:
            await asyncio.sleep(_TELL_AFTER_S)
            touched, self._touched = self._touched, set()
            for key in touched:
                self._watchers.tell(*key)
            payloads = [f"{tenant_id}.{number}" for tenant_id, number in touched]
            await self._pool.fetch(
                "SELECT pg_notify($1, payload) FROM unnest($2::text[]) payload", CHANNEL, payloads
            )

    def _heard(self, payload: str) -> None:
        tenant_id, _, number = payload.partition(".")
        if tenant_id.isdigit() and number.isdigit():
            self._watchers.tell(int(tenant_id), int(number))

    # ── Import ─────────────────────────────────────────────────────────────────────────────────

    async def restore_collection(
        self,
        connection: Any,
        tenant_id: int,
        name: str,
        definition: Definition,
        indexes: Sequence[tuple[str, tuple[str, ...], bool]],
        created_at: int,
    ) -> None:
        """Make an exported collection again, in the caller's transaction."""
        number = await insert_collection(connection, tenant_id, name, "[]", created_at)
        if number is None:
            raise KeyError(name)
        await define(connection, None, number, tenant_id, definition, created_at)
        for index_name, fields, tenant_only in indexes:
            entry = await self._locked(connection, tenant_id, name)
            assert entry is not None  # it was just made
            await create_index(
                connection, entry, tenant_id, index_name, fields, tenant_only, created_at
            )
        self.work_waits.set()

    async def restore_document(
        self, connection: Any, tenant_id: int, collection: str, document: Document
    ) -> None:
        """Store an exported document as it was; KeyError where its collection isn't there."""
        entry = await self._catalog.read(connection, tenant_id, collection)
        if entry is None:
            raise KeyError(collection)
        await store(connection, tenant_id, entry, [document])

    # ── Inside the transaction ─────────────────────────────────────────────────────────────────

    async def _change(
        self, tenant_id: int, collection: str, work: Callable[[Any], Awaitable[T]], also: Any = None
    ) -> T:
        result: T = await refusing(self._pool.transaction(accompanied(work, also)))
        entry = self._catalog.known(tenant_id, collection)
        if entry is not None:
            self._touch(tenant_id, entry.collection.number)
        return result

    async def _insert(
        self, connection: Any, tenant_id: int, collection: str, document: Document
    ) -> None:
        while True:
            entry = await self._entry_to_write(
                tenant_id, collection, document.created_at, connection
            )
            self._check(entry, document.data)
            if await refusing(store(connection, tenant_id, entry, [document])):
                break
            self._catalog.forget(tenant_id, collection)
        self._inserted(tenant_id, entry, document.updated_at, 1)

    async def _insert_all(
        self, tenant_id: int, collection: str, entry: Entry, documents: Sequence[Document]
    ) -> None:
        if not await refusing(store(self._pool, tenant_id, entry, documents)):
            # Its definition changed meanwhile: each is checked against the new one.
            self._catalog.forget(tenant_id, collection)
            raise Invalid("The collection was defined anew.")
        self._inserted(tenant_id, entry, documents[0].updated_at, len(documents))

    def _inserted(self, tenant_id: int, entry: Entry, now_ms: int, count: int) -> None:
        self._touch(tenant_id, entry.collection.number)
        if entry.collection.fields:
            key = Key(tenant_id, entry.collection.number, "write", "*")
            for _ in range(count):
                self._usage.add(key, now_ms)

    async def _update(
        self,
        connection: Any,
        entry: Entry,
        tenant_id: int,
        row: Any,
        statement: str,
        text: str,
        now_ms: int,
    ) -> Document:
        collection = entry.collection
        place_of = (tenant_id, collection.number, row["key"])
        await keep_version(connection, *place_of)
        document = Document(*await connection.fetchrow(statement, *place_of, text, now_ms))
        self._check(entry, document.data)
        for name in changed_fields(collection, row["data"], document.data):
            self._usage.add(Key(tenant_id, collection.number, "write", name), now_ms)
        return document

    async def _existing(
        self,
        connection: Any,
        tenant_id: int,
        collection: str,
        document_id: str,
        precondition: Precondition,
    ) -> tuple[Entry, Any]:
        entry = await self._catalog.read(connection, tenant_id, collection)
        row = None
        if entry is not None:
            row = await lock_row(connection, tenant_id, entry.collection.number, document_id)
        if entry is None or row is None:
            raise NotFound("There is no such document.")
        precondition.check(etag_of(document_id, row))
        return entry, row

    async def _locked(self, connection: Any, tenant_id: int, name: str) -> Entry | None:
        """A collection's definition, which nobody changes until the transaction ends."""
        if await connection.fetchval(_LOCK_COLLECTION, tenant_id, name) is None:
            return None
        return await self._catalog.read(connection, tenant_id, name)

    async def _entry(self, tenant_id: int, collection: Collection) -> Entry:
        entry = self._catalog.known(tenant_id, collection.name)
        if entry is None or entry.collection.version != collection.version:
            entry = await self._catalog.read(self._pool, tenant_id, collection.name)
        if entry is None:
            raise NotFound("There is no such collection.")
        return entry

    async def _entry_to_write(
        self, tenant_id: int, name: str, now_ms: int, connection: Any = None
    ) -> Entry:
        """What is known of a collection, which is made where there is none."""
        entry = self._catalog.known(tenant_id, name)
        while entry is None:
            source = connection or self._pool
            entry = await self._catalog.read(source, tenant_id, name)
            if entry is None:
                await insert_collection(source, tenant_id, name, "[]", now_ms)
        return entry

    def _check(self, entry: Entry, data: str) -> None:
        if entry.collection.schema is not None:
            self._validate(entry.collection, data)
