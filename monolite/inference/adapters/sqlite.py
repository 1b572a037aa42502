"""Adapters in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
from msgspec.structs import replace

from monolite.inference.adapters.engine import COLUMNS, Also, StoredAdapter, pieces_of
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer

NAMES = ", ".join(COLUMNS)
_SELECT = f"SELECT {NAMES} FROM adapters WHERE tenant_id = ?"  # noqa: S608
_INSERT = (
    f"INSERT OR REPLACE INTO adapters (tenant_id, {NAMES})"  # noqa: S608
    f" VALUES (?{', ?' * len(COLUMNS)})"
)
_DELETE_PIECES = "DELETE FROM adapter_pieces WHERE tenant_id = ? AND name = ?"


class SqliteAdapterEngine:
    """The embedded AdapterEngine."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def get(self, tenant_id: int, name: str) -> StoredAdapter | None:
        return _one(self._readers.inline, " AND name = ?", tenant_id, name)

    async def active(self, tenant_id: int, model: str) -> StoredAdapter | None:
        return _one(self._readers.inline, " AND is_active AND model = ?", tenant_id, model)

    async def all(self, tenant_id: int) -> Sequence[StoredAdapter]:
        rows = self._readers.inline.execute(_SELECT + " ORDER BY name", (tenant_id,))
        return [adapter_of(row) for row in rows]

    async def content(self, tenant_id: int, name: str, digest: str) -> bytes | None:
        def read(connection: apsw.Connection) -> bytes | None:
            rows: Any = connection.execute(
                "SELECT data FROM adapter_pieces JOIN adapters USING (tenant_id, name)"
                " WHERE tenant_id = ? AND name = ? AND digest = ? ORDER BY seq",
                (tenant_id, name, digest),
            )
            return b"".join(data for (data,) in rows) or None

        return await self._readers.run(read)

    async def put(
        self,
        tenant_id: int,
        adapter: StoredAdapter,
        content: bytes,
        count_max: int,
        also: Also = None,
    ) -> bool | None:
        def work(connection: apsw.Connection) -> bool | None:
            old = _one(connection, " AND name = ?", tenant_id, adapter.name)
            if old is None:
                count: int = connection.execute(
                    "SELECT count(*) FROM adapters WHERE tenant_id = ?", (tenant_id,)
                ).get
                if count >= count_max:
                    return None
            is_active = old is not None and old.is_active and old.model == adapter.model
            connection.execute(_DELETE_PIECES, (tenant_id, adapter.name))
            insert(connection, tenant_id, replace(adapter, is_active=is_active))
            connection.executemany(
                "INSERT INTO adapter_pieces VALUES (?, ?, ?, ?)",
                ((tenant_id, adapter.name, at, data) for at, data in enumerate(pieces_of(content))),
            )
            if also is not None:
                also(connection, old is None)
            return old is None

        return await self._writer.submit(work, is_long=True)

    async def delete(self, tenant_id: int, name: str) -> bool:
        def work(connection: apsw.Connection) -> bool:
            connection.execute(_DELETE_PIECES, (tenant_id, name))
            connection.execute(
                "DELETE FROM adapters WHERE tenant_id = ? AND name = ?", (tenant_id, name)
            )
            return connection.changes() > 0

        return await self._writer.submit(work, is_long=True)

    async def activate(self, tenant_id: int, name: str, model: str) -> bool:
        def work(connection: apsw.Connection) -> bool:
            connection.execute(
                "UPDATE adapters SET is_active = name = ?2 WHERE tenant_id = ?1 AND model = ?3"
                " AND EXISTS (SELECT 1 FROM adapters WHERE tenant_id = ?1 AND name = ?2)",
                (tenant_id, name, model),
            )
            return connection.changes() > 0

        return await self._writer.submit(work)


def adapter_of(row: Any) -> StoredAdapter:
    """A row as a value."""
    fields = dict(zip(COLUMNS, row, strict=True))
    return StoredAdapter(**{**fields, "is_active": bool(fields["is_active"])})


def insert(connection: apsw.Connection, tenant_id: int, adapter: StoredAdapter) -> None:
    """Store one without its content."""
    connection.execute(_INSERT, (tenant_id, *(getattr(adapter, name) for name in COLUMNS)))


def _one(
    connection: apsw.Connection, where: str, tenant_id: int, value: str
) -> StoredAdapter | None:
    row: Any = connection.execute(_SELECT + where, (tenant_id, value)).fetchone()
    return None if row is None else adapter_of(row)
