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
from monolite.documents.fields import BUILT_IN, Field
from monolite.documents.sqlite_catalog import Entry, insert_collection, load, touch
from monolite.documents.sqlite_columns import add_columns
from monolite.documents.sqlite_upkeep import build_some
from monolite.errors import Conflict, FieldError, Invalid

TENANT_INDEXES_MAX = 50
"""Of an installation, so that nobody has them by the hundred (docs/documents.md has figures)."""


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
        old: dict[str, Field] = {}
        indexes: tuple[Index, ...] = ()
    else:
        number = entry.collection.number
        old = {field.name: field for field in entry.collection.fields}
        indexes = entry.collection.indexes
    add_columns(connection, fields)
    connection.execute(
        "UPDATE collections SET fields = ?3, schema = ?4, version = version + 1, updated_at = ?5"
        " WHERE tenant_id = ?1 AND id = ?2",
        (tenant_id, number, text, schema, now_ms),
    )
    new = {field.name: field for field in fields}

    def is_same(name: str) -> bool:
        return name in BUILT_IN or _same(old.get(name), new.get(name))

    kept: set[str] = set()
    for index in indexes:
        if not index.declared and all(n in BUILT_IN or n in new for n in index.fields):
            if not all(map(is_same, index.fields)):
                # Its field moved: the same index, over the new place.
                _drop(connection, tenant_id, index)
                _add(connection, tenant_id, number, index, now_ms)
        elif index.declared and is_same(index.fields[0]) and new[index.fields[0]].index:
            kept.add(index.name)
            if not all(map(is_same, index.included)):
                connection.execute(
                    "UPDATE document_indexes SET included = '[]' WHERE tenant_id = ? AND id = ?",
                    (tenant_id, index.id),
                )
        else:
            _drop(connection, tenant_id, index)
    indexed = [field.name for field in fields if field.index]
    for name_of_field in indexed:
        if name_of_field not in kept:
            others = tuple(name for name in indexed if name != name_of_field)
            made = Index(
                0,
                name_of_field,
                (name_of_field,),
                tenant_only=False,
                declared=True,
                state="building",
                created_at=now_ms,
                # So that a filter by several of them is answered from one's entries.
                included=others[:INCLUDED_FIELDS_MAX],
            )
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
        raise Conflict(f"There is an index {name!r} already; drop it first, or name the new one.")
    if tenant_only:
        (row,) = connection.execute(
            "SELECT count(*) FROM document_indexes WHERE tenant_only AND state <> 'dropping'"
        )
        if row[0] >= TENANT_INDEXES_MAX:
            raise Conflict(
                f"This installation has {TENANT_INDEXES_MAX} indexes of single tenants, the most it"
                " takes: on PostgreSQL an insert costs 4.6 µs without them, 81 µs at 200 and"
                " 3,589 µs at 1,000. Drop one that GET …/indexes shows as unused.",
                code="too_many_tenant_indexes",
            )
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
        fields = [
            Field(f.name, f.path, f.kind, f.index and f.name != name) for f in collection.fields
        ]
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


def _same(old: Field | None, new: Field | None) -> bool:
    return old is not None and new is not None and (old.path, old.kind) == (new.path, new.kind)


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
        raise Conflict(
            f"There is an index {index.name!r} already; drop it, or name the field otherwise."
        ) from None


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
        why = f"a collection has at most {INDEXES_MAX} indexes: each is written with every document"
        raise Invalid(why, [FieldError("#/fields", why)], code="too_many_indexes")


def _begin_building(connection: apsw.Connection, tenant_id: int, number: int) -> None:
    """A first slice of each new index, which is all that a small collection needs."""
    indexes = load(connection, tenant_id, number).collection.indexes
    for index in indexes:
        if index.state == "building":
            build_some(connection, tenant_id, index.id)
