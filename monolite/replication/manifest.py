"""The row-count manifest: what a restored database is compared with when its machine is gone.

    counts = measure(reader)                      hourly, on a reader: the writer is never held
    record(writer_connection, now_ms, counts)     the writer then stores a few dozen rows
    record(writer_connection, now_ms, final=True) the last write at stop: exact, nothing follows
    record(writer_connection, now_ms)             the first write at start: no longer final

Rows come and go after an hourly count, so a difference from it is a fact to show, not a failure.
Three things are exact. A final manifest is the last commit of its life, so every count must equal
it. Every recorded table must be there with the definition it had. And a drill compares with the
live database at the very transaction that was restored (`drill.py`), whatever its size. Counting
inside the writer's transaction could be exact every hour too, and would hold every other write for
as long as SQLite reads its largest table's smallest index: 10 to 300 ms a million rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import apsw

DDL = """\
-- ── Replication ─────────────────────────────────────────────────────────────────────────────────
-- What a restored copy is compared with: each table's rows when last counted, and a digest of its
-- definition. Written hourly, at start and at stop by replication/manifest.py, read by `restore`
-- and the drill. `final` is 1 from stop to the next start: nothing was written after. A row goes
-- when its table does.
CREATE TABLE replica_manifest (
    table_name  TEXT    PRIMARY KEY,
    row_count   INTEGER NOT NULL,
    definition  TEXT    NOT NULL,
    final       INTEGER NOT NULL CHECK (final IN (0, 1)),
    recorded_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
TABLE = "replica_manifest"


@dataclass(frozen=True)
class TableFacts:
    """A table's rows, and the SHA-256 of its CREATE statement in hex."""

    row_count: int
    definition: str


@dataclass(frozen=True)
class Verification:
    """`failures` make a copy unacceptable; `differences` are table → (recorded, found)."""

    rows: Mapping[str, int]
    failures: tuple[str, ...]
    differences: Mapping[str, tuple[int, int]]
    recorded_at_ms: int | None
    final: bool


def measure(connection: apsw.Connection) -> dict[str, TableFacts]:
    """Counts every table in one snapshot. Reads whole indexes: keep it off the writer and the loop.

    Left out: this manifest, virtual tables (their shadow tables are counted) and SQLite's and
    Litestream's own.
    """
    facts: dict[str, TableFacts] = {}
    # A savepoint nests, so one transaction of the caller's or our own holds all the counts.
    with connection:
        for name, sql in _tables(connection):
            quoted = name.replace('"', '""')
            # A table's name can't be bound; it comes from the schema itself, and is quoted.
            count = connection.execute(f'SELECT count(*) FROM "{quoted}"').get  # noqa: S608
            facts[name] = TableFacts(int(count), hashlib.sha256(sql.encode()).hexdigest())
    return facts


def record(
    connection: apsw.Connection,
    now_ms: int,
    counts: Mapping[str, TableFacts] | None = None,
    *,
    final: bool = False,
) -> None:
    """Replaces the manifest inside the caller's transaction; `now_ms` is since 1970.

    With `counts` None and `final` false only marks what is there as no longer final.
    """
    if counts is None and not final:
        connection.execute("UPDATE replica_manifest SET final = 0 WHERE final = 1")
        return
    facts = measure(connection) if counts is None else counts
    connection.execute("DELETE FROM replica_manifest")
    connection.executemany(
        "INSERT INTO replica_manifest (table_name, row_count, definition, final, recorded_at)"
        " VALUES (?, ?, ?, ?, ?)",
        [(n, f.row_count, f.definition, int(final), now_ms) for n, f in facts.items()],
    )


def verify(connection: apsw.Connection) -> Verification:
    """Compares a copy with the manifest inside it. Raises nothing for a bad copy: see `failures`.

    A copy with no manifest (made before the first hour, or by another program) has no failures and
    `recorded_at_ms` None.
    """
    found = measure(connection)
    rows = {name: facts.row_count for name, facts in found.items()}
    exists = connection.execute(
        "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", (TABLE,)
    ).get
    if exists is None:
        return Verification(rows, (), {}, None, False)
    failures: list[str] = []
    differences: dict[str, tuple[int, int]] = {}
    recorded_at_ms: int | None = None
    any_final = False
    for name, row_count, definition, final, recorded_at in connection.execute(
        "SELECT table_name, row_count, definition, final, recorded_at FROM replica_manifest"
    ):
        recorded_at_ms = max(recorded_at, recorded_at_ms or 0)
        any_final = any_final or bool(final)
        facts = found.get(name)
        if facts is None:
            failures.append(f"the table {name} is missing")
            continue
        if facts.definition != definition and final:
            failures.append(f"the table {name} is defined otherwise than recorded")
        if facts.row_count != row_count:
            differences[name] = (row_count, facts.row_count)
            if final:
                failures.append(f"{name} has {facts.row_count} rows, recorded were {row_count}")
    return Verification(rows, tuple(failures), differences, recorded_at_ms, any_final)


def _tables(connection: apsw.Connection) -> list[tuple[str, str]]:
    return [
        (str(name), str(sql))
        for name, sql in connection.execute(
            "SELECT s.name, s.sql FROM sqlite_schema AS s"
            " JOIN pragma_table_list AS t ON t.name = s.name AND t.schema = 'main'"
            " WHERE s.type = 'table' AND t.type IN ('table', 'shadow')"
            " AND s.name NOT GLOB 'sqlite_*' AND s.name NOT GLOB '_litestream_*'"
            " AND s.name <> ? ORDER BY s.name",
            (TABLE,),
        )
    ]
