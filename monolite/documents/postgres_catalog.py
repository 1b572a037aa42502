"""Collections' definitions in PostgreSQL, read once for each version of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec

from monolite.documents.collection import Collection, Index
from monolite.documents.fields import Field
from monolite.documents.postgres_columns import columns_of

KEPT_MAX = 4096

_FIND = (
    "SELECT id, version FROM collections WHERE tenant_id = $1 AND name = $2 AND deleted_at IS NULL"
)
_decode_fields = msgspec.json.Decoder(tuple[Field, ...]).decode
_decode_names = msgspec.json.Decoder(tuple[str, ...]).decode


class Entry:
    """A collection; `columns` has its promoted fields' STORED columns, where they have one, and
    `built` the number of each of its indexes' own index of `documents`, by id.
    """

    __slots__ = ("built", "collection", "columns")

    def __init__(
        self, collection: Collection, columns: dict[str, str], built: dict[int, int]
    ) -> None:
        self.collection = collection
        self.columns = columns
        self.built = built


class Catalog:
    """Definitions by version. A query asks for the version; a write names the one it knows."""

    def __init__(self) -> None:
        self._by_version: OrderedDict[tuple[int, int], Entry] = OrderedDict()
        self._newest: OrderedDict[tuple[int, str], Entry] = OrderedDict()

    async def read(self, connection: Any, tenant_id: int, name: str) -> Entry | None:
        """The definition as the connection (or the pool) sees it now."""
        row = await connection.fetchrow(_FIND, tenant_id, name)
        if row is None:
            self._newest.pop((tenant_id, name), None)
            return None
        version = (row[0], row[1])
        entry = self._by_version.get(version)
        if entry is None:
            entry = await load(connection, tenant_id, row[0])
            if entry is None:
                return None
            if entry.collection.version == row[1]:
                self._by_version[version] = entry
                if len(self._by_version) > KEPT_MAX:
                    self._by_version.popitem(last=False)
        self._newest[tenant_id, name] = entry
        if len(self._newest) > KEPT_MAX:
            self._newest.popitem(last=False)
        return entry

    def known(self, tenant_id: int, name: str) -> Entry | None:
        """The newest definition that was read here; another server may have changed it since."""
        return self._newest.get((tenant_id, name))

    def forget(self, tenant_id: int, name: str) -> None:
        """What is known is out of date."""
        self._newest.pop((tenant_id, name), None)


async def load(connection: Any, tenant_id: int, number: int) -> Entry | None:
    """One collection with its fields and indexes, or None where it has gone."""
    row = await connection.fetchrow(
        "SELECT name, created_at, updated_at, version, fields, schema FROM collections"
        " WHERE tenant_id = $1 AND id = $2",
        tenant_id,
        number,
    )
    if row is None:
        return None
    name, created_at, updated_at, version, fields_text, schema = row
    indexes, built = [], {}
    for index_id, index_name, names, only, declared, state, at, build in await connection.fetch(
        "SELECT i.id, i.name, i.fields, i.tenant_only, i.declared, b.state, i.created_at, i.built"
        " FROM document_indexes i JOIN built_indexes b ON b.number = i.built"
        " WHERE i.tenant_id = $1 AND i.collection_id = $2 ORDER BY i.name",
        tenant_id,
        number,
    ):
        indexes.append(Index(index_id, index_name, _decode_names(names), only, declared, state, at))
        built[index_id] = build
    fields = _decode_fields(fields_text)
    collection = Collection(
        number=number,
        name=name,
        created_at=created_at,
        updated_at=updated_at,
        version=version,
        fields=fields,
        schema=schema,
        indexes=tuple(indexes),
    )
    return Entry(collection, await columns_of(connection, fields), built)


async def insert_collection(
    connection: Any, tenant_id: int, name: str, fields: str, now_ms: int
) -> int | None:
    """A new collection's number; None where another has just made it."""
    number: int | None = await connection.fetchval(
        "INSERT INTO collections (tenant_id, name, version, fields, changes_expired_xid,"
        " changes_expired_seq, created_at, updated_at)"
        " VALUES ($1, $2, 1, $3, '0', 0, $4, $4)"
        " ON CONFLICT (tenant_id, name) WHERE deleted_at IS NULL DO NOTHING RETURNING id",
        tenant_id,
        name,
        fields,
        now_ms,
    )
    return number
