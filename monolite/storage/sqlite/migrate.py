"""Brings a database file to this program's schema, or refuses it with what to do next.

    no tables             → schema.sql and all versions recorded, in one transaction
    older                 → each missing migration in its own transaction, with its record
    the same              → nothing is written
    newer, compatible     → nothing is written: a release that was rolled back runs on it
    newer, incompatible   → SchemaTooNew
    other tables          → StorageCorrupt: not a Monolite database

A process killed at any instant leaves the last whole step; the next start goes on from there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import apsw

from monolite.storage.data_directory import sync_directory
from monolite.storage.errors import (
    SchemaTooNew,
    StorageCorrupt,
    StorageError,
    from_apsw,
    from_os_error,
)
from monolite.storage.migrations import Migration
from monolite.storage.sqlite.integrity import examine
from monolite.storage.sqlite.schema import Schema
from monolite.storage.sqlite.transaction import immediate

RECORD_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    version         INTEGER PRIMARY KEY,
    name            TEXT    NOT NULL,
    checksum        TEXT    NOT NULL,
    compatible_from INTEGER NOT NULL,
    applied_at      INTEGER NOT NULL
) STRICT
"""


@dataclass(frozen=True)
class MigrationReport:
    """`version_before` is 0 for a new file; `newer` when a later release wrote the file."""

    version_before: int
    version_after: int
    applied: tuple[str, ...]
    newer: bool


@dataclass(frozen=True)
class _Applied:
    version: int
    name: str
    checksum: str
    compatible_from: int


def migrate(connection: apsw.Connection, *, schema: Schema, now_ms: int) -> MigrationReport:
    """Brings the open database to `schema`; `now_ms` is recorded as the time of each step.

    Raises SchemaTooNew, StorageCorrupt for a file that isn't ours or whose applied migrations
    differ from the shipped ones, and StorageError when the disk fails.
    """
    try:
        applied = _applied(connection)
        if applied is None:
            return _create(connection, schema, now_ms)
        _verify(applied, schema)
        before = applied[-1].version
        if before >= schema.version:
            return MigrationReport(before, before, (), newer=before > schema.version)
        missing = schema.migrations[before:]
        # A migration that rebuilds a table drops the old one, and with foreign keys on that
        # deletes the rows that point to it. https://www.sqlite.org/lang_altertable.html#otheralter
        connection.pragma("foreign_keys", "OFF")
        try:
            for migration in missing:
                _apply(connection, migration, now_ms)
        finally:
            connection.pragma("foreign_keys", "ON")
        return MigrationReport(
            before, schema.version, tuple(f"{m.version:04}_{m.name}" for m in missing), newer=False
        )
    except apsw.Error as error:
        failure = from_apsw(error)
        if failure is None:
            raise
        raise failure from error


def create_database(path: Path, *, schema: Schema, now_ms: int) -> None:
    """Makes a new database beside its final name and renames it into place, synced.

    So a file of that name is always whole: an empty one was cut off later, and is refused rather
    than filled anew over someone's data. A file that exists is only examined. Raises StorageError,
    StorageCorrupt for one that was cut off.
    """
    if path.exists():
        examine(path)
        return
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.unlink(missing_ok=True)
        connection = apsw.Connection(str(temporary))
        try:
            # Nothing to protect before the rename: one fsync for all.
            connection.pragma("journal_mode", "MEMORY")
            connection.pragma("synchronous", "OFF")
            migrate(connection, schema=schema, now_ms=now_ms)
            connection.pragma("journal_mode", "WAL")
        finally:
            connection.close()
        descriptor = os.open(temporary, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
        sync_directory(path.parent)
    except apsw.Error as error:
        raise from_apsw(error) or StorageError(f"can't create {path}: {error}") from error
    except OSError as error:
        raise from_os_error(error, f"create the database {path}") from error


def schema_version(connection: apsw.Connection) -> int:
    """The newest migration applied to an open database; 0 for one without any."""
    applied = _applied(connection)
    return applied[-1].version if applied else 0


def _applied(connection: apsw.Connection) -> list[_Applied] | None:
    tables = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return None
    applied: list[_Applied] = []
    if "schema_migrations" in tables:
        rows = connection.execute(
            "SELECT version, name, checksum, compatible_from FROM schema_migrations "
            "ORDER BY version"
        )
        for version, name, checksum, compatible_from in rows:
            assert isinstance(version, int)
            assert isinstance(compatible_from, int)
            applied.append(_Applied(version, str(name), str(checksum), compatible_from))
    if not applied:
        raise StorageCorrupt(
            "the file is a database of another program (no schema_migrations): "
            "choose another directory with --data"
        )
    return applied


def _verify(applied: list[_Applied], schema: Schema) -> None:
    newest = applied[-1]
    needs = max(step.compatible_from for step in applied)
    if needs > schema.version:
        raise SchemaTooNew(
            f"the database has schema {newest.version}, which needs a program of schema {needs} or "
            f"later; this one knows {schema.version}: use monolite >= the release that wrote it, "
            "or restore a backup taken before that upgrade"
        )
    for step, migration in zip(applied, schema.migrations, strict=False):
        if step.version != migration.version or step.checksum != migration.checksum:
            raise StorageCorrupt(
                f"migration {step.version:04}_{step.name} in the file differs from this program's "
                f"{migration.version:04}_{migration.name}: use the release that wrote the file, or "
                "restore a backup"
            )


def _create(connection: apsw.Connection, schema: Schema, now_ms: int) -> MigrationReport:
    with immediate(connection):
        connection.execute(schema.sql)
        for migration in schema.migrations:
            _record(connection, migration, now_ms)
    return MigrationReport(0, schema.version, ("schema.sql",), newer=False)


def _apply(connection: apsw.Connection, migration: Migration, now_ms: int) -> None:
    with immediate(connection):
        connection.execute(migration.sql)
        broken = connection.execute("PRAGMA foreign_key_check").fetchone()
        if broken is not None:
            raise StorageCorrupt(
                f"migration {migration.version:04}_{migration.name} would leave a row of "
                f"{broken[0]} without its parent in {broken[2]}; nothing was changed: use the "
                "release before and report it"
            )
        _record(connection, migration, now_ms)


def _record(connection: apsw.Connection, migration: Migration, now_ms: int) -> None:
    connection.execute(RECORD_TABLE)
    connection.execute(
        "INSERT INTO schema_migrations VALUES (?, ?, ?, ?, ?)",
        (migration.version, migration.name, migration.checksum, migration.compatible_from, now_ms),
    )


def build_by_migrations(connection: apsw.Connection, schema: Schema) -> None:
    """Fills an empty database step by step, as if each release had been installed.

    What a test compares with schema.sql's result (`outline`), so that the two can't drift.
    """
    for migration in schema.migrations:
        _apply(connection, migration, now_ms=0)
