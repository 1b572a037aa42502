"""Indexes and documents in PostgreSQL's tables, inside the transaction of whoever writes or reads.

Whoever writes into an index holds its row, so writers of one index take turns, and its counts are
those of its documents.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import asyncpg
import msgspec

from monolite.errors import Conflict, Invalid, NotFound
from monolite.search.index import Entry, Index, Source, Stored, wrong_dimensions

REMOVED_AT_ONCE = 500

COLUMNS = "id, name, model, dimensions, source, position, version, created_at, updated_at"
_BY_NAME = (
    f"SELECT {COLUMNS} FROM search_indexes WHERE tenant_id = $1 AND name = $2"
    " AND deleted_at IS NULL"
)
_BY_NUMBER = (
    f"SELECT {COLUMNS} FROM search_indexes WHERE tenant_id = $1 AND id = $2"
    " AND deleted_at IS NULL FOR UPDATE"
)
STORED = (
    "SELECT d.id, d.text, d.metadata::text, v.vector::real[], d.tokens, d.truncated, d.updated_at"
    " FROM search_documents d JOIN search_vectors v USING (key)"
    " WHERE d.tenant_id = $1 AND d.index_id = $2"
)


# ── Indexes ────────────────────────────────────────────────────────────────────────────────────


async def find(connection: Any, tenant_id: int, name: str) -> Index | None:
    """A tenant's index by name; `connection` may be the pool."""
    row = await connection.fetchrow(_BY_NAME, tenant_id, name)
    return None if row is None else index_of(row)


async def locked(connection: Any, tenant_id: int, name: str) -> Index | None:
    """The index, which nobody else writes to until the transaction ends."""
    row = await connection.fetchrow(f"{_BY_NAME} FOR UPDATE", tenant_id, name)
    return None if row is None else index_of(row)


async def locked_number(connection: Any, tenant_id: int, number: int) -> Index | None:
    """As `locked`, by number; None where it was deleted."""
    row = await connection.fetchrow(_BY_NUMBER, tenant_id, number)
    return None if row is None else index_of(row)


async def opened(connection: Any, tenant_id: int, name: str, model: str, now_ms: int) -> Index:
    """The index, made where there is none, and locked."""
    while True:
        index = await locked(connection, tenant_id, name)
        if index is not None:
            return index
        await create(connection, tenant_id, name, model, None, now_ms)


async def create(
    connection: Any,
    tenant_id: int,
    name: str,
    model: str,
    source: Source | None,
    created_at: int,
    updated_at: int | None = None,
) -> bool:
    """Make an index; False where there is one. Raises NotFound for a tenant that was deleted."""
    try:
        made = await connection.fetchval(
            "INSERT INTO search_indexes (tenant_id, name, model, source, created_at, updated_at)"
            " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant_id, name)"
            " WHERE deleted_at IS NULL DO NOTHING RETURNING id",
            *(tenant_id, name, model),
            None if source is None else msgspec.json.encode(source).decode(),
            *(created_at, updated_at or created_at),
        )
    except asyncpg.ForeignKeyViolationError:
        raise NotFound("The tenant has just been deleted.") from None
    return made is not None


async def define(
    connection: Any, tenant_id: int, name: str, model: str, source: Source | None, now_ms: int
) -> tuple[Index, bool]:
    """Make an index, or change one that holds nothing of its own. Raises Conflict."""
    is_new = await create(connection, tenant_id, name, model, source, now_ms)
    index = await locked(connection, tenant_id, name)
    if index is None:
        # It was deleted between the two.
        return await define(connection, tenant_id, name, model, source, now_ms)
    if is_new or (index.model, index.source) == (model, source):
        return index, is_new
    if index.source is None and await connection.fetchval(
        "SELECT documents > 0 FROM search_indexes WHERE id = $1", index.number
    ):
        raise Conflict(
            f"Documents lie in {name}, which has the model {index.model}: delete it to make it"
            " anew with another model or source.",
            code="index_not_empty",
        )
    await delete(connection, tenant_id, name, now_ms)
    await create(connection, tenant_id, name, model, source, index.created_at, now_ms)
    made = await locked(connection, tenant_id, name)
    assert made is not None
    return made, False


async def renew(connection: Any, tenant_id: int, index: Index, now_ms: int) -> None:
    """Put an empty index in place of one, unless that is gone."""
    if await locked_number(connection, tenant_id, index.number) is not None:
        await delete(connection, tenant_id, index.name, now_ms)
        await create(
            *(connection, tenant_id, index.name, index.model, index.source),
            *(index.created_at, now_ms),
        )


