"""Facts of the installation in SQLite."""

from __future__ import annotations

import apsw

from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer
from monolite.tenancy.engine import Key
from monolite.tenancy.principal import OPERATOR_TENANT_ID
from monolite.tenancy.sqlite import insert_key


class SqliteInstallationFacts:
    """The embedded InstallationFacts."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def fact(self, name: str) -> str | None:
        row = self._readers.inline.execute(
            "SELECT value FROM installation WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else row[0]

    async def set_fact(self, name: str, value: str) -> None:
        def work(connection: apsw.Connection) -> None:
            connection.execute(
                "INSERT INTO installation (name, value) VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, value),
            )

        await self._writer.submit(work)

    async def claim_fact(self, name: str, value: str) -> str:
        def work(connection: apsw.Connection) -> str:
            connection.execute("INSERT OR IGNORE INTO installation VALUES (?, ?)", (name, value))
            held: str = connection.execute(
                "SELECT value FROM installation WHERE name = ?", (name,)
            ).get
            return held

        return await self._writer.submit(work)

    async def forget_keys(self) -> int:
        def work(connection: apsw.Connection) -> int:
            gone = connection.execute("DELETE FROM keys RETURNING tenant_id").fetchall()
            return sum(tenant_id != OPERATOR_TENANT_ID for (tenant_id,) in gone)

        return await self._writer.submit(work)

    async def store_operator_key(self, key: Key) -> None:
        def work(connection: apsw.Connection) -> None:
            connection.execute(
                "DELETE FROM keys WHERE tenant_id = ? AND name = ?",
                (OPERATOR_TENANT_ID, key.name),
            )
            insert_key(connection, key)

        await self._writer.submit(work)
