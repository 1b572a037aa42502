"""Indexes and documents in SQLite's tables, inside the transaction of whoever writes or reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

import apsw
import msgspec

from monolite.errors import Conflict
from monolite.search import sqlite_words
from monolite.search.index import Entry, Hit, Index, Source, Stored, wrong_dimensions

REMOVED_AT_ONCE = 500

_INDEX = "id, name, model, dimensions, source, position, version, created_at, updated_at, tenant_id"
_BY_NAME = f"SELECT {_INDEX} FROM search_indexes WHERE tenant_id = ? AND name = ?" + (
    " AND deleted_at IS NULL"
)
_AFTER = (
    f"SELECT {_INDEX} FROM search_indexes WHERE tenant_id = ? AND name > ? AND deleted_at IS NULL"
    " ORDER BY name LIMIT ?"
)
_FOLLOWING = f"SELECT {_INDEX} FROM search_indexes WHERE source IS NOT NULL AND deleted_at IS NULL"
_STORED = (
    "SELECT id, text, json(metadata), vector, tokens, truncated, updated_at"
    " FROM search_documents JOIN search_vectors USING (key) WHERE tenant_id = ? AND index_id = ?"
)


# ── Indexes ────────────────────────────────────────────────────────────────────────────────────


def find(connection: apsw.Connection, tenant_id: int, name: str) -> Index | None:
    """A tenant's index by name."""
    row = connection.execute(_BY_NAME, (tenant_id, name)).fetchone()
    return None if row is None else _index(row)


def find_number(connection: apsw.Connection, tenant_id: int, number: int) -> Index | None:
    """A tenant's index by its number; None where it was deleted."""
    row = connection.execute(
        f"SELECT {_INDEX} FROM search_indexes WHERE id = ? AND tenant_id = ?"
        " AND deleted_at IS NULL",
        (number, tenant_id),
    ).fetchone()
    return None if row is None else _index(row)


def find_after(
    connection: apsw.Connection, tenant_id: int, name: str, limit: int
) -> Sequence[Index]:
    """A tenant's indexes beyond a name, by name."""
    return [_index(row) for row in connection.execute(_AFTER, (tenant_id, name, limit))]


def find_following(connection: apsw.Connection) -> Sequence[tuple[int, Index]]:
    """Every index with a source, with its tenant."""
    rows: Any = connection.execute(_FOLLOWING)
    return [(row[-1], _index(row)) for row in rows]


def version_of(connection: apsw.Connection, number: int) -> int | None:
    """How often an index was written; None where it is gone."""
    row: Any = connection.execute(
        "SELECT version FROM search_indexes WHERE id = ? AND deleted_at IS NULL", (number,)
    ).fetchone()
    return None if row is None else row[0]


def create(
    connection: apsw.Connection,
    tenant_id: int,
    name: str,
    model: str,
    source: Source | None,
    created_at: int,
    updated_at: int | None = None,
) -> Index:
    """Make an index. Times are milliseconds."""
    connection.execute(
        "INSERT INTO search_indexes (tenant_id, name, model, source, stamp, version, created_at,"
        " updated_at) VALUES (?, ?, ?, ?, ?, 0, ?, ?)",
        (
            *(tenant_id, name, model, _source_text(source), os.urandom(16)),
            *(created_at, updated_at or created_at),
        ),
    )
    return cast(Index, find(connection, tenant_id, name))


def define(
    connection: apsw.Connection,
    tenant_id: int,
    name: str,
    model: str,
    source: Source | None,
    now_ms: int,
) -> tuple[Index, bool]:
    """Make an index, or change one that holds nothing of its own. Raises Conflict."""
    index = find(connection, tenant_id, name)
    if index is None:
        return create(connection, tenant_id, name, model, source, now_ms), True
    if (index.model, index.source) == (model, source):
        return index, False
    if index.source is None and _holds_any(connection, tenant_id, index.number):
        raise Conflict(
            f"Documents lie in {name}, which has the model {index.model}: delete it to make it"
            " anew with another model or source.",
            code="index_not_empty",
        )
    # Another in its place: what follows and what is mapped know the old one by its number.
    delete(connection, tenant_id, name, now_ms)
    return create(connection, tenant_id, name, model, source, index.created_at, now_ms), False


def renew(connection: apsw.Connection, tenant_id: int, index: Index, now_ms: int) -> None:
    """Put an empty index in place of one, unless that is gone."""
    if find_number(connection, tenant_id, index.number) is not None:
        delete(connection, tenant_id, index.name, now_ms)
        create(
            *(connection, tenant_id, index.name, index.model, index.source),
            *(index.created_at, now_ms),
        )


def delete(connection: apsw.Connection, tenant_id: int, name: str, now_ms: int) -> bool:
    """Hide an index from every reader; False where there is none."""
    connection.execute(
        "UPDATE search_indexes SET deleted_at = ? WHERE tenant_id = ? AND name = ?"
        " AND deleted_at IS NULL",
        (now_ms, tenant_id, name),
    )
    return connection.changes() > 0


