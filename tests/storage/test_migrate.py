from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from monolite.storage.errors import SchemaTooNew, StorageCorrupt
from monolite.storage.sqlite.connection import open_writer
from monolite.storage.sqlite.migrate import (
    build_by_migrations,
    create_database,
    migrate,
    schema_version,
)
from monolite.storage.sqlite.schema import Migration, Schema, load_schema, outline, shipped_schema

RECORD = (
    "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, "
    "checksum TEXT NOT NULL, compatible_from INTEGER NOT NULL, applied_at INTEGER NOT NULL) STRICT;"
)
ONE = Migration(1, "first", f"{RECORD} CREATE TABLE a (x INTEGER -- why\n) STRICT;", 1)
TWO = Migration(2, "column", "ALTER TABLE a ADD COLUMN y TEXT; INSERT INTO a VALUES (1, 'z');", 1)
THREE = Migration(3, "table", "CREATE TABLE b (z INTEGER) STRICT; DROP TABLE a;", 3)
V1 = Schema(ONE.sql, (ONE,))
V2 = Schema(f"{RECORD} CREATE TABLE a (x INTEGER, y TEXT) STRICT;", (ONE, TWO))
V3 = Schema(f"{RECORD} CREATE TABLE b (z INTEGER) STRICT;", (ONE, TWO, THREE))


def opened(path: Path) -> apsw.Connection:
    return open_writer(path, synchronous="normal", autocheckpoint=True)


def test_the_shipped_migrations_give_what_schema_sql_gives() -> None:
    schema = shipped_schema()
    by_file, by_steps = apsw.Connection(":memory:"), apsw.Connection(":memory:")
    migrate(by_file, schema=schema, now_ms=1)
    build_by_migrations(by_steps, schema)
    assert outline(by_steps) == outline(by_file)


@pytest.mark.parametrize("schema", [V1, V2, V3])
def test_outlines_agree_whichever_way_a_schema_was_reached(schema: Schema) -> None:
    by_file, by_steps = apsw.Connection(":memory:"), apsw.Connection(":memory:")
    migrate(by_file, schema=schema, now_ms=1)
    build_by_migrations(by_steps, schema)
    assert outline(by_steps) == outline(by_file)


def test_a_new_file_is_whole_before_it_has_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    create_database(path, schema=V2, now_ms=7)
    connection = opened(path)
    assert migrate(connection, schema=V2, now_ms=8).applied == ()
    rows = connection.execute("SELECT version, applied_at FROM schema_migrations").fetchall()
    assert rows == [(1, 7), (2, 7)]
    connection.close()
    assert not (tmp_path / "a.db.new").exists()


def test_an_old_file_gets_what_it_lacks_in_order(tmp_path: Path) -> None:
    connection = opened(tmp_path / "a.db")
    migrate(connection, schema=V1, now_ms=1)
    report = migrate(connection, schema=V3, now_ms=2)
    assert (report.version_before, report.version_after) == (1, 3)
    assert report.applied == ("0002_column", "0003_table")
    assert connection.pragma("foreign_keys") == 1


def test_a_newer_file_that_is_compatible_is_served_and_left_alone(tmp_path: Path) -> None:
    connection = opened(tmp_path / "a.db")
    migrate(connection, schema=V2, now_ms=1)
    changes = connection.total_changes()
    report = migrate(connection, schema=V1, now_ms=2)
    assert report.newer
    assert connection.total_changes() == changes


def test_a_newer_file_that_is_not_compatible_is_refused_with_both_versions(tmp_path: Path) -> None:
    connection = opened(tmp_path / "a.db")
    migrate(connection, schema=V3, now_ms=1)
    with pytest.raises(SchemaTooNew, match=r"schema 3.*knows 2.*use monolite >="):
        migrate(connection, schema=V2, now_ms=2)


