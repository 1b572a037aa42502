"""Documents in SQLite, as JSONB: a row each, their index entries and their history beside it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import apsw

from monolite.documents.changes import changes_expired, position
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
from monolite.documents.query import Found, Query
from monolite.documents.slow import too_slow
from monolite.documents.sqlite_catalog import Catalog, Entry, insert_collection
from monolite.documents.sqlite_changes import changes_after, expire_changes, keep_version
from monolite.documents.sqlite_definitions import create_index, define, drop_index, hide
from monolite.documents.sqlite_index_entries import add_entries, change_entries, entries_of
from monolite.documents.sqlite_plan import (
    Statement,
    count_statement,
    find_statement,
)
from monolite.documents.sqlite_upkeep import is_work_left, work_a_slice
from monolite.documents.sqlite_usage import read_usage, write_usage
from monolite.documents.usage import Key, Usage
from monolite.documents.watchers import Watchers
from monolite.errors import DomainError, Malformed, NotFound
from monolite.preconditions import Precondition
from monolite.storage.errors import ReadDeadline
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer

# Children before what they reference: the order in which a tenant's rows are deleted.
TENANT_TABLES = (
    "document_index_entries",
    "document_changes",
    "document_usage",
    "document_indexes",
    "documents",
    "collections",
)

T = TypeVar("T")

_SHOWN = "id, json(data), revision, created_at, updated_at"
_GET = (
    f"SELECT {_SHOWN} FROM documents WHERE tenant_id = ?1 AND collection_id ="
    " (SELECT id FROM collections WHERE tenant_id = ?1 AND name = ?2 AND deleted_at IS NULL)"
    " AND id = ?3"
)
_VERSION = (
    "SELECT key, revision, updated_at FROM documents WHERE tenant_id = ? AND collection_id = ?"
    " AND id = ?"
)
_INSERT = (
    "INSERT INTO documents (tenant_id, collection_id, id, data, revision, seq, created_at,"
    " updated_at) VALUES (?, ?, ?, jsonb(?), ?, ?, ?, ?)"
)
_UPDATE = (
    "UPDATE documents SET data = jsonb(?2), revision = revision + 1, seq = ?3, updated_at = ?4"
    f" WHERE key = ?1 RETURNING {_SHOWN}"
)
_PATCH = (
    "UPDATE documents SET data = jsonb_patch(data, ?2), revision = revision + 1, seq = ?3,"
    f" updated_at = ?4 WHERE key = ?1 RETURNING {_SHOWN}"
)
_COLLECTIONS = (
    "SELECT name FROM collections WHERE tenant_id = ? AND name > ? AND deleted_at IS NULL"
    " ORDER BY name LIMIT ?"
)


class SqliteDocumentEngine:
    """The embedded DocumentEngine. `deadline_s` ends a query that reads too much."""

    def __init__(
        self,
        writer: Writer,
        readers: Readers,
        *,
        validate: Validate,
        usage: Usage,
        now_ms: Callable[[], int],
        deadline_s: float = 5.0,
        changes_retention_s: float = 7 * 86_400,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._readers = readers
        self._validate = validate
        self._usage = usage
        self._now_ms = now_ms
        self._deadline_s = deadline_s
        self._changes_retention_s = changes_retention_s
        self._monotonic = monotonic
        self._writing = Catalog()
        self._reading = Catalog()
        self._touched: set[tuple[int, int]] = set()
        self._watchers = Watchers(looks_again=False)
        self.work_waits = asyncio.Event()
        writer.on_commit.append(self._tell)
        writer.on_failure.append(self._writing.forget_all)

    # ── Documents ──────────────────────────────────────────────────────────────────────────────

    def insert(
        self, tenant_id: int, collection: str, document: Document, also: Also = None
    ) -> Awaitable[Document]:
        def work(connection: apsw.Connection) -> Document:
            try:
                self._insert(connection, tenant_id, collection, document)
                if also is not None:
                    also(connection, document)
            except BaseException:
                self._writing.forget(tenant_id, collection)
                raise
            return document

        entry = self._writing.known(tenant_id, collection)
        is_atomic = also is None and entry is not None and entry.entries_sql is None
        return self._writer.submit(work, is_atomic=is_atomic)

    async def insert_many(
        self, tenant_id: int, collection: str, documents: Sequence[Document]
    ) -> Sequence[Exception | None]:
        def work(connection: apsw.Connection) -> Sequence[Exception | None]:
            outcomes: list[Exception | None] = []
            for document in documents:
                try:
                    self._insert(connection, tenant_id, collection, document)
                    outcomes.append(None)
                except DomainError as error:
                    outcomes.append(error)
            return outcomes

        return await self._change(tenant_id, collection, work, is_long=True)

    async def put(
        self,
        tenant_id: int,
        collection: str,
        document: Document,
        precondition: Precondition,
        also: AlsoPut = None,
    ) -> tuple[Document, bool]:
        def work(connection: apsw.Connection) -> tuple[Document, bool]:
            entry = self._writing.current(connection, tenant_id, collection)
            version = None if entry is None else _version(connection, entry, tenant_id, document.id)
            precondition.check(None if version is None else version[1])
            if entry is None or version is None:
                self._insert(connection, tenant_id, collection, document)
                return document, True
            values = (document.data, document.updated_at)
            return self._update(connection, entry, tenant_id, version[0], _UPDATE, *values), False

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
        def work(connection: apsw.Connection) -> Document:
            entry, key = self._existing(
                connection, tenant_id, collection, document_id, precondition
            )
            return self._update(connection, entry, tenant_id, key, _PATCH, merge_patch, now_ms)

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
        place = (tenant_id, collection, document_id)

        def work(connection: apsw.Connection) -> bool:
            try:
                entry, key = self._existing(connection, *place, precondition)
            except NotFound:
                return False
            before = entries_of(connection, entry, tenant_id, key)
            entry.seq += 1
            keep_version(connection, key, deleted=(entry.seq, now_ms))
            change_entries(connection, before, [])
            connection.execute("DELETE FROM documents WHERE key = ?", (key,))
            self._touched.add((tenant_id, entry.collection.number))
            if also is not None:
                also(connection, document_id)
            return True

        return await self._change(tenant_id, collection, work)

    async def get(self, tenant_id: int, collection: str, document_id: str) -> Document | None:
        row = self._readers.inline.execute(_GET, (tenant_id, collection, document_id)).fetchone()
        return None if row is None else Document(*row)

    # ── Queries ────────────────────────────────────────────────────────────────────────────────

    async def find(self, tenant_id: int, collection: Collection, query: Query) -> Found:
        entry = self._entry(tenant_id, collection)
        statement = find_statement(self._readers.inline, entry, tenant_id, query)
        rows = await self._run(tenant_id, entry, statement, query)
        more = len(rows) > query.limit
        documents = [Document(*row[1:6]) for row in rows[: query.limit]]
        if not more:
            return Found(documents, None)
        last = rows[query.limit - 1]
        keys = [None if value == b"" else value for value in last[6:]]
        return Found(documents, [*keys, last[0]])

    async def count(self, tenant_id: int, collection: Collection, where: Group) -> int:
        entry = self._entry(tenant_id, collection)
        statement = count_statement(self._readers.inline, entry, tenant_id, where)
        ((count,),) = await self._run(tenant_id, entry, statement, Query(where))
        return int(count)

    async def explain(self, tenant_id: int, collection: Collection, query: Query) -> Explanation:
        entry = self._entry(tenant_id, collection)
        statement = find_statement(self._readers.inline, entry, tenant_id, query)
        plan = self._readers.inline.execute(
            "EXPLAIN QUERY PLAN " + statement.text, statement.parameters
        )
        return Explanation(
            engine="sqlite",
            index=None if statement.access.index is None else statement.access.index.name,
            parses_json_per_row=statement.parses_json,
            plan=tuple(str(row[3]) for row in plan),
            statement=statement.text,
        )

    async def _run(
        self, tenant_id: int, entry: Entry, statement: Statement, query: Query
    ) -> list[tuple[Any, ...]]:
        def read(connection: apsw.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(statement.text, statement.parameters).fetchall()

        started = self._monotonic()
        rows = self._readers.briefly(read) if statement.may_be_brief else None
        if rows is None:
            try:
                rows = await self._readers.run(read, deadline_s=self._deadline_s)
            except ReadDeadline:
                if not query.where.members and not query.order:
                    raise
                self._count(tenant_id, entry, statement, query, self._monotonic() - started)
                raise too_slow(query, statement.access.sought) from None
        self._count(tenant_id, entry, statement, query, self._monotonic() - started)
        return rows

    def _count(
        self, tenant_id: int, entry: Entry, statement: Statement, query: Query, elapsed_s: float
    ) -> None:
        number, now_ms, index = entry.collection.number, self._now_ms(), statement.access.index
        if index is not None:
            self._usage.add(Key(tenant_id, number, "index", str(index.id)), now_ms)
        is_served = not statement.parses_json and (index is not None or not query.order)
        count_query(self._usage, tenant_id, number, query, now_ms, elapsed_s, is_served=is_served)

    # ── Collections and indexes ────────────────────────────────────────────────────────────────

    async def collection(self, tenant_id: int, name: str) -> Collection | None:
        entry = self._reading.read(self._readers.inline, tenant_id, name)
        return None if entry is None else entry.collection

    async def collections(
        self, tenant_id: int, after: str | None, limit: int
    ) -> Sequence[Collection]:
        connection = self._readers.inline
        found = connection.execute(_COLLECTIONS, (tenant_id, after or "", limit))
        names = [str(name) for (name,) in found.fetchall()]
        entries = [self._reading.read(connection, tenant_id, name) for name in names]
        return [entry.collection for entry in entries if entry is not None]

    async def define(
        self,
        tenant_id: int,
        name: str,
        definition: Definition,
        precondition: Precondition,
        now_ms: int,
    ) -> tuple[Collection, bool]:
        def work(connection: apsw.Connection) -> tuple[Collection, bool]:
            entry = self._writing.current(connection, tenant_id, name)
            precondition.check(None if entry is None else entry.collection.etag)
            self._writing.forget(tenant_id, name)
            return define(connection, entry, tenant_id, name, definition, now_ms)

        collection, is_new = await self._change(tenant_id, name, work, is_long=True)
        self.work_waits.set()
        return collection, is_new

    async def delete_collection(self, tenant_id: int, name: str, now_ms: int) -> bool:
        def work(connection: apsw.Connection) -> bool:
            entry = self._writing.current(connection, tenant_id, name)
            if entry is None:
                return False
            self._writing.forget(tenant_id, name)
            hide(connection, tenant_id, entry.collection.number, now_ms)
            self._touched.add((tenant_id, entry.collection.number))
            return True

        existed = await self._change(tenant_id, name, work)
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
        def work(connection: apsw.Connection) -> Index:
            entry = self._defined(connection, tenant_id, collection)
            self._writing.forget(tenant_id, collection)
            index = create_index(connection, entry, tenant_id, name, fields, tenant_only, now_ms)
            if also is not None:
                also(connection, index)
            return index

        index = await self._change(tenant_id, collection, work, is_long=True)
        self.work_waits.set()
        return index

    async def drop_index(self, tenant_id: int, collection: str, name: str) -> bool:
        def work(connection: apsw.Connection) -> bool:
            entry = self._defined(connection, tenant_id, collection)
            self._writing.forget(tenant_id, collection)
            return drop_index(connection, entry, tenant_id, name)

        existed = await self._change(tenant_id, collection, work)
        self.work_waits.set()
        return existed

    async def usage(self, tenant_id: int, collection: str) -> UsageReport | None:
        await self.flush_usage()

        def read(connection: apsw.Connection) -> UsageReport | None:
            entry = Catalog().read(connection, tenant_id, collection)
            return None if entry is None else read_usage(connection, entry, tenant_id)

        return await self._readers.run(read, deadline_s=30.0)

    async def flush_usage(self) -> None:
        """Write down what was counted since the last time."""
        counts = self._usage.take()
        if counts:
            try:
                await self._writer.submit(lambda connection: write_usage(connection, counts))
            except Exception:
                self._usage.give_back(counts)
                raise

    async def upkeep(self) -> bool:
        """Do a slice of the work that waits: building, dropping, removing; whether more is left.

        A slice holds the writer for about ten milliseconds.
        """
        if not is_work_left(self._readers.inline):
            return False

        def work(connection: apsw.Connection) -> bool:
            finished = work_a_slice(connection, self._monotonic)
            for tenant_id, name in finished:
                self._writing.forget(tenant_id, name)
            return True

        return await self._writer.submit(work, is_long=True)

    async def expire_changes(self) -> None:
        """Drop what is older than the retention from the change logs."""
        before_ms = self._now_ms() - int(self._changes_retention_s * 1000)
        at: tuple[int, int] | None = (0, 0)
        while at is not None:
            work = partial(expire_changes, after=at, before_ms=before_ms)
            at = await self._writer.submit(work, is_long=True)

    # ── Changes ────────────────────────────────────────────────────────────────────────────────

    async def last_change(self, tenant_id: int, collection: Collection) -> str:
        (row,) = self._readers.inline.execute(
            "SELECT max((SELECT ifnull(max(seq), 0) FROM documents WHERE tenant_id = ?1 AND"
            " collection_id = ?2), (SELECT ifnull(max(seq), 0) FROM document_changes WHERE"
            " tenant_id = ?1 AND collection_id = ?2))",
            (tenant_id, collection.number),
        )
        return str(row[0])

    async def changes(
        self, tenant_id: int, collection: Collection, after: str, limit: int
    ) -> Sequence[Change]:
        number = position(after)
        found = changes_after(self._readers.inline, tenant_id, collection.number, number, limit)
        if found is None or (
            not found and number > int(await self.last_change(tenant_id, collection))
        ):
            raise changes_expired()
        return found

    @contextmanager
    def watch(self, tenant_id: int, collection: Collection) -> Iterator[asyncio.Event]:
        with self._watchers.watch(tenant_id, collection.number) as event:
            yield event

    def _tell(self, _: int) -> None:
        self._watchers.tell_of(self._touched)
        self._touched.clear()

    # ── Import ─────────────────────────────────────────────────────────────────────────────────

    def restore_collection(
        self,
        connection: apsw.Connection,
        tenant_id: int,
        name: str,
        definition: Definition,
        indexes: Sequence[tuple[str, tuple[str, ...], bool]],
        created_at: int,
    ) -> None:
        """Make an exported collection again, in the caller's transaction."""
        define(connection, None, tenant_id, name, definition, created_at)
        for index_name, fields, tenant_only in indexes:
            entry = self._defined(connection, tenant_id, name)
            self._writing.forget(tenant_id, name)
            create_index(connection, entry, tenant_id, index_name, fields, tenant_only, created_at)
        self._writing.forget(tenant_id, name)

    def restore_document(
        self, connection: apsw.Connection, tenant_id: int, collection: str, document: Document
    ) -> None:
        """Store an exported document as it was; KeyError where its collection isn't there."""
        if self._writing.current(connection, tenant_id, collection) is None:
            raise KeyError(collection)
        self._insert(connection, tenant_id, collection, document, is_checked=False)

    # ── Inside the transaction ─────────────────────────────────────────────────────────────────

    async def _change(
        self,
        tenant_id: int,
        collection: str,
        work: Callable[[apsw.Connection], T],
        also: Callable[[Any, T], object] | None = None,
        *,
        is_long: bool = False,
    ) -> T:
        def guarded(connection: apsw.Connection) -> T:
            try:
                result = work(connection)
                if also is not None:
                    also(connection, result)
                return result
            except BaseException:
                self._writing.forget(tenant_id, collection)
                raise

        return await self._writer.submit(guarded, is_long=is_long)

    def _insert(
        self,
        connection: apsw.Connection,
        tenant_id: int,
        collection: str,
        document: Document,
        *,
        is_checked: bool = True,
    ) -> None:
        entry = self._writing.current(connection, tenant_id, collection)
        if entry is None:
            insert_collection(connection, tenant_id, collection, "[]", document.created_at)
            entry = self._writing.current(connection, tenant_id, collection)
            assert entry is not None  # it was just made
        definition = entry.collection
        if is_checked and definition.schema is not None:
            self._validate(definition, document.data)
        seq = entry.seq = entry.seq + 1
        _json(
            connection,
            _INSERT,
            (
                tenant_id,
                definition.number,
                document.id,
                document.data,
                document.revision,
                seq,
                document.created_at,
                document.updated_at,
            ),
        )
        self._touched.add((tenant_id, definition.number))
        if definition.fields:
            if entry.entries_sql is not None:
                add_entries(connection, entry, tenant_id, connection.last_insert_rowid())
            self._usage.add(Key(tenant_id, definition.number, "write", "*"), document.updated_at)

    def _update(
        self,
        connection: apsw.Connection,
        entry: Entry,
        tenant_id: int,
        key: int,
        statement: str,
        text: str,
        now_ms: int,
    ) -> Document:
        before = entries_of(connection, entry, tenant_id, key)
        keep_version(connection, key)
        entry.seq += 1
        (row,) = _json(connection, statement, (key, text, entry.seq, now_ms))
        document = Document(*row)
        collection = entry.collection
        if collection.schema is not None:
            self._validate(collection, document.data)
        self._touched.add((tenant_id, collection.number))
        if before:
            after = entries_of(connection, entry, tenant_id, key)
            changed = change_entries(connection, before, after)
            for name in {name for i in entry.indexes if i.id in changed for name in i.fields}:
                self._usage.add(Key(tenant_id, collection.number, "write", name), now_ms)
        return document

    def _existing(
        self,
        connection: apsw.Connection,
        tenant_id: int,
        collection: str,
        document_id: str,
        precondition: Precondition,
    ) -> tuple[Entry, int]:
        entry = self._writing.current(connection, tenant_id, collection)
        version = None if entry is None else _version(connection, entry, tenant_id, document_id)
        if entry is None or version is None:
            raise NotFound("There is no such document.")
        precondition.check(version[1])
        return entry, version[0]

    def _defined(self, connection: apsw.Connection, tenant_id: int, collection: str) -> Entry:
        entry = self._writing.current(connection, tenant_id, collection)
        if entry is None:
            raise NotFound("There is no such collection.")
        return entry

    def _entry(self, tenant_id: int, collection: Collection) -> Entry:
        entry = self._reading.read(self._readers.inline, tenant_id, collection.name)
        if entry is None:
            raise NotFound("There is no such collection.")
        return entry


def _version(
    connection: apsw.Connection, entry: Entry, tenant_id: int, document_id: str
) -> tuple[int, str] | None:
    """A document's key and its ETag."""
    row = connection.execute(_VERSION, (tenant_id, entry.collection.number, document_id)).fetchone()
    if row is None:
        return None
    key, revision, updated_at = row
    return key, Document(document_id, "", revision, 0, updated_at).etag


def _json(
    connection: apsw.Connection, statement: str, values: tuple[Any, ...]
) -> list[tuple[Any, ...]]:
    try:
        return connection.execute(statement, values).fetchall()
    except apsw.SQLError as error:
        # SQLite's parser has a limit on depth, 1000, that a merge patch can reach step by step.
        if "malformed JSON" in str(error):
            raise Malformed("The document is not JSON, or is nested over 1000 deep.") from None
        raise
