from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from monolite.replication import local_state
from monolite.replication.errors import ReplicationUnavailable
from monolite.replication.s3 import S3Client
from tests.programs import started
from tests.replication.installation import Installation, add, eventually_replicated, until
from tests.s3_server import S3Server


@pytest.fixture
def installation(tmp_path: Path, s3_server: S3Server) -> Installation:
    return Installation(tmp_path / "data", s3_server.settings())


def test_everything_before_a_barrier_comes_back_after_the_machine_burns(
    installation: Installation,
) -> None:
    async def live() -> None:
        async with installation.running() as (writer, replication):
            add(writer, *(f"note {i}" for i in range(500)))
            await replication.barrier()
            pid = replication.status().pid
            assert pid is not None
            # No last sync at stop: what the barrier promised must be enough.
            os.kill(pid, signal.SIGKILL)

    asyncio.run(live())
    installation.burn()
    report = installation.restore()
    assert report is not None
    assert report.rows["notes"] == 500
    assert installation.notes() == [f"note {i}" for i in range(500)]


def test_killed_litestream_is_restarted_and_loses_nothing(installation: Installation) -> None:
    async def live() -> None:
        async with installation.running() as (writer, replication):
            add(writer, "before")
            await replication.barrier()
            first = replication.status()
            assert first.pid is not None
            os.kill(first.pid, signal.SIGKILL)
            add(writer, "while it was dead")
            await until(lambda: replication.status().restarts_total == 1)
            add(writer, "after")
            await eventually_replicated(replication)
            second = replication.status()
            assert second.state == "running"
            assert second.pid != first.pid
            assert second.replica_path == first.replica_path
            await until(lambda: replication.status().lag_ms == 0)

    asyncio.run(live())
    installation.burn()
    installation.restore()
    assert installation.notes() == ["before", "while it was dead", "after"]


def test_a_quiet_stop_syncs_what_was_written_last(installation: Installation) -> None:
    async def live() -> None:
        async with installation.running() as (writer, replication):
            await replication.barrier()
            add(writer, "the last words")

    asyncio.run(live())
    installation.burn()
    installation.restore()
    assert installation.notes() == ["the last words"]


def test_barrier_refuses_while_s3_is_out_of_reach_and_the_write_stays(
    tmp_path: Path, s3_server: S3Server
) -> None:
    dead = Installation(tmp_path / "data", s3_server.settings(endpoint="http://127.0.0.1:9"))

    async def live() -> None:
        async with dead.running() as (writer, replication):
            add(writer, "kept")
            await until(lambda: replication.status().state == "backoff")
            with pytest.raises(ReplicationUnavailable) as refusal:
                await replication.barrier(2.0)
            assert refusal.value.retry_after_s >= 1
            assert "127.0.0.1:9" in str(replication.status().last_error)
            assert replication.status().lag_ms > 0

    asyncio.run(live())
    assert dead.notes() == ["kept"]


def test_lag_says_how_old_the_oldest_commit_outside_s3_is(installation: Installation) -> None:
    async def live() -> None:
        async with installation.running() as (writer, replication):
            await replication.barrier()
            await until(lambda: replication.status().lag_ms == 0)
            pid = replication.status().pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            try:
                add(writer, "stuck")
                await until(lambda: replication.status().lag_ms >= 500)
            finally:
                os.kill(pid, signal.SIGCONT)
            await until(lambda: replication.status().lag_ms == 0)

    asyncio.run(live())


def test_restart_of_the_server_goes_on_in_the_same_generation(installation: Installation) -> None:
    async def live(*texts: str) -> str | None:
        async with installation.running() as (writer, replication):
            add(writer, *texts)
            await replication.barrier()
            return replication.status().replica_path

    assert asyncio.run(live("one")) == asyncio.run(live("two"))