def test_a_changed_migration_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    connection = opened(tmp_path / "a.db")
    migrate(connection, schema=V1, now_ms=1)
    changed = Schema("", (Migration(1, "first", ONE.sql + "-- edited", 1),))
    with pytest.raises(StorageCorrupt, match="0001_first"):
        migrate(connection, schema=changed, now_ms=2)
    foreign = opened(tmp_path / "b.db")
    foreign.execute("CREATE TABLE theirs (x)")
    with pytest.raises(StorageCorrupt, match="another program"):
        migrate(foreign, schema=V1, now_ms=2)


class Interrupted(BaseException):
    pass


def test_interrupted_at_any_statement_it_leaves_a_whole_step_and_goes_on(tmp_path: Path) -> None:
    for stop_at in range(1, 100):
        path = tmp_path / f"{stop_at}.db"
        connection = opened(path)
        migrate(connection, schema=V1, now_ms=1)
        seen = 0

        def tracer(cursor: object, sql: str, bindings: object, stop_at: int = stop_at) -> bool:
            nonlocal seen
            seen += 1
            if seen == stop_at:
                raise Interrupted
            return True

        connection.exec_trace = tracer
        try:
            migrate(connection, schema=V3, now_ms=2)
            finished = True
        except Interrupted:
            finished = False
        connection.exec_trace = None
        connection.close()
        again = opened(path)
        version = schema_version(again)
        tables = {name for kind, name, _ in outline(again) if kind == "table"}
        assert tables == {"schema_migrations", "b" if version == 3 else "a"}
        migrate(again, schema=V3, now_ms=3)
        assert schema_version(again) == 3
        again.close()
        if finished:
            break
    assert stop_at > 10
    assert finished


def test_a_migration_that_orphans_rows_is_taken_back(tmp_path: Path) -> None:
    parent = Migration(
        1,
        "first",
        "CREATE TABLE p (id INTEGER PRIMARY KEY) STRICT;"
        "CREATE TABLE c (p INTEGER REFERENCES p ON DELETE CASCADE) STRICT;"
        "INSERT INTO p VALUES (1); INSERT INTO c VALUES (1);",
        1,
    )
    bad = Migration(2, "drop", "DELETE FROM p;", 1)
    connection = opened(tmp_path / "a.db")
    migrate(connection, schema=Schema(parent.sql, (parent,)), now_ms=1)
    with pytest.raises(StorageCorrupt, match="0002_drop"):
        migrate(connection, schema=Schema("", (parent, bad)), now_ms=1)
    assert connection.execute("SELECT count(*) FROM c").fetchone() == (1,)
    assert schema_version(connection) == 1


def test_a_gap_or_a_missing_header_is_a_programming_error(tmp_path: Path) -> None:
    (tmp_path / "schema.sql").write_text("")
    steps = tmp_path / "migrations"
    steps.mkdir()
    (steps / "0002_late.sql").write_text("-- compatible-from: 1\n")
    with pytest.raises(ValueError, match="0001_"):
        load_schema(tmp_path / "schema.sql", steps)
    (steps / "0002_late.sql").rename(steps / "0001_first.sql")
    assert load_schema(tmp_path / "schema.sql", steps).version == 1
    (steps / "0001_first.sql").write_text("SELECT 1;")
    with pytest.raises(ValueError, match="compatible-from"):
        load_schema(tmp_path / "schema.sql", steps)


def test_a_first_start_killed_at_once_can_start_again(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    (tmp_path / "a.db.new").write_bytes(b"half of something")
    code = (
        "import sys, pathlib; from monolite.storage.sqlite.migrate import create_database;"
        "from monolite.storage.sqlite.schema import shipped_schema;"
        "create_database(pathlib.Path(sys.argv[1]), schema=shipped_schema(), now_ms=1)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=Path.cwd())
    assert path.stat().st_size > 0


def test_an_emptied_file_is_refused_and_not_filled_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    create_database(path, schema=V1, now_ms=1)
    path.write_bytes(b"")
    with pytest.raises(StorageCorrupt, match="empty"):
        create_database(path, schema=V1, now_ms=2)
    assert path.read_bytes() == b""
