"""A tenant's adapters as records, out of PostgreSQL and into it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from monolite.inference.adapters import archive, postgres
from monolite.inference.adapters.engine import StoredAdapter


class PostgresAdapterArchive:
    """Out of PostgreSQL and into it."""

    kinds = archive.KINDS

    async def records(
        self, connection: Any, tenant_id: int
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Everything, in the snapshot of the connection's transaction."""
        select = f"SELECT {postgres.NAMES} FROM adapters WHERE tenant_id = $1 ORDER BY name"  # noqa: S608
        for row in await connection.fetch(select, tenant_id):
            adapter = StoredAdapter(*row)
            yield archive.record_of(adapter)
            pieces = archive.PIECES + "$1 AND name = $2 ORDER BY seq"
            async for piece in connection.cursor(pieces, tenant_id, adapter.name, prefetch=2):
                yield archive.piece_of(adapter.name, piece)

    async def store(self, connection: Any, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError or TypeError where it is not one of ours."""
        if record["kind"] == "adapter":
            await postgres.insert(connection, tenant_id, archive.read(record))
        else:
            await postgres.insert_piece(connection, tenant_id, *archive.read_piece(record))
