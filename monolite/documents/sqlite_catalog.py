"""Collections' definitions in SQLite, read once and kept until they change.

The writer's own catalog is right because nothing else writes: whatever changes a definition forgets
it there, and a transaction that is lost forgets all. A reader's is asked for the version each time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, TypeVar

import apsw
import msgspec

from monolite.documents.collection import Collection, Index
from monolite.documents.fields import Field
from monolite.documents.sqlite_columns import columns_of

KEPT_MAX = 4096

K = TypeVar("K")

_FIND = (
    "SELECT id, version FROM collections WHERE tenant_id = ? AND name = ? AND deleted_at IS NULL"
)
_decode_fields = msgspec.json.Decoder(tuple[Field, ...]).decode
_decode_names = msgspec.json.Decoder(tuple[str, ...]).decode


class Entry:
    """A collection with what its statements need.

    `columns` has each promoted field's column. `entries_sql` gives a document's index entries, its
    parameters the tenant, the document's key and `index_ids`; None without indexes. `seq` is the
    last change's number, which only the writer counts on. `choices` remembers for a moment which
    index served a query.
    """

    __slots__ = (
        "choices",
        "collection",
        "columns",
        "entries_sql",
        "index_ids",
        "indexes",
        "seq",
    )

    def __init__(self, collection: Collection, columns: dict[str, str]) -> None:
        self.collection = collection
        self.columns = columns
        self.seq = -1
        self.choices: dict[Any, tuple[float, int]] = {}
        self.indexes = collection.indexes
        self.index_ids = tuple(index.id for index in self.indexes)
        self.entries_sql = entries_sql(self.indexes, columns) if self.indexes else None


class Catalog:
    """Definitions by tenant and name, for one connection's thread."""

    def __init__(self) -> None:
        self._by_version: OrderedDict[tuple[int, int], Entry] = OrderedDict()
        self._current: OrderedDict[tuple[int, str], Entry] = OrderedDict()

    def read(self, connection: apsw.Connection, tenant_id: int, name: str) -> Entry | None:
        """The definition as the connection sees it now."""
        row = connection.execute(_FIND, (tenant_id, name)).fetchone()
        if row is None:
            return None
        entry = self._by_version.get(row)
        if entry is None:
            entry = load(connection, tenant_id, row[0])
            _keep(self._by_version, row, entry)
        return entry

    def current(self, connection: apsw.Connection, tenant_id: int, name: str) -> Entry | None:
        """The definition on the writer's connection."""
        entry = self._current.get((tenant_id, name))
        if entry is None:
            row = connection.execute(_FIND, (tenant_id, name)).fetchone()
            if row is None:
                return None
            entry = load(connection, tenant_id, row[0])
            entry.seq = _last_seq(connection, tenant_id, row[0])
            _keep(self._current, (tenant_id, name), entry)
        return entry

    def known(self, tenant_id: int, name: str) -> Entry | None:
        """The definition on the writer's connection, if it was read before."""
        return self._current.get((tenant_id, name))

    def forget(self, tenant_id: int, name: str) -> None:
        """It is about to change, or was just made in a transaction that may yet be lost."""
        self._current.pop((tenant_id, name), None)

    def forget_all(self) -> None:
        """A transaction was lost."""
        self._current.clear()


def load(connection: apsw.Connection, tenant_id: int, number: int) -> Entry:
    """One collection with its fields and indexes."""
    (row,) = connection.execute(
        "SELECT name, created_at, updated_at, version, fields, schema FROM collections"
        " WHERE tenant_id = ? AND id = ?",
        (tenant_id, number),
    )
    name, created_at, updated_at, version, fields, schema = row
    collection = Collection(
        number=number,
        name=name,
        created_at=created_at,
        updated_at=updated_at,
        version=version,
        fields=_decode_fields(fields),
        schema=schema,
        indexes=tuple(
            Index(
                id,
                name,
                _decode_names(names),
                bool(only),
                bool(declared),
                state,
                at,
                _decode_names(included),
            )
            for id, name, names, only, declared, state, at, included in connection.execute(
                "SELECT id, name, fields, tenant_only, declared, state, created_at, included"
                " FROM document_indexes WHERE tenant_id = ? AND collection_id = ?"
                " AND state <> 'dropping' ORDER BY name",
                (tenant_id, number),
            )
        ),
    )
    return Entry(collection, columns_of(connection, collection.fields))


def insert_collection(
    connection: apsw.Connection, tenant_id: int, name: str, fields: str, now_ms: int
) -> int:
    """A new collection; returns its number."""
    connection.execute(
        "INSERT INTO collections (tenant_id, name, version, fields, changes_expired_to, created_at,"
        " updated_at) VALUES (?, ?, 1, ?, 0, ?, ?)",
        (tenant_id, name, fields, now_ms, now_ms),
    )
    return connection.last_insert_rowid()


def touch(connection: apsw.Connection, tenant_id: int, number: int) -> None:
    """Something of its definition changed: readers load it again."""
    connection.execute(
        "UPDATE collections SET version = version + 1 WHERE tenant_id = ? AND id = ?",
        (tenant_id, number),
    )


def index_values(index: Index, columns: dict[str, str], documents: str = "d") -> list[str]:
    """The values of an index's entries in their columns' order, as expressions of a document."""

    def value(name: str) -> str:
        if name in columns:
            return f"ifnull({documents}.{columns[name]}, x'')"
        return f"{documents}.{name}"

    missing = ["x''"] * 3
    return [
        *[*map(value, index.fields), *missing][:3],
        f"{documents}.key",
        *[*map(value, index.included), *missing][:2],
    ]


def entries_sql(indexes: tuple[Index, ...], columns: dict[str, str]) -> str:
    """The entries of one document (`?1` its tenant, `?2` its key) in all of the indexes (`?3`…).

    Collections with like indexes share the text, and so a prepared statement.
    """
    return " UNION ALL ".join(
        f"SELECT ?1, ?{at}, {', '.join(index_values(index, columns))}"
        " FROM documents d WHERE d.key = ?2"
        for at, index in enumerate(indexes, start=3)
    )


def _last_seq(connection: apsw.Connection, tenant_id: int, number: int) -> int:
    (row,) = connection.execute(
        "SELECT max((SELECT ifnull(max(seq), 0) FROM documents WHERE tenant_id = ?1 AND"
        " collection_id = ?2), (SELECT ifnull(max(seq), 0) FROM document_changes WHERE"
        " tenant_id = ?1 AND collection_id = ?2), (SELECT changes_expired_to FROM collections"
        " WHERE tenant_id = ?1 AND id = ?2))",
        (tenant_id, number),
    )
    return int(row[0])


def _keep(kept: OrderedDict[K, Entry], key: K, entry: Entry) -> None:
    kept[key] = entry
    if len(kept) > KEPT_MAX:
        kept.popitem(last=False)
