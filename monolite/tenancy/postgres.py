"""Tenants and keys in PostgreSQL, and the news of them that other servers need.

channel monolite_keys     key:ID         the key has ended
                          tenant:NUMBER  the tenant has
                          changed        something about one may be remembered wrongly
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import msgspec

from monolite.errors import Conflict, FieldError, Invalid, NotFound
from monolite.storage.postgres.companion import accompany
from monolite.storage.postgres.notifications import notify
from monolite.storage.postgres.pool import Pool
from monolite.tenancy.engine import Also, Key, Tenant, Usage

CHANNEL = "monolite_keys"

_TENANT = (
    "number, id, name, state, requests_per_minute_max, own_requests_per_minute_max, created_at"
)
_KEY = "id, tenant_id, name, digest, scopes, privacy, tier, created_at, expires_at, revoked_at"
_IMPORTS = 0x6D696D70
"""The class of the advisory locks of tenants that are being imported; the object is the number."""

_BATCHES_DEADLINE_S = 60.0

TenantTables = Sequence[str]
"""Every table that holds a tenant's rows, children before what they reference."""

ReadUsage = Callable[[Sequence[int]], Awaitable[dict[int, tuple[int, int]]]]
"""How many each tenant has of a subsystem's things, and their bytes; in the order of Usage."""


class PostgresTenancyEngine:
    """The TenancyEngine that several servers share."""

    def __init__(
        self, pool: Pool, tenant_tables: TenantTables, read_usage: Sequence[ReadUsage]
    ) -> None:
        self._pool = pool
        self._tenant_tables = (*tenant_tables, "keys")
        self._read_usage = read_usage
        self._imports: dict[int, AsyncExitStack] = {}

    async def create_tenant(self, tenant: Tenant, key: Key, also: Also = None) -> Tenant:
        async def work(connection: Any) -> Tenant:
            number = await connection.fetchval(
                "INSERT INTO tenants (id, name, state, requests_per_minute_max,"
                " own_requests_per_minute_max, created_at) VALUES ($1, $2, $3, $4, $5, $6)"
                " RETURNING number",
                tenant.id,
                tenant.name,
                tenant.state,
                tenant.requests_per_minute_max,
                tenant.own_requests_per_minute_max,
                tenant.created_at,
            )
            stored = msgspec.structs.replace(tenant, number=number)
            if stored.state == "active":
                await insert_key(connection, msgspec.structs.replace(key, tenant_number=number))
            await accompany(also, connection, stored)
            return stored

        try:
            if tenant.state == "importing":
                return await self._begin_import(work)
            return await self._pool.transaction(work)
        except asyncpg.UniqueViolationError:
            raise Conflict(
                f"There is a tenant named {tenant.name!r} already.", code="name_taken"
            ) from None

    async def tenant(self, name: str) -> Tenant | None:
        return await self._one("name = $1 AND state = 'active'", name)

    async def tenant_by_number(self, number: int) -> Tenant | None:
        return await self._one("number = $1 AND state = 'active'", number)

    async def tenants(self, after: str | None, limit: int) -> Sequence[Tenant]:
        rows = await self._pool.fetch(
            f"SELECT {_TENANT} FROM tenants WHERE state = 'active' AND name > $1"  # noqa: S608
            " ORDER BY name LIMIT $2",
            after or "",
            limit,
        )
        return [Tenant(*row) for row in rows]

    async def usage(self, tenant_numbers: Sequence[int]) -> dict[int, Usage]:
        found = [await read(tenant_numbers) for read in self._read_usage]
        return {
            number: Usage(*itertools.chain(*(one.get(number, (0, 0)) for one in found)))
            for number in tenant_numbers
        }

    async def limit_tenant(
        self, number: int, *, operator: bool, requests_per_minute_max: int | None
    ) -> None:
        column = "requests_per_minute_max" if operator else "own_requests_per_minute_max"

        async def work(connection: Any) -> None:
            await connection.execute(
                f"UPDATE tenants SET {column} = $1 WHERE number = $2",  # noqa: S608
                requests_per_minute_max,
                number,
            )
            await notify(connection, CHANNEL, "changed")

        await self._pool.transaction(work)

    async def begin_delete(self, number: int) -> None:
        async def work(connection: Any) -> None:
            await connection.execute(
                "UPDATE tenants SET state = 'deleting' WHERE number = $1", number
            )
            await connection.execute("DELETE FROM keys WHERE tenant_id = $1", number)
            await notify(connection, CHANNEL, f"tenant:{number}")

        await self._pool.transaction(work)
        await self._end_import(number)

    async def continue_delete(self, number: int, row_count_max: int) -> bool:
        async def work(connection: Any) -> bool:
            for table in self._tenant_tables:
                # By place and not by key: the batch is read and deleted in one statement, and
                # every table has a place. https://www.postgresql.org/docs/16/ddl-system-columns.html
                done = await connection.execute(
                    f"DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table}"  # noqa: S608
                    " WHERE tenant_id = $1 LIMIT $2))",
                    number,
                    row_count_max,
                    timeout=_BATCHES_DEADLINE_S,
                )
                if done != "DELETE 0":
                    return False
            await connection.execute("DELETE FROM tenants WHERE number = $1", number)
            return True

        try:
            return await self._pool.transaction(work)
        except asyncpg.ForeignKeyViolationError:
            # Another server, which had not heard of it yet, has written since.
            return False

    async def unfinished(self) -> Sequence[int]:
        # An import that a server is at now holds its lock; one without was cut short.
        rows = await self._pool.fetch(
            "SELECT number FROM tenants WHERE state = 'deleting' OR (state = 'importing' AND NOT"
            " EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid"
            " FROM pg_database WHERE datname = current_database()) AND classid::bigint = $1"
            " AND objid::bigint = number AND objsubid = 2)) ORDER BY number",
            _IMPORTS,
        )
        return [number for (number,) in rows]

    async def activate(self, number: int, key: Key) -> Tenant:
        async def work(connection: Any) -> Tenant:
            row = await connection.fetchrow(
                "UPDATE tenants SET state = 'active' WHERE number = $1 AND state = 'importing'"  # noqa: S608
                f" RETURNING {_TENANT}",
                number,
            )
            if row is None:
                raise Conflict("The import was undone by another server; repeat it.")
            await insert_key(connection, key)
            return Tenant(*row)

        active = await self._pool.transaction(work)
        await self._end_import(number)
        return active

    async def create_key(self, key: Key, also: Also = None) -> None:
        async def work(connection: Any) -> None:
            await insert_key(connection, key)
            await accompany(also, connection, key)

        await self._pool.transaction(work)

    async def key(self, key_id: str) -> Key | None:
        row = await self._pool.fetchrow(f"SELECT {_KEY} FROM keys WHERE id = $1", key_id)  # noqa: S608
        return None if row is None else _key(row)

    async def keys(self, tenant_number: int, after: str | None, limit: int) -> Sequence[Key]:
        rows = await self._pool.fetch(
            f"SELECT {_KEY} FROM keys WHERE tenant_id = $1 AND id > $2 AND revoked_at IS NULL"  # noqa: S608
            " ORDER BY id LIMIT $3",
            tenant_number,
            after or "",
            limit,
        )
        return [_key(row) for row in rows]

    async def revoke_key(self, tenant_number: int, key_id: str, now_ms: int) -> bool:
        async def work(connection: Any) -> bool:
            ended = await connection.fetchval(
                "UPDATE keys SET revoked_at = $1 WHERE tenant_id = $2 AND id = $3"
                " AND revoked_at IS NULL RETURNING id",
                now_ms,
                tenant_number,
                key_id,
            )
            if ended is None:
                return False
            await notify(connection, CHANNEL, f"key:{key_id}")
            return True

        return await self._pool.transaction(work)

    async def close(self) -> None:
        """Give up the imports that still run: the next start of a server undoes them."""
        for number in list(self._imports):
            await self._end_import(number)

    async def _begin_import(self, work: Callable[[Any], Awaitable[Tenant]]) -> Tenant:
        """Store the tenant under a lock that its importer's session holds.

        So a server that starts meanwhile knows it from one whose importer has died.
        """
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._pool.dedicated())
            async with connection.transaction():
                stored = await work(connection)
                await connection.execute(
                    "SELECT pg_advisory_lock($1::int, $2::int)", _IMPORTS, stored.number
                )
            self._imports[stored.number] = stack.pop_all()
        return stored

    async def _end_import(self, number: int) -> None:
        stack = self._imports.pop(number, None)
        if stack is not None:
            await stack.aclose()

    async def _one(self, where: str, value: str | int) -> Tenant | None:
        row = await self._pool.fetchrow(
            f"SELECT {_TENANT} FROM tenants WHERE {where}",  # noqa: S608
            value,
        )
        return None if row is None else Tenant(*row)


