from __future__ import annotations

import asyncio
import os
from pathlib import Path

import apsw
import pytest

from monolite.replication import local_state
from tests.replication.installation import Installation, add
from tests.s3_server import S3Server

OLD, NEW = b"old salt", b"new salt"


@pytest.mark.parametrize(
    ("copied", "committed", "now", "covered"),
    [
        ((4000, OLD), (4000, OLD), (4000, OLD), True),
        ((8000, OLD), (4000, OLD), (8000, OLD), True),
        ((4000, OLD), (8000, OLD), (8000, OLD), False),
        # Litestream checkpointed between the looks: its file is of the new log.
        ((100, NEW), (8000, OLD), (100, NEW), True),
        # Somebody else did, and Litestream still reads the old one.
        ((8000, OLD), (100, NEW), (100, NEW), False),
        (None, (100, NEW), (100, NEW), False),
    ],
)
def test_a_copy_counts_only_if_it_reaches_the_commit(
    copied: tuple[int, bytes] | None,
    committed: tuple[int, bytes] | None,
    now: tuple[int, bytes] | None,
    covered: bool,
) -> None:
    assert local_state.covers(copied, committed, now) is covered


def test_litestreams_last_file_ends_where_sqlites_log_does(
    tmp_path: Path, s3_server: S3Server
) -> None:
    installation = Installation(tmp_path / "data", s3_server.settings())

    async def live() -> None:
        async with installation.running() as (writer, replication):
            for text in ("one", "two"):
                add(writer, text)
                await replication.barrier()
                txid = local_state.newest_txid(installation.database)
                copied = local_state.copied_end(installation.database, txid)
                assert copied is not None
                assert copied == local_state.log_end(installation.database)

    asyncio.run(live())


def test_a_litestream_that_lags_behind_the_log_is_not_believed(
    tmp_path: Path, s3_server: S3Server
) -> None:
    installation = Installation(tmp_path / "data", s3_server.settings())

    async def live() -> None:
        async with installation.running() as (writer, replication):
            add(writer, "one")
            await replication.barrier()
            txid = local_state.newest_txid(installation.database)
            add(writer, "two")
            copied = local_state.copied_end(installation.database, txid)
            end = local_state.log_end(installation.database)
            assert not local_state.covers(copied, end, end)

    asyncio.run(live())


def test_an_unreadable_state_is_no_state(tmp_path: Path) -> None:
    (tmp_path / local_state.STATE_NAME).write_text('{"url": "s3://b/p", "generat')
    assert local_state.load(tmp_path) is None


def test_reading_the_wal_index_leaves_sqlites_locks_on_it(tmp_path: Path) -> None:
    """Closed after each reading, it dropped them; a new Litestream truncated the mapped file."""
    database = tmp_path / "locked.db"
    connection = apsw.Connection(str(database))
    connection.pragma("journal_mode", "wal")
    connection.execute("CREATE TABLE t (x)")
    index = (tmp_path / "locked.db-shm").stat()
    assert local_state.change_counter(database) is not None
    name = f"{os.major(index.st_dev):02x}:{os.minor(index.st_dev):02x}:{index.st_ino}"
    mine = [
        line
        for line in Path("/proc/locks").read_text().splitlines()
        if name in line and f" {os.getpid()} " in line
    ]
    assert mine, "the dead man's switch of the wal-index is held"
    connection.close()
