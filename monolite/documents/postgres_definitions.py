"""Collections' definitions in PostgreSQL: fields, schema, and which indexes there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import msgspec

from monolite.documents.collection import INDEXES_MAX, Definition, Index
from monolite.documents.definitions import (
    TENANT_INDEXES_MAX,
    index_changes,
    name_taken,
    too_many_indexes,
    too_many_tenant_indexes,
    without_index,
)
from monolite.documents.fields import Field
from monolite.documents.postgres_catalog import Entry, load
from monolite.documents.postgres_columns import add_columns, columns_of
from monolite.documents.postgres_filters import column_value
from monolite.errors import Conflict

SHARED_INDEXES_MAX = 64
"""Different shapes of an installation's indexes: every insert writes to every one of them."""


async def define(
    connection: Any,
    entry: Entry | None,
    number: int,
    tenant_id: int,
    definition: Definition,
    now_ms: int,
) -> Entry:
    """Replace the definition of a collection whose row the transaction has locked or made."""
    fields, schema = definition
    old = () if entry is None else entry.collection.fields
    indexes = () if entry is None else entry.collection.indexes
    await add_columns(connection, fields)
    await connection.execute(
        "UPDATE collections SET fields = $3, schema = $4, version = version + 1, updated_at = $5"
        " WHERE tenant_id = $1 AND id = $2",
        tenant_id,
        number,
        msgspec.json.encode(fields).decode(),
        schema,
        now_ms,
    )
    changes = index_changes(old, fields, indexes, now_ms)
    for index in changes.dropped:
        await _drop(connection, tenant_id, index)
    columns = await columns_of(connection, fields)
    for index in changes.added:
        await _add(connection, tenant_id, number, index, fields, columns)
    await _check_count(connection, tenant_id, number)
    made = await load(connection, tenant_id, number)
    assert made is not None  # its row is locked
    return made


async def create_index(
    connection: Any,
    entry: Entry,
    tenant_id: int,
    name: str,
    fields: tuple[str, ...],
    tenant_only: bool,
    now_ms: int,
) -> Index:
    """An index asked for by itself, over a collection whose row the transaction has locked."""
    collection = entry.collection
    if any(index.name == name for index in collection.indexes):
        raise name_taken(name)
    if tenant_only:
        count = await connection.fetchval(
            "SELECT count(*) FROM built_indexes WHERE tenant_id IS NOT NULL AND state <> 'dropping'"
        )
        if count >= TENANT_INDEXES_MAX:
            raise too_many_tenant_indexes()
    wish = Index(0, name, fields, tenant_only, False, "building", now_ms)
    await _add(connection, tenant_id, collection.number, wish, collection.fields, entry.columns)
    await _check_count(connection, tenant_id, collection.number)
    await touch(connection, tenant_id, collection.number)
    made = await load(connection, tenant_id, collection.number)
    assert made is not None  # its row is locked
    return next(index for index in made.collection.indexes if index.name == name)


async def drop_index(connection: Any, entry: Entry, tenant_id: int, name: str) -> bool:
    """Drop an index; a declared one stays off until the field is defined with `index` again."""
    collection = entry.collection
    index = next((index for index in collection.indexes if index.name == name), None)
    if index is None:
        return False
    await _drop(connection, tenant_id, index)
    if index.declared:
        await connection.execute(
            "UPDATE collections SET fields = $3 WHERE tenant_id = $1 AND id = $2",
            tenant_id,
            collection.number,
            msgspec.json.encode(without_index(collection.fields, name)).decode(),
        )
    await touch(connection, tenant_id, collection.number)
    return True


async def touch(connection: Any, tenant_id: int, number: int) -> None:
    """Something of its definition changed: whoever knows it loads it again."""
    await connection.execute(
        "UPDATE collections SET version = version + 1 WHERE tenant_id = $1 AND id = $2",
        tenant_id,
        number,
    )


async def hide(connection: Any, tenant_id: int, number: int, now_ms: int) -> None:
    """Take a collection from its readers; its rows go in slices."""
    await connection.execute(
        "UPDATE collections SET deleted_at = $3, fields = '[]', version = version + 1"
        " WHERE tenant_id = $1 AND id = $2",
        tenant_id,
        number,
        now_ms,
    )
    await connection.execute(
        "DELETE FROM document_indexes WHERE tenant_id = $1 AND collection_id = $2",
        tenant_id,
        number,
    )


async def _add(
    connection: Any,
    tenant_id: int,
    number: int,
    index: Index,
    fields: Sequence[Field],
    columns: Mapping[str, str],
) -> None:
    by_name = {field.name: field for field in fields}
    shape = msgspec.json.encode(
        [column_value(name, by_name, columns) for name in index.fields]
    ).decode()
    own = (tenant_id, number) if index.tenant_only else (None, None)
    built = await connection.fetchval(
        "INSERT INTO built_indexes (shape, tenant_id, collection_id, state)"
        " VALUES ($1, $2, $3, 'building') ON CONFLICT (shape, tenant_id, collection_id) DO UPDATE"
        " SET state = CASE built_indexes.state WHEN 'dropping' THEN 'building'"
        " ELSE built_indexes.state END RETURNING number",
        shape,
        *own,
    )
    shared = await connection.fetchval(
        "SELECT count(*) FROM built_indexes WHERE tenant_id IS NULL AND state <> 'dropping'"
    )
    if shared > SHARED_INDEXES_MAX:
        raise Conflict(
            f"This installation has {SHARED_INDEXES_MAX} different indexes, the most it takes; use"
            " fields, types and orders that others use already, or filter by the JSON path.",
            code="too_many_promoted_fields",
        )
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO document_indexes (tenant_id, collection_id, name, fields, tenant_only,"
                " declared, built, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                tenant_id,
                number,
                index.name,
                msgspec.json.encode(index.fields).decode(),
                index.tenant_only,
                index.declared,
                built,
                index.created_at,
            )
    except asyncpg.UniqueViolationError:
        raise name_taken(index.name) from None


async def _drop(connection: Any, tenant_id: int, index: Index) -> None:
    await connection.execute(
        "DELETE FROM document_indexes WHERE tenant_id = $1 AND id = $2", tenant_id, index.id
    )


async def _check_count(connection: Any, tenant_id: int, number: int) -> None:
    count = await connection.fetchval(
        "SELECT count(*) FROM document_indexes WHERE tenant_id = $1 AND collection_id = $2",
        tenant_id,
        number,
    )
    if count > INDEXES_MAX:
        raise too_many_indexes()
