"""A tenant's adapters as records, out of SQLite and into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw

from monolite.inference.adapters import archive, sqlite


class SqliteAdapterArchive:
    """Out of SQLite and into it."""

    kinds = archive.KINDS

    def records(self, connection: apsw.Connection, tenant_id: int) -> Iterator[dict[str, Any]]:
        """Everything, in one snapshot of the reader's connection."""
        select = f"SELECT {sqlite.NAMES} FROM adapters WHERE tenant_id = ? ORDER BY name"  # noqa: S608
        for row in connection.execute(select, (tenant_id,)).fetchall():
            adapter = sqlite.adapter_of(row)
            yield archive.record_of(adapter)
            pieces = archive.PIECES + "? AND name = ? ORDER BY seq"
            for piece in connection.execute(pieces, (tenant_id, adapter.name)):
                yield archive.piece_of(adapter.name, piece)

    def store(self, connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError, TypeError or apsw.Error where it isn't ours."""
        if record["kind"] == "adapter":
            sqlite.insert(connection, tenant_id, archive.read(record))
        else:
            connection.execute(
                "INSERT INTO adapter_pieces VALUES (?, ?, ?, ?)",
                (tenant_id, *archive.read_piece(record)),
            )