def touch(connection: apsw.Connection, number: int, now_ms: int) -> None:
    """Count a write."""
    connection.execute(
        "UPDATE search_indexes SET version = version + 1, updated_at = ? WHERE id = ?",
        (now_ms, number),
    )


def numbers(connection: apsw.Connection) -> set[int]:
    """Those of all indexes; deleted ones that still have documents among them."""
    rows: Any = connection.execute("SELECT id FROM search_indexes")
    return {number for (number,) in rows}


def is_work_left(connection: apsw.Connection) -> bool:
    """Whether there are indexes to be forgotten, or removals."""
    row: Any = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM search_indexes WHERE deleted_at IS NOT NULL)"
        " OR EXISTS (SELECT 1 FROM search_removals)"
    ).fetchone()
    return bool(row[0])


def forget_some(connection: apsw.Connection) -> bool:
    """Remove some rows of an index that was deleted; whether there may be more."""
    row: Any = connection.execute(
        "SELECT tenant_id, id FROM search_indexes WHERE deleted_at IS NOT NULL LIMIT 1"
    ).fetchone()
    if row is None:
        return False
    if not remove_some(connection, *row):
        connection.execute("DELETE FROM search_indexes WHERE id = ?", (row[1],))
    return True


def _source_text(source: Source | None) -> str | None:
    """A source as it is stored."""
    return None if source is None else msgspec.json.encode(source).decode()


def _index(row: Any) -> Index:
    number, name, model, dimensions, source, position, version, created, updated, _ = row
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


def _holds_any(connection: apsw.Connection, tenant_id: int, number: int) -> bool:
    row = connection.execute(
        "SELECT 1 FROM search_documents WHERE tenant_id = ? AND index_id = ? LIMIT 1",
        (tenant_id, number),
    ).fetchone()
    return row is not None


# ── Documents ──────────────────────────────────────────────────────────────────────────────────


def store(
    connection: apsw.Connection,
    tenant_id: int,
    index: Index,
    entries: Sequence[Entry],
    now_ms: int,
) -> None:
    """Put documents in place of those with their ids. Raises Invalid (`wrong_dimensions`)."""
    if not entries:
        return
    dimensions = index.dimensions or len(entries[0].vector) // 4
    for number, entry in enumerate(entries):
        if len(entry.vector) != 4 * dimensions:
            raise wrong_dimensions(entry, number, dimensions)
    for entry in entries:
        remove(connection, tenant_id, index.number, entry.id)
        connection.execute(
            "INSERT INTO search_documents (tenant_id, index_id, id, words, tokens, truncated,"
            " updated_at, metadata, text) VALUES (?, ?, ?, ?, ?, ?, ?, jsonb(?), ?)",
            (
                tenant_id,
                index.number,
                entry.id,
                sum(entry.words.values()),
                entry.tokens,
                entry.truncated,
                now_ms,
                entry.metadata,
                entry.text,
            ),
        )
        key = connection.last_insert_rowid()
        connection.execute(
            "INSERT INTO search_vectors (key, vector) VALUES (?, ?)", (key, entry.vector)
        )
        sqlite_words.add(connection, index.number, key, entry.words)
    connection.execute(
        "UPDATE search_indexes SET dimensions = ?, version = version + 1, updated_at = ?"
        " WHERE id = ?",
        (dimensions, now_ms, index.number),
    )


def remove(connection: apsw.Connection, tenant_id: int, number: int, document_id: str) -> bool:
    """Remove a document; False where there is none."""
    connection.execute(
        "DELETE FROM search_documents WHERE tenant_id = ? AND index_id = ? AND id = ?",
        (tenant_id, number, document_id),
    )
    return connection.changes() > 0


def remove_some(connection: apsw.Connection, tenant_id: int, number: int) -> bool:
    """Remove some of an index's documents; whether there may be more."""
    connection.execute(
        "DELETE FROM search_documents WHERE key IN (SELECT key FROM search_documents"
        " WHERE tenant_id = ? AND index_id = ? LIMIT ?)",
        (tenant_id, number, REMOVED_AT_ONCE),
    )
    return connection.changes() == REMOVED_AT_ONCE


def stored(
    connection: apsw.Connection, tenant_id: int, number: int, document_id: str
) -> Stored | None:
    """One document."""
    row: Any = connection.execute(
        f"{_STORED} AND id = ?", (tenant_id, number, document_id)
    ).fetchone()
    return None if row is None else _stored(row)


def all_stored(connection: apsw.Connection, tenant_id: int, number: int) -> Any:
    """Every document of an index, in the order of their keys."""
    rows: Any = connection.execute(f"{_STORED} ORDER BY key", (tenant_id, number))
    return map(_stored, rows)


def hit(connection: apsw.Connection, key: int, score: float) -> Hit | None:
    """A document that was found; None where it went since."""
    row: Any = connection.execute(
        "SELECT id, text, json(metadata) FROM search_documents WHERE key = ?", (key,)
    ).fetchone()
    return None if row is None else Hit(row[0], score, row[1], row[2])


def _stored(row: Any) -> Stored:
    document_id, text, metadata, vector, tokens, truncated, updated_at = row
    return Stored(document_id, text, metadata, vector, tokens, bool(truncated), updated_at)
