"""Adapters in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import isawaitable
from typing import Any

from msgspec.structs import replace

from monolite.inference.adapters.engine import COLUMNS, Also, StoredAdapter, pieces_of
from monolite.storage.postgres.pool import Pool

NAMES = ", ".join(COLUMNS)
_SELECT = f"SELECT {NAMES} FROM adapters WHERE tenant_id = $1"  # noqa: S608
_INSERT = (
    f"INSERT INTO adapters (tenant_id, {NAMES}) VALUES "  # noqa: S608
    f"({', '.join(f'${at}' for at in range(1, len(COLUMNS) + 2))})"
)
_INSERT_PIECE = "INSERT INTO adapter_pieces VALUES ($1, $2, $3, $4)"


class PostgresAdapterEngine:
    """The scale-out AdapterEngine."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def get(self, tenant_id: int, name: str) -> StoredAdapter | None:
        return _value(await self._pool.fetchrow(_SELECT + " AND name = $2", tenant_id, name))

    async def active(self, tenant_id: int, model: str) -> StoredAdapter | None:
        return _value(
            await self._pool.fetchrow(_SELECT + " AND is_active AND model = $2", tenant_id, model)
        )

    async def all(self, tenant_id: int) -> Sequence[StoredAdapter]:
        rows = await self._pool.fetch(_SELECT + " ORDER BY name", tenant_id)
        return [StoredAdapter(*row) for row in rows]

    async def content(self, tenant_id: int, name: str, digest: str) -> bytes | None:
        rows = await self._pool.fetch(
            "SELECT data FROM adapter_pieces JOIN adapters USING (tenant_id, name)"
            " WHERE tenant_id = $1 AND name = $2 AND digest = $3 ORDER BY seq",
            *(tenant_id, name, digest),
        )
        return b"".join(row[0] for row in rows) or None

    async def put(
        self,
        tenant_id: int,
        adapter: StoredAdapter,
        content: bytes,
        count_max: int,
        also: Also = None,
    ) -> bool | None:
        async def work(connection: Any) -> bool | None:
            # One at a time: two uploads would both count what is there.
            await connection.execute(
                "SELECT 1 FROM tenants WHERE number = $1 FOR UPDATE", tenant_id
            )
            old = _value(
                await connection.fetchrow(_SELECT + " AND name = $2", tenant_id, adapter.name)
            )
            if old is None:
                count = await connection.fetchval(
                    "SELECT count(*) FROM adapters WHERE tenant_id = $1", tenant_id
                )
                if count >= count_max:
                    return None
            is_active = old is not None and old.is_active and old.model == adapter.model
            await _delete(connection, tenant_id, adapter.name)
            await insert(connection, tenant_id, replace(adapter, is_active=is_active))
            await connection.executemany(
                _INSERT_PIECE,
                [(tenant_id, adapter.name, *one) for one in enumerate(pieces_of(content))],
            )
            if also is not None and isawaitable(awaited := also(connection, old is None)):
                await awaited
            return old is None

        made: bool | None = await self._pool.transaction(work)
        return made

    async def delete(self, tenant_id: int, name: str) -> bool:
        async def work(connection: Any) -> bool:
            return await _delete(connection, tenant_id, name)

        gone: bool = await self._pool.transaction(work)
        return gone

    async def activate(self, tenant_id: int, name: str, model: str) -> bool:
        rows = await self._pool.fetch(
            "UPDATE adapters SET is_active = (name = $2) WHERE tenant_id = $1 AND model = $3"
            " AND EXISTS (SELECT 1 FROM adapters WHERE tenant_id = $1 AND name = $2) RETURNING 1",
            *(tenant_id, name, model),
        )
        return bool(rows)


async def insert(connection: Any, tenant_id: int, adapter: StoredAdapter) -> None:
    """Store one without its content."""
    await connection.execute(_INSERT, tenant_id, *(getattr(adapter, name) for name in COLUMNS))


async def insert_piece(connection: Any, tenant_id: int, name: str, seq: int, data: bytes) -> None:
    """Store a piece of its content."""
    await connection.execute(_INSERT_PIECE, tenant_id, name, seq, data)


async def _delete(connection: Any, tenant_id: int, name: str) -> bool:
    await connection.execute(
        "DELETE FROM adapter_pieces WHERE tenant_id = $1 AND name = $2", tenant_id, name
    )
    gone = await connection.fetchval(
        "DELETE FROM adapters WHERE tenant_id = $1 AND name = $2 RETURNING 1", tenant_id, name
    )
    return gone is not None


def _value(row: Any) -> StoredAdapter | None:
    return None if row is None else StoredAdapter(*row)
