"""Brings the schema `monolite` of a database to this program, or refuses it with what to do next.

    migrations/0001_first.sql         tenants, keys, facts, idempotent answers
    migrations/0002_documents.sql     a subsystem adds the next number; nothing else is to be done

Each file runs in its own transaction with its record, under a lock that one server at a time
holds: of several that start together one applies them and the others find them applied. A file may
hold whatever a transaction allows, so no CREATE INDEX CONCURRENTLY. It needs no schema's name,
since `monolite` is the whole search path. Once released a file never changes.

    older                 → the missing files, in order
    the same              → nothing is written
    newer, compatible     → nothing is written: a release that was rolled back runs on it
    newer, incompatible   → SchemaTooNew
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monolite.storage.errors import SchemaTooNew, StorageCorrupt
from monolite.storage.migrations import Migration, load_migrations, program_root
from monolite.storage.postgres.pool import SCHEMA, Pool

_LOCK = 0x6D6F6E6F6C697465
"""The bytes of `monolite`: the advisory lock of whoever migrates."""

_RECORD_TABLE = """
CREATE TABLE schema_migrations (
    version         bigint PRIMARY KEY,
    name            text   NOT NULL,
    checksum        text   NOT NULL,
    compatible_from bigint NOT NULL,
    applied_at      bigint NOT NULL
)
"""


@dataclass(frozen=True)
class MigrationReport:
    """`version_before` is 0 for a new database; `newer` when a later release wrote it."""

    version_before: int
    version_after: int
    applied: tuple[str, ...]
    newer: bool


def shipped_migrations() -> tuple[Migration, ...]:
    """The program's own, from the checkout or from inside the executable."""
    return load_migrations(program_root() / "monolite" / "storage" / "postgres" / "migrations")


async def migrate(pool: Pool, *, migrations: Sequence[Migration], now_ms: int) -> MigrationReport:
    """Bring the database to `migrations`; `now_ms` is recorded as the time of each step.

    Raises SchemaTooNew, StorageCorrupt where applied migrations differ from these, and StorageError
    where PostgreSQL fails or refuses.
    """
    async with pool.dedicated() as connection:
        # Without a deadline: the server that holds it may be filling a new column.
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        applied = await _applied(connection)
        _verify(applied, migrations)
        before = applied[-1]["version"] if applied else 0
        missing = migrations[before:]
        if not applied:
            await _prepare(connection)
        for migration in missing:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO schema_migrations VALUES ($1, $2, $3, $4, $5)",
                    migration.version,
                    migration.name,
                    migration.checksum,
                    migration.compatible_from,
                    now_ms,
                )
        return MigrationReport(
            before,
            max(before, len(migrations)),
            tuple(f"{m.version:04}_{m.name}" for m in missing),
            newer=before > len(migrations),
        )


async def _applied(connection: Any) -> list[Any]:
    known = await connection.fetchval("SELECT to_regclass($1)", f"{SCHEMA}.schema_migrations")
    if known is None:
        return []
    rows: list[Any] = await connection.fetch(
        "SELECT version, name, checksum, compatible_from FROM schema_migrations ORDER BY version"
    )
    return rows


async def _prepare(connection: Any) -> None:
    """Make the schema, unless its owner has made it for a user who may not."""
    async with connection.transaction():
        exists = await connection.fetchval("SELECT to_regnamespace($1) IS NOT NULL", SCHEMA)
        if not exists:
            await connection.execute(f"CREATE SCHEMA {SCHEMA}")
        tables = await connection.fetchval(
            "SELECT count(*) FROM pg_tables WHERE schemaname = $1", SCHEMA
        )
        if tables and not await connection.fetchval("SELECT to_regclass('schema_migrations')"):
            raise StorageCorrupt(
                f"the schema {SCHEMA} holds tables of another program (no schema_migrations): "
                "name another database in MONOLITE_DATABASE_URL"
            )
        if not tables:
            await connection.execute(_RECORD_TABLE)


def _verify(applied: Sequence[Any], migrations: Sequence[Migration]) -> None:
    needs = max((step["compatible_from"] for step in applied), default=0)
    if needs > len(migrations):
        raise SchemaTooNew(
            f"the database has schema {applied[-1]['version']}, which needs a program of schema "
            f"{needs} or later; this one knows {len(migrations)}: use monolite >= the release that "
            "wrote it, or restore a backup taken before that upgrade"
        )
    for step, migration in zip(applied, migrations, strict=False):
        if step["version"] != migration.version or step["checksum"] != migration.checksum:
            raise StorageCorrupt(
                f"migration {step['version']:04}_{step['name']} in the database differs from this "
                f"program's {migration.version:04}_{migration.name}: use the release that wrote "
                "it, or restore a backup"
            )