def test_checkpoint_while_stopped_begins_a_fresh_generation(
    installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    async def live(*texts: str) -> str | None:
        async with installation.running() as (writer, replication):
            add(writer, *texts)
            await replication.barrier()
            return replication.status().replica_path

    first = asyncio.run(live("one"))
    stranger = apsw.Connection(str(installation.database))
    add(stranger, "written behind its back")
    stranger.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    add(stranger, "and after")
    stranger.close()
    second = asyncio.run(live("two"))
    assert first != second
    assert "moved on without its replica" in caplog.text
    installation.burn()
    installation.restore()
    assert installation.notes() == ["one", "written behind its back", "and after", "two"]


CHILD = """
import asyncio, sys
from pathlib import Path
from monolite.replication.settings import ReplicaSettings
from tests.replication.installation import Installation

async def main():
    settings = ReplicaSettings(*sys.argv[2:6])
    async with Installation(Path(sys.argv[1]), settings).running() as (writer, replication):
        await replication.barrier()
        print(replication.status().pid, flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_kill_9_of_the_server_leaves_no_litestream_and_needs_no_fresh_copy(
    installation: Installation,
) -> None:
    settings = installation.settings
    installation.path.mkdir()
    arguments = [settings.url, settings.endpoint, settings.access_key_id]
    command = started(
        [sys.executable, "-c", CHILD, str(installation.path), *map(str, arguments),
         settings.secret_access_key],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    with command as server:
        pid = int(server.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
    asyncio.run(until(lambda: not _alive(pid)))
    generation = local_state.load(installation.path / "replica")

    async def again() -> None:
        async with installation.running() as (_, replication):
            await replication.barrier()

    asyncio.run(again())
    assert local_state.load(installation.path / "replica") == generation


def _alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


def test_secrets_appear_in_no_log_line_and_no_status(
    tmp_path: Path, s3_server: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    good = s3_server.settings()
    wrong = s3_server.settings(good.url, secret_access_key="a-wrong-secret-access-key")
    installation = Installation(tmp_path / "data", good)

    async def live() -> None:
        async with installation.running() as (writer, replication):
            add(writer, "one")
            await replication.barrier()
        # With the generation begun, it is Litestream itself that meets the refusal.
        async with installation.running(wrong) as (writer, replication):
            add(writer, "two")
            with pytest.raises(ReplicationUnavailable) as refusal:
                await replication.barrier()
            shown = f"{replication.status()} {refusal.value.detail}"
            assert not re.search(f"{good.access_key_id}|{wrong.secret_access_key}", shown)

    asyncio.run(live())
    assert "litestream:" in caplog.text
    for secret in (good.secret_access_key, wrong.secret_access_key, good.access_key_id):
        assert secret not in caplog.text
        assert secret == good.access_key_id or secret not in f"{good} {wrong}"


def test_drill_proves_the_replica_against_the_live_rows(installation: Installation) -> None:
    async def live() -> None:
        async with installation.running() as (writer, replication):
            add(writer, "one", "two", "three")
            await replication.barrier()
            report = await replication.drill()
            assert report.ok, report.detail
            assert report.exact
            assert report.rows["notes"] == 3
            assert replication.status().last_drill_ok
            assert replication.status().last_drill_at_ms == report.started_at_ms
            assert not list(installation.path.glob(".drill-*"))

    asyncio.run(live())


def test_drill_stays_right_while_somebody_writes(installation: Installation) -> None:
    async def write(writer: apsw.Connection) -> None:
        while True:
            add(writer, "again")
            await asyncio.sleep(0.002)

    async def live() -> None:
        async with installation.running() as (writer, replication):
            await replication.barrier()
            writing = asyncio.create_task(write(writer))
            reports = [await replication.drill() for _ in range(3)]
            writing.cancel()
            assert [report.detail for report in reports if not report.ok] == []

    asyncio.run(live())


@pytest.mark.parametrize("damage", ["a flipped bit", "a lost file"])
def test_drill_notices_a_damaged_replica(installation: Installation, damage: str) -> None:
    async def live() -> None:
        async with installation.running() as (writer, replication):
            add(writer, "one")
            await replication.barrier()
            path = str(replication.status().replica_path)
            client = S3Client(installation.settings)
            prefix = path.removeprefix(f"s3://{installation.settings.bucket}/")
            # Its first full copy and first merge are on their way for a second.
            await until(lambda: len(client.list(f"{prefix}/", delimiter="").objects) >= 4)
            for key, _ in client.list(f"{prefix}/", delimiter="").objects:
                body = client.get(key)
                assert body
                if key.endswith("origin.json"):
                    continue
                if damage == "a lost file":
                    client.delete(key)
                else:
                    middle = len(body) // 2
                    flipped = bytes([body[middle] ^ 1])
                    client.put(key, body[:middle] + flipped + body[middle + 1 :])
            add(writer, "two")
            report = await replication.drill()
            assert not report.ok
            assert replication.status().last_drill_ok is False
            assert replication.status().last_drill_detail == report.detail

    asyncio.run(live())
