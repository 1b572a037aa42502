"""Documents in SQLite, as JSONB."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from typing import Any

import apsw
import msgspec

from monolite.documents.document import Collection, Document
from monolite.documents.engine import Also
from monolite.errors import Malformed, NotFound
from monolite.preconditions import Precondition
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer

# Children before what they reference: the order in which a tenant's rows are deleted.
TENANT_TABLES = ("documents", "collections")

_COLUMNS = "d.id, json(d.data), d.revision, d.created_at, d.updated_at"
_GET = (
    f"SELECT {_COLUMNS} FROM documents d WHERE d.tenant_id = ?1 AND d.collection_id ="  # noqa: S608
    " (SELECT id FROM collections WHERE tenant_id = ?1 AND name = ?2) AND d.id = ?3"
)
_PAGE = (
    f"SELECT {_COLUMNS} FROM documents d WHERE d.tenant_id = ? AND d.collection_id = ?"  # noqa: S608
    " AND d.id > ? ORDER BY d.id LIMIT ?"
)
_COLLECTION = "SELECT id FROM collections WHERE tenant_id = ? AND name = ?"
# The collection is found by the insert itself: a look-up of its own is a third of the write.
_INSERT = (
    "INSERT INTO documents (tenant_id, collection_id, id, data, revision, created_at, updated_at)"
    " SELECT ?1, id, ?3, jsonb(?4), ?5, ?6, ?7 FROM collections WHERE tenant_id = ?1 AND name = ?2"
)
_UPDATE = (
    "UPDATE documents SET data = jsonb(?4), revision = revision + 1, updated_at = ?5"
    " WHERE tenant_id = ?1 AND collection_id = ?2 AND id = ?3"
    " RETURNING id, json(data), revision, created_at, updated_at"
)
_PATCH = (
    "UPDATE documents SET data = jsonb_patch(data, ?4), revision = revision + 1, updated_at = ?5"
    " WHERE tenant_id = ?1 AND collection_id = ?2 AND id = ?3"
    " RETURNING id, json(data), revision, created_at, updated_at"
)


class SqliteDocumentEngine:
    """The embedded DocumentEngine."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    def insert(
        self, tenant_id: int, collection: str, document: Document, also: Also = None
    ) -> Awaitable[Document]:
        def work(connection: apsw.Connection) -> Document:
            _insert(connection, tenant_id, collection, document)
            if also is not None:
                also(connection, document)
            return document

        return self._writer.submit(work)

    async def put(
        self, tenant_id: int, collection: str, document: Document, precondition: Precondition
    ) -> tuple[Document, bool]:
        def work(connection: apsw.Connection) -> tuple[Document, bool]:
            existing = _get(connection, tenant_id, collection, document.id)
            precondition.check(None if existing is None else existing.etag)
            if existing is None:
                _insert(connection, tenant_id, collection, document)
                return document, True
            collection_id = _collection(connection, tenant_id, collection)
            return _changed(
                connection,
                _UPDATE,
                (tenant_id, collection_id, document.id, document.data, document.updated_at),
            ), False

        return await self._writer.submit(work)

    async def patch(
        self,
        tenant_id: int,
        collection: str,
        document_id: str,
        merge_patch: str,
        precondition: Precondition,
        now_ms: int,
    ) -> Document:
        def work(connection: apsw.Connection) -> Document:
            existing = _get(connection, tenant_id, collection, document_id)
            if existing is None:
                raise NotFound("There is no such document.")
            precondition.check(existing.etag)
            collection_id = _collection(connection, tenant_id, collection)
            return _changed(
                connection, _PATCH, (tenant_id, collection_id, document_id, merge_patch, now_ms)
            )

        return await self._writer.submit(work)

    async def delete(
        self, tenant_id: int, collection: str, document_id: str, precondition: Precondition
    ) -> bool:
        def work(connection: apsw.Connection) -> bool:
            existing = _get(connection, tenant_id, collection, document_id)
            if existing is None:
                return False
            precondition.check(existing.etag)
            connection.execute(
                "DELETE FROM documents WHERE tenant_id = ? AND collection_id = ? AND id = ?",
                (tenant_id, _collection(connection, tenant_id, collection), document_id),
            )
            return True

        return await self._writer.submit(work)

    async def get(self, tenant_id: int, collection: str, document_id: str) -> Document | None:
        return _get(self._readers.inline, tenant_id, collection, document_id)

    async def page(
        self, tenant_id: int, collection: str, after: str | None, limit: int
    ) -> Sequence[Document] | None:
        def read(connection: apsw.Connection) -> Sequence[Document] | None:
            collection_id = _collection(connection, tenant_id, collection)
            if collection_id is None:
                return None
            rows = connection.execute(_PAGE, (tenant_id, collection_id, after or "", limit))
            return [Document(*row) for row in rows]

        return await self._readers.run(read)

    async def collections(
        self, tenant_id: int, after: str | None, limit: int
    ) -> Sequence[Collection]:
        def read(connection: apsw.Connection) -> Sequence[Collection]:
            rows = connection.execute(
                "SELECT name, created_at FROM collections WHERE tenant_id = ? AND name > ?"
                " ORDER BY name LIMIT ?",
                (tenant_id, after or "", limit),
            )
            return [Collection(*row) for row in rows]

        return await self._readers.run(read)