async def delete(connection: Any, tenant_id: int, name: str, now_ms: int) -> bool:
    """Hide an index from every reader; False where there is none."""
    gone = await connection.fetchval(
        "UPDATE search_indexes SET deleted_at = $3 WHERE tenant_id = $1 AND name = $2"
        " AND deleted_at IS NULL RETURNING id",
        *(tenant_id, name, now_ms),
    )
    return gone is not None


def index_of(row: Any) -> Index:
    """An index from its row."""
    number, name, model, dimensions, source, position, version, created, updated = row[:9]
    return Index(
        number=number,
        name=name,
        model=model,
        dimensions=dimensions,
        source=None if source is None else msgspec.json.decode(source, type=Source),
        position=position,
        version=version,
        created_at=created,
        updated_at=updated,
    )


# ── Documents ──────────────────────────────────────────────────────────────────────────────────


async def store(
    connection: Any,
    tenant_id: int,
    index: Index,
    entries: Sequence[Entry],
    removed: Sequence[str],
    vector_type: str,
    now_ms: int,
) -> int:
    """Put documents in place of those with their ids, and remove others; returns how many went.

    The index is locked. Raises Invalid (`wrong_dimensions`).
    """
    dimensions = index.dimensions or (len(entries[0].vector) // 4 if entries else None)
    for number, entry in enumerate(entries):
        if dimensions is not None and len(entry.vector) != 4 * dimensions:
            raise wrong_dimensions(entry, number, dimensions)
    gone = await connection.fetch(
        "DELETE FROM search_documents WHERE tenant_id = $1 AND index_id = $2"
        " AND id = ANY ($3::text[]) RETURNING length, id",
        *(tenant_id, index.number, [entry.id for entry in entries] + list(removed)),
    )
    if not entries and not gone:
        return 0
    lengths = [sum(entry.words.values()) for entry in entries]
    keys = await connection.fetch(
        "SELECT nextval(pg_get_serial_sequence('search_documents', 'key'))"
        " FROM generate_series(1, $1)",
        len(entries),
    )
    try:
        await connection.executemany(
            "INSERT INTO search_documents (key, tenant_id, index_id, id, tokens, truncated,"
            " updated_at, length, words, counts, metadata, text) VALUES ($1, $2, $3, $4, $5, $6,"
            " $7, $8, $9, $10, $11::text::jsonb, $12)",
            [
                (
                    *(key, tenant_id, index.number, entry.id, entry.tokens, entry.truncated),
                    *(now_ms, length, [f"{index.number}_{word}" for word in entry.words]),
                    *(list(entry.words.values()), entry.metadata),
                    None if entry.text is None else entry.text.encode(),
                )
                for (key,), entry, length in zip(keys, entries, lengths, strict=True)
            ],
        )
    except asyncpg.DataError as error:
        raise Invalid(f"PostgreSQL can't hold a value of the metadata: {error}.") from None
    await connection.executemany(
        "INSERT INTO search_vectors (key, index_id, vector)"
        f" VALUES ($1, $2, $3::real[]::{vector_type})",
        [
            (key, index.number, floats(entry.vector))
            for (key,), entry in zip(keys, entries, strict=True)
        ],
    )
    await connection.execute(
        "UPDATE search_indexes SET dimensions = $2, documents = documents + $3,"
        " worded = worded + $4, words = words + $5, version = version + 1, updated_at = $6"
        " WHERE id = $1",
        *(index.number, dimensions, len(entries) - len(gone)),
        sum(length > 0 for length in lengths) - sum(length > 0 for length, _ in gone),
        sum(lengths) - sum(length for length, _ in gone),
        now_ms,
    )
    return len(gone)


async def remove_some(connection: Any, number: int) -> bool:
    """Remove some documents of an index that was deleted; whether there may be more."""
    done = await connection.execute(
        "DELETE FROM search_documents WHERE key IN (SELECT d.key FROM search_documents d"
        " JOIN search_indexes i ON i.tenant_id = d.tenant_id AND i.id = d.index_id"
        f" WHERE i.id = $1 LIMIT {REMOVED_AT_ONCE})",
        number,
    )
    return bool(done == f"DELETE {REMOVED_AT_ONCE}")


def stored_of(row: Any) -> Stored:
    """A document from a row of STORED."""
    document_id, text, metadata, vector, tokens, truncated, updated_at = row
    return Stored(
        document_id,
        None if text is None else text.decode(),
        metadata,
        struct.pack(f"<{len(vector)}f", *vector),
        *(tokens, truncated, updated_at),
    )


def floats(vector: bytes) -> tuple[float, ...]:
    """A stored vector's numbers."""
    return struct.unpack(f"<{len(vector) // 4}f", vector)
