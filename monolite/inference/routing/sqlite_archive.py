"""A tenant's routing as records, out of SQLite and into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw

from monolite.inference.routing import archive, sqlite


class SqliteRoutingArchive:
    """Out of SQLite and into it."""

    kinds = archive.KINDS

    def records(self, connection: apsw.Connection, tenant_id: int) -> Iterator[dict[str, Any]]:
        """Everything, in one snapshot of the reader's connection."""
        for row in connection.execute(archive.POLICY + "?", (tenant_id,)):
            yield archive.policy_record(row)
        for row in connection.execute(archive.DAYS + "? ORDER BY day", (tenant_id,)):
            yield archive.day_record(row)
        for row in connection.execute(archive.CALLS + "? ORDER BY id", (tenant_id,)):
            yield archive.call_record(row)

    def store(self, connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError, TypeError or apsw.Error where it isn't ours."""
        if record["kind"] == "ai_policy":
            connection.execute(
                "INSERT INTO ai_policies VALUES (?, ?, ?)", (tenant_id, *archive.policy_row(record))
            )
        elif record["kind"] == "ai_day":
            connection.execute(
                "INSERT INTO ai_days VALUES (?, ?, ?, ?, ?, 0, 0, ?)",
                (tenant_id, *archive.day_row(record)),
            )
        else:
            sqlite.insert_call(connection, tenant_id, archive.read_call(record))
