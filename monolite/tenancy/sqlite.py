"""Tenants and keys in SQLite."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import apsw

from monolite.errors import Conflict
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer
from monolite.tenancy.engine import Also, Key, Tenant, Usage

_TENANT = (
    "number, id, name, state, requests_per_minute_max, own_requests_per_minute_max, created_at"
)
_KEY = "id, tenant_id, name, digest, scopes, privacy, tier, created_at, expires_at, revoked_at"

_USAGE_DEADLINE_S = 60.0

# Every table that holds a tenant's rows, children before what they reference. The names come from
# the subsystems by way of the assembly, never from a request.
TenantTables = Sequence[str]

ReadUsage = Callable[[apsw.Connection, int], tuple[int, int]]
"""How many a tenant has of a subsystem's things, and their bytes; in the order of Usage."""

Eraser = Callable[[apsw.Connection, int, int], bool]
"""Removes some of a tenant's rows, about so many, from tables that aren't found by tenant; whether
there were any.
"""


class SqliteTenancyEngine:
    """The embedded TenancyEngine."""

    def __init__(
        self,
        writer: Writer,
        readers: Readers,
        tenant_tables: TenantTables,
        read_usage: Sequence[ReadUsage] = (),
        erasers: Sequence[Eraser] = (),
    ) -> None:
        self._writer = writer
        self._readers = readers
        self._read_usage = read_usage
        self._erasers = erasers
        self._tenant_tables = (*tenant_tables, "keys")

    async def create_tenant(self, tenant: Tenant, key: Key, also: Also = None) -> Tenant:
        def work(connection: apsw.Connection) -> Tenant:
            try:
                number = connection.execute(
                    "INSERT INTO tenants (id, name, state, requests_per_minute_max,"
                    " own_requests_per_minute_max, created_at) VALUES (?, ?, ?, ?, ?, ?)"
                    " RETURNING number",
                    (
                        tenant.id,
                        tenant.name,
                        tenant.state,
                        tenant.requests_per_minute_max,
                        tenant.own_requests_per_minute_max,
                        tenant.created_at,
                    ),
                ).get
            except apsw.ConstraintError:
                raise Conflict(
                    f"There is a tenant named {tenant.name!r} already.", code="name_taken"
                ) from None
            stored: Tenant = _with(tenant, number=number)
            if stored.state == "active":
                insert_key(connection, _with(key, tenant_number=number))
            if also is not None:
                also(connection, stored)
            return stored

        return await self._writer.submit(work)

    async def tenant(self, name: str) -> Tenant | None:
        return self._one("name = ? AND state = 'active'", name)

    async def tenant_by_number(self, number: int) -> Tenant | None:
        return self._one("number = ? AND state = 'active'", number)

    async def tenants(self, after: str | None, limit: int) -> Sequence[Tenant]:
        rows = self._readers.inline.execute(
            f"SELECT {_TENANT} FROM tenants WHERE state = 'active' AND name > ?"  # noqa: S608
            " ORDER BY name LIMIT ?",
            (after or "", limit),
        )
        return [Tenant(*row) for row in rows]

    async def usage(self, tenant_numbers: Sequence[int]) -> dict[int, Usage]:
        read_usage = self._read_usage

        def read(connection: apsw.Connection) -> dict[int, Usage]:
            found = {}
            for number in tenant_numbers:
                for documents, size in connection.execute(
                    "SELECT count(*), coalesce(sum(length(data)), 0) FROM documents"
                    " WHERE tenant_id = ?",
                    (number,),
                ):
                    more = itertools.chain(*(one(connection, number) for one in read_usage))
                    found[number] = Usage(documents, size, *more)
            return found

        # It reads every row's length; the operator can wait for a large tenant's.
        return await self._readers.run(read, deadline_s=_USAGE_DEADLINE_S)

    async def limit_tenant(
        self, number: int, *, operator: bool, requests_per_minute_max: int | None
    ) -> None:
        column = "requests_per_minute_max" if operator else "own_requests_per_minute_max"

        def work(connection: apsw.Connection) -> None:
            connection.execute(
                f"UPDATE tenants SET {column} = ? WHERE number = ?",  # noqa: S608
                (requests_per_minute_max, number),
            )

        await self._writer.submit(work)

    async def begin_delete(self, number: int) -> None:
        def work(connection: apsw.Connection) -> None:
            connection.execute("UPDATE tenants SET state = 'deleting' WHERE number = ?", (number,))
            connection.execute("DELETE FROM keys WHERE tenant_id = ?", (number,))

        await self._writer.submit(work)

    async def continue_delete(self, number: int, row_count_max: int) -> bool:
        def work(connection: apsw.Connection) -> bool:
            for erase in self._erasers:
                if erase(connection, number, row_count_max):
                    return False
            for table in self._tenant_tables:
                if _delete_some(connection, table, number, row_count_max):
                    return False
            connection.execute("DELETE FROM tenants WHERE number = ?", (number,))
            return True

        return await self._writer.submit(work, is_long=True)

    async def unfinished(self) -> Sequence[int]:
        rows = self._readers.inline.execute("SELECT number FROM tenants WHERE state <> 'active'")
        return [number for (number,) in rows]

    async def activate(self, number: int, key: Key) -> Tenant:
        def work(connection: apsw.Connection) -> Tenant:
            connection.execute("UPDATE tenants SET state = 'active' WHERE number = ?", (number,))
            insert_key(connection, key)
            (row,) = connection.execute(
                f"SELECT {_TENANT} FROM tenants WHERE number = ?",  # noqa: S608
                (number,),
            )
            return Tenant(*row)

        return await self._writer.submit(work)

    async def create_key(self, key: Key, also: Also = None) -> None:
        def work(connection: apsw.Connection) -> None:
            insert_key(connection, key)
            if also is not None:
                also(connection, key)

        await self._writer.submit(work)

    async def key(self, key_id: str) -> Key | None:
        row = self._readers.inline.execute(
            f"SELECT {_KEY} FROM keys WHERE id = ?",  # noqa: S608
            (key_id,),
        ).fetchone()
        return None if row is None else _key(row)

    async def keys(self, tenant_number: int, after: str | None, limit: int) -> Sequence[Key]:
        rows = self._readers.inline.execute(
            f"SELECT {_KEY} FROM keys WHERE tenant_id = ? AND id > ? AND revoked_at IS NULL"  # noqa: S608
            " ORDER BY id LIMIT ?",
            (tenant_number, after or "", limit),
        )
        return [_key(row) for row in rows]

    async def revoke_key(self, tenant_number: int, key_id: str, now_ms: int) -> bool:
        def work(connection: apsw.Connection) -> bool:
            row = connection.execute(
                "UPDATE keys SET revoked_at = ? WHERE tenant_id = ? AND id = ?"
                " AND revoked_at IS NULL RETURNING id",
                (now_ms, tenant_number, key_id),
            ).fetchall()
            return bool(row)

        return await self._writer.submit(work)

    def _one(self, where: str, value: str | int) -> Tenant | None:
        row = self._readers.inline.execute(
            f"SELECT {_TENANT} FROM tenants WHERE {where}",  # noqa: S608
            (value,),
        ).fetchone()
        return None if row is None else Tenant(*row)


def _with(value: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(value, **changes)


def insert_key(connection: apsw.Connection, key: Key) -> None:
    """Store a key in the writer's transaction."""
    connection.execute(
        f"INSERT INTO keys ({_KEY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
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
        ),
    )


def _key(row: tuple[Any, ...]) -> Key:
    key_id, tenant_number, name, digest, scopes, *rest = row
    return Key(key_id, tenant_number, name, digest, frozenset(scopes.split()), *rest)


def _delete_some(
    connection: apsw.Connection, table: str, tenant_number: int, row_count_max: int
) -> bool:
    """Delete up to `row_count_max` rows; whether there were any."""
    key = primary_key(connection, table)
    rows = connection.execute(
        f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table}"  # noqa: S608
        f" WHERE tenant_id = ? LIMIT ?) RETURNING 1",
        (tenant_number, row_count_max),
    ).fetchall()
    return bool(rows)


def primary_key(connection: apsw.Connection, table: str) -> str:
    """The primary key's columns, or `rowid` where the table has one."""
    columns = connection.execute(
        "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (table,)
    ).fetchall()
    return ", ".join(str(name) for (name,) in columns) or "rowid"
