"""Damaged files, backups and checkpoints: what lies on the disk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import apsw
import pytest

from monolite.storage.capacity import measure_write_capacity
from monolite.storage.errors import StorageCorrupt, StorageError, StorageUnavailable
from monolite.storage.sqlite.backup import backup
from monolite.storage.sqlite.checkpoints import Checkpointer
from monolite.storage.sqlite.connection import open_reader, open_writer
from monolite.storage.sqlite.integrity import check, examine
from tests.eventually import eventually

Opened = Callable[[], apsw.Connection]


@pytest.fixture
def filled(opened: Opened, database: Path) -> Path:
    connection = opened()
    connection.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) "
        "INSERT INTO pairs SELECT i, hex(randomblob(50)) FROM n"
    )
    connection.close()
    return database


@pytest.mark.parametrize("kept_bytes", [0, 10, 100, 5000, 50_000])
def test_a_file_cut_off_anywhere_is_refused_and_left_as_it_is(
    filled: Path, kept_bytes: int
) -> None:
    content = filled.read_bytes()[:kept_bytes]
    filled.write_bytes(content)
    with pytest.raises(StorageCorrupt, match="restore"):
        examine(filled)
    assert filled.read_bytes() == content


def test_a_file_of_something_else_is_refused_by_every_way_in(database: Path) -> None:
    database.write_bytes(b"not a database at all" * 500)
    content = database.read_bytes()
    for enter in (
        examine,
        open_reader,
        lambda path: open_writer(path, synchronous="full", autocheckpoint=True),
    ):
        with pytest.raises(StorageCorrupt):
            enter(database)
    assert database.read_bytes() == content


def test_a_missing_file_is_not_made_by_looking(database: Path) -> None:
    for look in (examine, check, open_reader):
        with pytest.raises(StorageError):
            look(database)
    assert not database.exists()


def test_flipped_bytes_are_found(filled: Path) -> None:
    content = bytearray(filled.read_bytes())
    content[8192:8292] = bytes(100)
    filled.write_bytes(content)
    with pytest.raises(StorageCorrupt):
        check(filled)


def test_a_backup_is_taken_while_a_write_is_open_and_holds_what_was_committed(
    filled: Path, opened: Opened, tmp_path: Path
) -> None:
    writer = opened()
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO pairs VALUES (9999, 'uncommitted')")
    reports: list[tuple[int, int]] = []
    copy = backup(filled, tmp_path / "copy.db", progress=lambda *bytes_: reports.append(bytes_))
    writer.execute("COMMIT")
    writer.close()
    assert reports[-1][0] == reports[-1][1]
    check(copy.path)
    reader = open_reader(copy.path)
    assert reader.execute("SELECT count(*) FROM pairs").fetchone() == (2000,)
    reader.close()
    with pytest.raises(StorageUnavailable, match="exists"):
        backup(filled, copy.path)


def test_a_backup_of_a_damaged_file_leaves_nothing(filled: Path, tmp_path: Path) -> None:
    content = bytearray(filled.read_bytes())
    content[8192:8292] = bytes(100)
    filled.write_bytes(content)
    with pytest.raises(StorageCorrupt):
        backup(filled, tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy*"))


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_quiet_servers_last_write_reaches_the_file_by_time(database: Path) -> None:
    checkpointer = Checkpointer(database, owner="monolite", interval_s=0.02)
    writer = checkpointer.watch(open_writer(database, synchronous="normal", autocheckpoint=False))
    checkpointer.start()
    writer.execute("CREATE TABLE pairs (key INTEGER PRIMARY KEY, value TEXT) STRICT")
    writer.execute("INSERT INTO pairs VALUES (1, 'needle in the file')")
    assert until(lambda: b"needle in the file" in database.read_bytes())
    writer.close()
    checkpointer.close()
    assert not checkpointer.stats().wal_over_cap


def test_the_log_stays_bounded_under_steady_writes(database: Path) -> None:
    checkpointer = Checkpointer(database, owner="monolite")
    writer = checkpointer.watch(open_writer(database, synchronous="normal", autocheckpoint=False))
    checkpointer.start()
    writer.execute("CREATE TABLE blobs (body BLOB) STRICT")

    def copied(before: int) -> bool:
        # The first checkpoint to end may have begun before the last of these writes.
        writer.execute("INSERT INTO blobs VALUES (zeroblob(4000))")
        return checkpointer.stats().checkpoints_total >= before + 2

    for _ in range(10):
        for _ in range(3000):
            writer.execute("INSERT INTO blobs VALUES (zeroblob(4000))")
        eventually(partial(copied, checkpointer.stats().checkpoints_total), "a checkpoint")
    written_bytes = 10 * 3000 * 4000
    assert checkpointer.stats().wal_bytes < written_bytes * 0.6
    writer.close()
    checkpointer.close()
    assert checkpointer.stats().wal_bytes == 0
    check(database)


def test_where_litestream_owns_checkpoints_nothing_else_makes_one(database: Path) -> None:
    checkpointer = Checkpointer(database, owner="litestream", interval_s=0.01)
    writer = checkpointer.watch(open_writer(database, synchronous="normal", autocheckpoint=False))
    checkpointer.start()
    writer.execute("CREATE TABLE blobs (body BLOB) STRICT")
    for _ in range(3000):
        writer.execute("INSERT INTO blobs VALUES (zeroblob(4000))")
    size_bytes = database.stat().st_size
    reader = open_reader(database)
    reader.execute("SELECT count(*) FROM blobs").fetchall()
    writer.close()
    checkpointer.close()
    reader.close()
    assert database.stat().st_size == size_bytes
    assert checkpointer.stats().wal_bytes > 3000 * 4000


def test_capacity_is_measured_and_leaves_nothing(tmp_path: Path) -> None:
    capacity = asyncio.run(measure_write_capacity(tmp_path, synchronous="full", duration_s=0.1))
    assert capacity.writes_per_s > 0
    assert list(tmp_path.iterdir()) == []
