"""Usage in SQLite: counts written down, and the report made of them."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from monolite.documents.collection import (
    FieldReport,
    Index,
    IndexReport,
    UnservedShape,
    UsageReport,
)
from monolite.documents.sqlite_catalog import Entry
from monolite.documents.usage import SHAPES_MAX, Count, Key

_SAMPLE = 500
# A cell's header, pointer and share of unused space, measured with dbstat after random inserts.
_ENTRY_OVERHEAD_BYTES = 7
_FILL = 0.75


def write_usage(connection: apsw.Connection, counts: dict[Key, Count]) -> None:
    """Add counts to those of before; what was counted for something gone is dropped."""
    for key, count in counts.items():
        connection.execute(
            "INSERT INTO document_usage (tenant_id, collection_id, subject, name, count, total_ms,"
            " since, last_at) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE EXISTS (SELECT 1 FROM"
            " collections WHERE tenant_id = ?1 AND id = ?2 AND deleted_at IS NULL)"
            " ON CONFLICT DO UPDATE SET count = count + excluded.count,"
            " total_ms = total_ms + excluded.total_ms, last_at = excluded.last_at",
            (*key, count.count, count.total_ms, count.first_at, count.last_at),
        )
    for tenant_id, collection in {(k.tenant_id, k.collection) for k in counts}:
        connection.execute(
            "DELETE FROM document_usage WHERE tenant_id = ?1 AND collection_id = ?2 AND subject ="
            " 'unserved' AND name NOT IN (SELECT name FROM document_usage WHERE tenant_id = ?1 AND"
            " collection_id = ?2 AND subject = 'unserved' ORDER BY count DESC LIMIT ?3)",
            (tenant_id, collection, SHAPES_MAX),
        )


def read_usage(connection: apsw.Connection, entry: Entry, tenant_id: int) -> UsageReport:
    """A collection's report."""
    collection = entry.collection
    counted: dict[tuple[str, str], tuple[Any, ...]] = {
        (subject, name): rest
        for subject, name, *rest in connection.execute(
            "SELECT subject, name, count, total_ms, since, last_at FROM document_usage"
            " WHERE tenant_id = ? AND collection_id = ?",
            (tenant_id, collection.number),
        )
    }
    never = (0, 0.0, None, None)
    inserted = counted.get(("write", "*"), never)[0]
    fields = []
    for field in collection.fields:
        changed = counted.get(("write", field.name), never)[0]
        filters, _, _, last_at = counted.get(("filter", field.name), never)
        fields.append(
            FieldReport(field.name, inserted + changed, filters, collection.created_at, last_at)
        )
    indexes = []
    for index in collection.indexes:
        scans, _, _, last_at = counted.get(("index", str(index.id)), never)
        size, progress = _measure(connection, tenant_id, collection.number, index)
        where = f"tenant's own, collection = {collection.name!r}" if index.tenant_only else None
        indexes.append(IndexReport(index, where, size, scans, index.created_at, last_at, progress))
    unserved = [
        UnservedShape(tuple(msgspec.json.decode(name)), count, total_ms / count, last_at)
        for (subject, name), (count, total_ms, _, last_at) in counted.items()
        if subject == "unserved"
    ]
    unserved.sort(key=lambda shape: -shape.queries * shape.mean_ms)
    return UsageReport(collection, tuple(indexes), tuple(fields), tuple(unserved))


def _measure(
    connection: apsw.Connection, tenant_id: int, number: int, index: Index
) -> tuple[int, float]:
    """About how many bytes an index takes, by a sample's mean, and which part of it is built."""
    (row,) = connection.execute(
        "SELECT count(*) FROM document_index_entries WHERE tenant_id = ? AND index_id = ?",
        (tenant_id, index.id),
    )
    count = row[0]
    (row,) = connection.execute(
        "SELECT avg(12 + octet_length(v1) + octet_length(v2) + octet_length(v3) + octet_length(x1)"
        " + octet_length(x2)) FROM (SELECT v1, v2, v3, x1, x2 FROM document_index_entries"
        " WHERE tenant_id = ? AND index_id = ? LIMIT ?)",
        (tenant_id, index.id, _SAMPLE),
    )
    size = int(count * ((row[0] or 0) + _ENTRY_OVERHEAD_BYTES) / _FILL)
    if index.state == "ready":
        return size, 1.0
    (row,) = connection.execute(
        "SELECT count(*) FROM documents INDEXED BY documents_in_order WHERE tenant_id = ?"
        " AND collection_id = ?",
        (tenant_id, number),
    )
    return size, min(1.0, count / max(1, row[0]))