class SqliteDocumentArchive:
    """A tenant's documents as records, out of one installation and into another."""

    kinds: tuple[str, ...] = ("collection", "document")

    def records(self, connection: apsw.Connection, tenant_id: int) -> Iterator[dict[str, Any]]:
        """Every collection and document, in one snapshot of the reader's connection."""
        names = {}
        for number, name, created_at in connection.execute(
            "SELECT id, name, created_at FROM collections WHERE tenant_id = ? ORDER BY id",
            (tenant_id,),
        ):
            names[number] = name
            yield {"kind": "collection", "name": name, "created_at": created_at}
        for number, document_id, data, revision, created_at, updated_at in connection.execute(
            "SELECT collection_id, id, json(data), revision, created_at, updated_at FROM documents"
            " WHERE tenant_id = ? ORDER BY collection_id, id",
            (tenant_id,),
        ):
            yield {
                "kind": "document",
                "collection": names[number],
                "id": document_id,
                "data": msgspec.Raw(data.encode()),
                "revision": revision,
                "created_at": created_at,
                "updated_at": updated_at,
            }

    def store(self, connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError or apsw.Error where it is not one of ours."""
        if record["kind"] == "collection":
            connection.execute(
                "INSERT INTO collections (tenant_id, name, created_at) VALUES (?, ?, ?)",
                (tenant_id, record["name"], record["created_at"]),
            )
            return
        data = bytes(record["data"]).decode()
        times = (record["created_at"], record["updated_at"])
        connection.execute(
            _INSERT,
            (tenant_id, record["collection"], record["id"], data, record["revision"], *times),
        )
        if not connection.changes():
            raise KeyError(record["collection"])


def _get(
    connection: apsw.Connection, tenant_id: int, collection: str, document_id: str
) -> Document | None:
    row = connection.execute(_GET, (tenant_id, collection, document_id)).fetchone()
    return None if row is None else Document(*row)


def _collection(connection: apsw.Connection, tenant_id: int, name: str) -> int | None:
    row = connection.execute(_COLLECTION, (tenant_id, name)).fetchone()
    return None if row is None else row[0]


def _insert(
    connection: apsw.Connection, tenant_id: int, collection: str, document: Document
) -> None:
    values = (
        tenant_id,
        collection,
        document.id,
        document.data,
        document.revision,
        document.created_at,
        document.updated_at,
    )
    _json(connection, _INSERT, values)
    if not connection.changes():
        connection.execute(
            "INSERT INTO collections (tenant_id, name, created_at) VALUES (?, ?, ?)",
            (tenant_id, collection, document.created_at),
        )
        _json(connection, _INSERT, values)


def _changed(connection: apsw.Connection, statement: str, values: tuple[Any, ...]) -> Document:
    (row,) = _json(connection, statement, values)
    return Document(*row)


def _json(
    connection: apsw.Connection, statement: str, values: tuple[Any, ...]
) -> list[tuple[Any, ...]]:
    try:
        return connection.execute(statement, values).fetchall()
    except apsw.SQLError as error:
        # SQLite's parser also has a limit on depth, 1000, that the body's decoder has not.
        if "malformed JSON" in str(error):
            raise Malformed("The body is not JSON, or is nested over 1000 deep.") from None
        raise
