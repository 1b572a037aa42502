"""Facts of the installation in PostgreSQL, which all its servers share."""

from __future__ import annotations

from typing import Any

import msgspec

from monolite.storage.postgres.notifications import notify
from monolite.storage.postgres.pool import Pool
from monolite.tenancy.engine import Key
from monolite.tenancy.postgres import CHANNEL, insert_key
from monolite.tenancy.principal import OPERATOR_TENANT_ID


class PostgresInstallationFacts:
    """The shared InstallationFacts.

    `server` tells this server's data directory from the others': each has an operator's key of its
    own in it, and making one anew ends only the former one of the same directory.
    """

    def __init__(self, pool: Pool, server: str) -> None:
        self._pool = pool
        self._server = server

    async def fact(self, name: str) -> str | None:
        value: str | None = await self._pool.fetchval(
            "SELECT value FROM installation WHERE name = $1", name
        )
        return value

    async def set_fact(self, name: str, value: str) -> None:
        async def work(connection: Any) -> None:
            await connection.execute(
                "INSERT INTO installation (name, value) VALUES ($1, $2)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                name,
                value,
            )

        await self._pool.transaction(work)

    async def claim_fact(self, name: str, value: str) -> str:
        async def work(connection: Any) -> str:
            await connection.execute(
                "INSERT INTO installation (name, value) VALUES ($1, $2)"
                " ON CONFLICT (name) DO NOTHING",
                name,
                value,
            )
            held: str = await connection.fetchval(
                "SELECT value FROM installation WHERE name = $1", name
            )
            return held

        return await self._pool.transaction(work)

    async def forget_keys(self) -> int:
        async def work(connection: Any) -> int:
            gone = await connection.fetch("DELETE FROM keys RETURNING tenant_id")
            await notify(connection, CHANNEL, "changed")
            return sum(tenant_id != OPERATOR_TENANT_ID for (tenant_id,) in gone)

        return await self._pool.transaction(work)

    async def store_operator_key(self, key: Key) -> None:
        own = msgspec.structs.replace(key, name=f"{key.name}@{self._server}")

        async def work(connection: Any) -> None:
            await connection.execute(
                "DELETE FROM keys WHERE tenant_id = $1 AND name = $2",
                OPERATOR_TENANT_ID,
                own.name,
            )
            await insert_key(connection, own)
            await notify(connection, CHANNEL, "changed")

        await self._pool.transaction(work)
