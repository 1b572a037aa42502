"""A tenant's routing as records, out of PostgreSQL and into it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from monolite.inference.routing import archive, postgres


class PostgresRoutingArchive:
    """Out of PostgreSQL and into it."""

    kinds = archive.KINDS

    async def records(
        self, connection: Any, tenant_id: int
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Everything, in the snapshot of the connection's transaction."""
        for row in await connection.fetch(archive.POLICY + "$1", tenant_id):
            yield archive.policy_record(row)
        for row in await connection.fetch(archive.DAYS + "$1 ORDER BY day", tenant_id):
            yield archive.day_record(row)
        async for row in connection.cursor(
            archive.CALLS + "$1 ORDER BY id", tenant_id, prefetch=500
        ):
            yield archive.call_record(row)

    async def store(self, connection: Any, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError or TypeError where it is not one of ours."""
        if record["kind"] == "ai_policy":
            await connection.execute(
                "INSERT INTO ai_policies VALUES ($1, $2, $3)",
                tenant_id,
                *archive.policy_row(record),
            )
        elif record["kind"] == "ai_day":
            day, tokens, micros, calls, warned = archive.day_row(record)
            await connection.execute(
                "INSERT INTO ai_days (tenant_id, day, tokens, micros, calls, warned)"
                " VALUES ($1, $2, $3, $4, $5, $6)",
                *(tenant_id, day, tokens, micros, calls, bool(warned)),
            )
        else:
            await postgres.insert_call(connection, tenant_id, archive.read_call(record))
