"""Work on many documents in PostgreSQL: building and dropping indexes, removing collections.

One server at a time does it, under an advisory lock. Indexes are built CONCURRENTLY, so writers
never wait; what a killed server left half built is marked invalid, and built anew.
"""

from __future__ import annotations

import logging
from typing import Any

import asyncpg
import msgspec

from monolite.documents.postgres_columns import drop_unused_columns
from monolite.storage.postgres.pool import Pool

log = logging.getLogger("monolite.documents")

ROWS_AT_ONCE = 1000
_LOCK = 0x6D6E6475
_WAITING = (
    "SELECT EXISTS (SELECT FROM built_indexes WHERE state <> 'ready')"
    " OR EXISTS (SELECT FROM built_indexes b WHERE NOT EXISTS"
    " (SELECT FROM document_indexes i WHERE i.built = b.number))"
    " OR EXISTS (SELECT FROM collections WHERE deleted_at IS NOT NULL)"
    " OR EXISTS (SELECT FROM promoted_columns WHERE (path, kind) NOT IN (SELECT f ->> 'path',"
    " f ->> 'kind' FROM collections, jsonb_array_elements(fields::jsonb) f))"
)


def index_name(number: int) -> str:
    """What an index is called in PostgreSQL."""
    return f"documents_x{number}"


async def work_a_slice(pool: Pool) -> bool:
    """Work on the first thing that waits; whether more is left for this server."""
    if not await pool.fetchval(_WAITING):
        return False
    async with pool.dedicated() as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
            return False
        return await _work(connection)


async def _work(connection: Any) -> bool:
    row = await connection.fetchrow(
        "SELECT number, shape, tenant_id, collection_id FROM built_indexes b"
        " WHERE state = 'building' AND EXISTS (SELECT FROM document_indexes i"
        " WHERE i.built = b.number) ORDER BY error IS NOT NULL, number LIMIT 1"
    )
    if row is not None:
        return await _build(connection, *row)
    number = await connection.fetchval(
        "UPDATE built_indexes SET state = 'dropping' WHERE number = (SELECT number FROM"
        " built_indexes b WHERE NOT EXISTS (SELECT FROM document_indexes i WHERE"
        " i.built = b.number) ORDER BY number LIMIT 1 FOR UPDATE) RETURNING number"
    )
    if number is not None:
        await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index_name(number)}")
        await connection.execute(
            "DELETE FROM built_indexes b WHERE number = $1 AND state = 'dropping' AND NOT EXISTS"
            " (SELECT FROM document_indexes i WHERE i.built = b.number)",
            number,
        )
        return True
    row = await connection.fetchrow(
        "SELECT tenant_id, id FROM collections WHERE deleted_at IS NOT NULL ORDER BY id LIMIT 1"
    )
    if row is not None:
        await _remove_some(connection, *row)
        return True
    return await drop_unused_columns(connection) > 0


async def _build(
    connection: Any, number: int, shape: str, tenant_id: int | None, collection_id: int | None
) -> bool:
    name = index_name(number)
    is_valid = await connection.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", name
    )
    if is_valid is False:
        await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    values = ", ".join(msgspec.json.decode(shape, type=list[str]))
    if tenant_id is None:
        what = f"(tenant_id, collection_id, {values}, key)"
    else:
        what = (
            f"({values}, key) WHERE tenant_id = {tenant_id:d} AND collection_id = {collection_id:d}"
        )
    try:
        await connection.execute(
            f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON documents {what}"
        )
        # Else the planner knows nothing of an expression's values.
        await connection.execute("ANALYZE documents")
    except asyncpg.PostgresError as error:
        log.warning("the index %s was not built, and is tried again: %s", name, error)
        await connection.execute(
            "UPDATE built_indexes SET error = $2 WHERE number = $1", number, str(error)
        )
        return False
    async with connection.transaction():
        await connection.execute(
            "UPDATE built_indexes SET state = 'ready', error = NULL WHERE number = $1"
            " AND state = 'building'",
            number,
        )
        await connection.execute(
            "UPDATE collections SET version = version + 1 WHERE (tenant_id, id) IN"
            " (SELECT tenant_id, collection_id FROM document_indexes WHERE built = $1)",
            number,
        )
    return True


async def _remove_some(connection: Any, tenant_id: int, number: int) -> None:
    """Remove some rows of a deleted collection, and it with the last."""
    async with connection.transaction():
        for table, key in (("documents", "key"), ("document_changes", "xid, seq")):
            done = await connection.execute(
                f"DELETE FROM {table} WHERE tenant_id = $1 AND collection_id = $2 AND ({key}) IN"
                f" (SELECT {key} FROM {table} WHERE tenant_id = $1 AND collection_id = $2"
                f" LIMIT {ROWS_AT_ONCE})",
                tenant_id,
                number,
            )
            if done != "DELETE 0":
                return
        for table in ("document_usage", "document_indexes"):
            await connection.execute(
                f"DELETE FROM {table} WHERE tenant_id = $1 AND collection_id = $2",
                tenant_id,
                number,
            )
        await connection.execute(
            "DELETE FROM collections WHERE tenant_id = $1 AND id = $2", tenant_id, number
        )
