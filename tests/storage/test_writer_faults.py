"""Fail the n-th write, sync or truncation, for every n; then look for what was promised."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path

import apsw
import pytest

from monolite.storage.errors import StorageError, StorageFull
from monolite.storage.sqlite import integrity
from monolite.storage.sqlite.connection import open_reader, open_writer
from monolite.storage.sqlite.writer import Writer
from tests.storage.faulty_vfs import Faults, FaultyVfs

WRITE_COUNT = 24
names = itertools.count()


async def write_under_faults(
    path: Path, faults: Faults, vfs: str, fail_at: int, code: int, *, lasting: bool, prompt: bool
) -> tuple[set[int], set[int]]:
    """The keys acknowledged and the keys refused, of writes in three batches, or each alone."""
    connection = open_writer(path, synchronous="full", autocheckpoint=False, vfs=vfs)
    connection.execute("CREATE TABLE pairs (key INTEGER PRIMARY KEY, value TEXT NOT NULL) STRICT")
    # A cache this small spills to the log inside the transaction.
    connection.pragma("cache_size", 2)
    loop = asyncio.get_running_loop()
    writer = Writer(lambda: connection, loop=loop, batch_count_max=8, commit_on_loop=prompt)
    writer.start()
    checkpoints = open_writer(path, synchronous="normal", autocheckpoint=False, vfs=vfs)
    acknowledged: set[int] = set()
    refused: set[int] = set()

    def insert(key: int) -> asyncio.Future[int]:
        def work(connection: apsw.Connection) -> int:
            connection.execute("INSERT INTO pairs VALUES (?, ?)", (key, "v" * 3000))
            return key

        return writer.submit(work, is_prompt=prompt, is_atomic=prompt and key % 2 == 0)

    async def insert_all(start: int) -> list[int | BaseException]:
        keys = range(start, start + 8)
        if not prompt:
            return await asyncio.gather(*map(insert, keys), return_exceptions=True)
        return [
            outcome
            for key in keys
            for outcome in await asyncio.gather(insert(key), return_exceptions=True)
        ]

    faults.arm(fail_at, code, lasting=lasting)
    for start in range(0, WRITE_COUNT, 8):
        for key, outcome in enumerate(await insert_all(start), start):
            if isinstance(outcome, BaseException):
                assert isinstance(outcome, StorageError)
                if code == apsw.SQLITE_FULL:
                    assert isinstance(outcome, StorageFull)
                refused.add(key)
            else:
                acknowledged.add(key)
        # Brings the database file's writes and syncs under the faults too.
        with contextlib.suppress(apsw.Error):
            checkpoints.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
    faults.disarm()
    checkpoints.close()
    # The writer outlives the fault.
    await insert(1000)
    acknowledged.add(1000)
    await writer.close()
    return acknowledged, refused


@pytest.mark.parametrize("prompt", [False, True], ids=["batches", "prompt"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("code", [apsw.SQLITE_FULL, apsw.SQLITE_IOERR], ids=["full", "ioerr"])
def test_whichever_write_or_sync_fails_acknowledged_is_what_is_stored(
    tmp_path: Path, code: int, lasting: bool, prompt: bool
) -> None:
    faults = Faults()
    vfs = FaultyVfs(name := f"faulty-{next(names)}", faults)
    refusing_runs = 0
    for fail_at in itertools.count(1):
        path = tmp_path / f"{fail_at}.db"
        acknowledged, refused = asyncio.run(
            write_under_faults(path, faults, name, fail_at, code, lasting=lasting, prompt=prompt)
        )
        integrity.check(path)
        reader = open_reader(path)
        stored = {int(row[0]) for row in reader.execute("SELECT key FROM pairs")}
        reader.close()
        assert stored == acknowledged, f"fail_at={fail_at}"
        assert refused.isdisjoint(stored)
        refusing_runs += bool(refused)
        if faults.failed_count == 0:
            break
    assert fail_at > 20
    assert refusing_runs > 10
    vfs.unregister()
