from __future__ import annotations

import asyncio
from pathlib import Path

from monolite.replication.local_state import shadow_directory
from monolite.replication.watch import LARGE_BYTES_MIN, LARGE_FILES_MAX, Watch
from tests.replication.installation import Installation, add, eventually_replicated, until
from tests.s3_server import S3Server


def test_shadow_directory_over_its_cap_is_replaced_by_a_fresh_generation(
    tmp_path: Path, s3_server: S3Server
) -> None:
    settings = s3_server.settings(shadow_bytes_max=64 * 1024, watch_interval_s=0.1)
    installation = Installation(tmp_path / "data", settings)

    async def live() -> None:
        async with installation.running() as (writer, replication):
            await replication.barrier()
            first = replication.status().replica_path
            for number in range(60):
                add(writer, f"note {number}")
                await eventually_replicated(replication)
                if replication.status().alarms:
                    break
            assert "Litestream's own files took" in replication.status().alarms[0]
            await until(lambda: replication.status().replica_path != first)
            add(writer, "the last")
            await eventually_replicated(replication)

    asyncio.run(live())
    before = installation.notes()
    installation.burn()
    installation.restore()
    assert installation.notes() == before
    assert before[-1] == "the last"


def test_litestream_that_eats_a_core_is_restarted(tmp_path: Path, s3_server: S3Server) -> None:
    # Any use at all is over a share below zero; a real runaway can't be had to order.
    settings = s3_server.settings(cpu_fraction_max=-1.0, cpu_window_s=0.3, watch_interval_s=0.1)
    installation = Installation(tmp_path / "data", settings)

    async def live() -> None:
        async with installation.running() as (_, replication):
            await until(lambda: replication.status().restarts_total >= 1)
            assert "of a core" in replication.status().alarms[0]

    asyncio.run(live())


def test_repeated_full_copies_raise_an_alarm_once(tmp_path: Path, s3_server: S3Server) -> None:
    database = tmp_path / "monolite.db"
    folder = shadow_directory(database) / "ltx" / "0"
    folder.mkdir(parents=True)
    watch = Watch(s3_server.settings(), database)
    for number in range(LARGE_FILES_MAX + 1):
        assert watch.look(now_s=float(number)) is None
        with (folder / f"{number:016x}-{number:016x}.ltx").open("wb") as file:
            file.truncate(LARGE_BYTES_MIN)
    finding = watch.look(now_s=10.0)
    assert finding is not None
    assert "copies the database again and again" in finding.text
    assert not finding.restart
