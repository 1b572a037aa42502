"""Collections' definitions in SQLite: fields, schema, and which indexes there are."""

from __future__ import annotations

import apsw
import msgspec

from monolite.documents.collection import (
    INCLUDED_FIELDS_MAX,
    INDEXES_MAX,
    Collection,
    Definition,
    Index,
)
from monolite.documents.definitions import (
    TENANT_INDEXES_MAX,
    index_changes,
    is_same,
    name_taken,
    too_many_indexes,
    too_many_tenant_indexes,
    without_index,
)
from monolite.documents.fields import Field
from monolite.documents.sqlite_catalog import Entry, insert_collection, load, touch
from monolite.documents.sqlite_columns import add_columns
from monolite.documents.sqlite_upkeep import build_some


def define(
    connection: apsw.Connection,
    entry: Entry | None,
    tenant_id: int,
    name: str,
    definition: Definition,
    now_ms: int,
) -> tuple[Collection, bool]:
    """Replace a definition, or make the collection; a small one's indexes are built at once."""
    fields, schema = definition
    text = msgspec.json.encode(fields).decode()
    if entry is None:
        number = insert_collection(connection, tenant_id, name, text, now_ms)
        old: tuple[Field, ...] = ()
        indexes: tuple[Index, ...] = ()
    else:
        number = entry.collection.number
        old = entry.collection.fields
        indexes = entry.collection.indexes
    add_columns(connection, fields)
    connection.execute(
        "UPDATE collections SET fields = ?3, schema = ?4, version = version + 1, updated_at = ?5"
        " WHERE tenant_id = ?1 AND id = ?2",
        (tenant_id, number, text, schema, now_ms),
    )
    changes = index_changes(old, fields, indexes, now_ms)
    for index in changes.dropped:
        _drop(connection, tenant_id, index)
    places = {field.name: field for field in fields}
    before = {field.name: field for field in old}
    for index in changes.kept:
        if not all(is_same(before.get(n), places.get(n)) for n in index.included):
            connection.execute(
                "UPDATE document_indexes SET included = '[]' WHERE tenant_id = ? AND id = ?",
                (tenant_id, index.id),
            )
    indexed = [field.name for field in fields if field.index]
    for index in changes.added:
        # So that a filter by several of them is answered from one's entries.
        others = tuple(name for name in indexed if index.declared and name != index.name)
        included = others[:INCLUDED_FIELDS_MAX]
        made = msgspec.structs.replace(index, included=included)
        _add(connection, tenant_id, number, made, now_ms)
    _check_count(connection, tenant_id, number)
    _begin_building(connection, tenant_id, number)
    return load(connection, tenant_id, number).collection, entry is None


def create_index(
    connection: apsw.Connection,
    entry: Entry,
    tenant_id: int,
    name: str,
    fields: tuple[str, ...],
    tenant_only: bool,
    now_ms: int,
) -> Index:
    """An index asked for by itself; a small collection's is built at once."""
    collection = entry.collection
    if any(index.name == name for index in collection.indexes):
        raise name_taken(name)
    if tenant_only:
        (row,) = connection.execute(
            "SELECT count(*) FROM document_indexes WHERE tenant_only AND state <> 'dropping'"
        )
        if row[0] >= TENANT_INDEXES_MAX:
            raise too_many_tenant_indexes()
    made = Index(
        0,
        name,
        fields,
        tenant_only=tenant_only,
        declared=False,
        state="building",
        created_at=now_ms,
    )
    _add(connection, tenant_id, collection.number, made, now_ms)
    _check_count(connection, tenant_id, collection.number)
    touch(connection, tenant_id, collection.number)
    _begin_building(connection, tenant_id, collection.number)
    loaded = load(connection, tenant_id, collection.number).collection
    return next(index for index in loaded.indexes if index.name == name)


def drop_index(connection: apsw.Connection, entry: Entry, tenant_id: int, name: str) -> bool:
    """Drop an index; a declared one stays off until the field is defined with `index` again."""
    collection = entry.collection
    index = next((index for index in collection.indexes if index.name == name), None)
    if index is None:
        return False
    _drop(connection, tenant_id, index)
    if index.declared:
        fields = without_index(collection.fields, name)
        connection.execute(
            "UPDATE collections SET fields = ?3 WHERE tenant_id = ?1 AND id = ?2",
            (tenant_id, collection.number, msgspec.json.encode(fields).decode()),
        )
    touch(connection, tenant_id, collection.number)
    return True


def hide(connection: apsw.Connection, tenant_id: int, number: int, now_ms: int) -> None:
    """Take a collection from its readers; its rows go in slices."""
    connection.execute(
        "UPDATE collections SET deleted_at = ?3, fields = '[]', version = version + 1"
        " WHERE tenant_id = ?1 AND id = ?2",
        (tenant_id, number, now_ms),
    )
    connection.execute(
        "UPDATE document_indexes SET state = 'dropping' WHERE tenant_id = ? AND collection_id = ?",
        (tenant_id, number),
    )


def _add(
    connection: apsw.Connection, tenant_id: int, number: int, index: Index, now_ms: int
) -> None:
    try:
        connection.execute(
            "INSERT INTO document_indexes (tenant_id, collection_id, name, fields, included,"
            " tenant_only, declared, state, built_to, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 'building', 0, ?)",
            (
                tenant_id,
                number,
                index.name,
                msgspec.json.encode(index.fields).decode(),
                msgspec.json.encode(index.included).decode(),
                index.tenant_only,
                index.declared,
                now_ms,
            ),
        )
    except apsw.ConstraintError:
        raise name_taken(index.name) from None


def _drop(connection: apsw.Connection, tenant_id: int, index: Index) -> None:
    connection.execute(
        "UPDATE document_indexes SET state = 'dropping' WHERE tenant_id = ? AND id = ?",
        (tenant_id, index.id),
    )


def _check_count(connection: apsw.Connection, tenant_id: int, number: int) -> None:
    (row,) = connection.execute(
        "SELECT count(*) FROM document_indexes WHERE tenant_id = ? AND collection_id = ?"
        " AND state <> 'dropping'",
        (tenant_id, number),
    )
    if row[0] > INDEXES_MAX:
        raise too_many_indexes()


def _begin_building(connection: apsw.Connection, tenant_id: int, number: int) -> None:
    """A first slice of each new index, which is all that a small collection needs."""
    indexes = load(connection, tenant_id, number).collection.indexes
    for index in indexes:
        if index.state == "building":
            build_some(connection, tenant_id, index.id)