async def insert_key(connection: Any, key: Key) -> None:
    """Store a key in an open transaction.

    Raises NotFound where its tenant is not there any more, Invalid where its name has U+0000.
    """
    if "\x00" in key.name:
        why = "U+0000 can't be in a name"
        raise Invalid(f"#/name: {why}", [FieldError("#/name", why)])
    stored = await connection.fetchval(
        # Of a tenant that is being deleted, nothing may be left behind; the operator has no row.
        f"INSERT INTO keys ({_KEY}) SELECT $1, $2::bigint, $3, $4, $5, $6, $7, $8, $9, $10"  # noqa: S608
        " WHERE $2::bigint = 0 OR EXISTS (SELECT FROM tenants WHERE number = $2::bigint"
        " AND state = 'active' FOR KEY SHARE) RETURNING id",
        key.id,
        key.tenant_number,
        key.name,
        key.digest,
        " ".join(sorted(key.scopes)),
        key.privacy,
        key.tier,
        key.created_at,
        key.expires_at,
        key.revoked_at,
    )
    if stored is None:
        raise NotFound("There is no tenant of that name.")


def _key(row: Any) -> Key:
    key_id, tenant_number, name, digest, scopes, *rest = row
    return Key(key_id, tenant_number, name, digest, frozenset(scopes.split()), *rest)
