"""Usage in PostgreSQL: its own statistics of indexes, our counts of fields and queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from monolite.documents.collection import (
    FieldReport,
    IndexReport,
    UnservedShape,
    UsageReport,
)
from monolite.documents.postgres_catalog import Entry
from monolite.documents.postgres_upkeep import index_name
from monolite.documents.usage import SHAPES_MAX, Count, Key

_ADD = (
    "INSERT INTO document_usage AS u (tenant_id, collection_id, subject, name, count, total_ms,"
    " since, last_at) SELECT $1, $2, $3, $4, $5, $6, $7, $8 WHERE EXISTS (SELECT FROM collections"
    " WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL)"
    " ON CONFLICT (tenant_id, collection_id, subject, name) DO UPDATE SET"
    " count = u.count + excluded.count, total_ms = u.total_ms + excluded.total_ms,"
    " last_at = greatest(u.last_at, excluded.last_at)"
)
_TRIM = (
    "DELETE FROM document_usage WHERE tenant_id = $1 AND collection_id = $2 AND subject ="
    " 'unserved' AND name NOT IN (SELECT name FROM document_usage WHERE tenant_id = $1 AND"
    " collection_id = $2 AND subject = 'unserved' ORDER BY count DESC LIMIT $3)"
)
_STATISTICS = (
    "SELECT s.indexrelname, s.idx_scan, (extract(epoch FROM s.last_idx_scan) * 1000)::bigint,"
    " pg_relation_size(s.indexrelid), coalesce(100.0 * p.blocks_done / nullif(p.blocks_total, 0),"
    " 0)::float8 FROM pg_stat_user_indexes s LEFT JOIN pg_stat_progress_create_index p"
    " ON p.index_relid = s.indexrelid WHERE s.schemaname = 'monolite' AND s.relname = 'documents'"
)


async def write_usage(connection: Any, counts: dict[Key, Count]) -> None:
    """Add counts to those of before; what was counted for something gone is dropped."""
    # In one order, so that servers that write at once never wait for each other in a circle.
    for key, count in sorted(counts.items()):
        await connection.execute(
            _ADD, *key, count.count, count.total_ms, count.first_at, count.last_at
        )
    for tenant_id, collection in sorted({(k.tenant_id, k.collection) for k in counts}):
        await connection.execute(_TRIM, tenant_id, collection, SHAPES_MAX)


async def read_usage(connection: Any, entry: Entry, tenant_id: int) -> UsageReport:
    """A collection's report.

    An index that tenants share is scanned and sized as a whole; its bytes here are the share of
    this collection's documents.
    """
    collection = entry.collection
    counted = {
        (subject, name): (count, total_ms, last_at)
        for subject, name, count, total_ms, last_at in await connection.fetch(
            "SELECT subject, name, count, total_ms, last_at FROM document_usage"
            " WHERE tenant_id = $1 AND collection_id = $2",
            tenant_id,
            collection.number,
        )
    }
    never = (0, 0.0, None)
    inserted = counted.get(("write", "*"), never)[0]
    fields = []
    for field in collection.fields:
        changed = counted.get(("write", field.name), never)[0]
        filters, _, last_at = counted.get(("filter", field.name), never)
        fields.append(
            FieldReport(field.name, inserted + changed, filters, collection.created_at, last_at)
        )
    statistics = {row[0]: row[1:] for row in await connection.fetch(_STATISTICS)}
    share = await _share(connection, tenant_id, collection.number)
    reset_at = await connection.fetchval(
        "SELECT coalesce((extract(epoch FROM stats_reset) * 1000)::bigint, 0) FROM"
        " pg_stat_database WHERE datname = current_database()"
    )
    indexes = []
    for index in collection.indexes:
        name = index_name(entry.built[index.id])
        scans, last_at, size, percent = statistics.get(name, (0, None, 0, 0.0))
        where = f"tenant's own, collection = {collection.name!r}" if index.tenant_only else None
        indexes.append(
            IndexReport(
                index,
                where,
                size if index.tenant_only else int(size * share),
                scans,
                max(index.created_at, reset_at),
                last_at,
                1.0 if index.state == "ready" else min(0.99, percent / 100),
            )
        )
    unserved = [
        UnservedShape(tuple(msgspec.json.decode(name)), count, total_ms / count, last_at)
        for (subject, name), (count, total_ms, last_at) in counted.items()
        if subject == "unserved"
    ]
    unserved.sort(key=lambda shape: -shape.queries * shape.mean_ms)
    return UsageReport(collection, tuple(indexes), tuple(fields), tuple(unserved))


async def tenant_usage(pool: Any, tenant_numbers: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Documents and bytes of each tenant that has any."""
    rows = await pool.fetch(
        "SELECT d.tenant_id, count(*), coalesce(sum(pg_column_size(d.data)), 0)::bigint"
        " FROM documents d JOIN collections c ON c.tenant_id = d.tenant_id"
        " AND c.id = d.collection_id AND c.deleted_at IS NULL WHERE d.tenant_id = ANY($1)"
        " GROUP BY d.tenant_id",
        list(tenant_numbers),
    )
    return {number: (count, size) for number, count, size in rows}


async def _share(connection: Any, tenant_id: int, number: int) -> float:
    own, everyone = await connection.fetchrow(
        "SELECT (SELECT count(*) FROM documents WHERE tenant_id = $1 AND collection_id = $2),"
        " (SELECT reltuples FROM pg_class WHERE oid = 'documents'::regclass)",
        tenant_id,
        number,
    )
    return float(own / max(own, everyone, 1))
