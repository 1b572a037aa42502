from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from monolite.replication import manifest
from monolite.replication.errors import ReplicaUnreachable, ReplicaUnverified, TargetExists
from monolite.replication.s3 import S3Client
from tests.replication.installation import Installation, add
from tests.s3_server import S3Server


@pytest.fixture
def installation(tmp_path: Path, s3_server: S3Server) -> Installation:
    return Installation(tmp_path / "data", s3_server.settings())


async def write(installation: Installation, *texts: str) -> str:
    """Writes each, replicated; the moment after the last, in RFC 3339."""
    async with installation.running() as (writer, replication):
        add(writer, *texts)
        await replication.barrier()
        moment = datetime.now(UTC)
        await asyncio.sleep(0.01)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_an_empty_bucket_is_a_fresh_install(installation: Installation) -> None:
    assert installation.restore() is None
    assert not installation.database.exists()


@pytest.mark.parametrize(
    "fault",
    [
        {"endpoint": "http://127.0.0.1:9"},
        {"secret_access_key": "another-secret"},
        {"url": "s3://no-such-bucket/prefix"},
    ],
)
def test_a_replica_that_can_not_be_looked_for_is_not_an_empty_one(
    tmp_path: Path, s3_server: S3Server, fault: dict[str, str]
) -> None:
    installation = Installation(tmp_path / "data", s3_server.settings(**({"url": None} | fault)))
    with pytest.raises(ReplicaUnreachable):
        installation.restore()
    assert not installation.path.exists()


def test_a_prefix_that_holds_something_else_is_not_an_empty_one(installation: Installation) -> None:
    S3Client(installation.settings).put(f"{installation.settings.prefix}/0000/x.ltx", b"x")
    with pytest.raises(ReplicaUnverified, match="no generation of Monolite's"):
        installation.restore()


def test_an_existing_database_is_never_overwritten(installation: Installation) -> None:
    asyncio.run(write(installation, "one"))
    with pytest.raises(TargetExists, match="never overwritten"):
        installation.restore()
    assert installation.notes() == ["one"]


def test_point_in_time_restore_gives_the_state_of_that_moment(installation: Installation) -> None:
    async def live() -> list[str]:
        moments = []
        async with installation.running() as (writer, replication):
            for text in ("one", "two", "three"):
                add(writer, text)
                await replication.barrier()
                await asyncio.sleep(0.01)
                moments.append(datetime.now(UTC).isoformat(timespec="milliseconds"))
                await asyncio.sleep(0.01)
        return moments

    for count, moment in enumerate(asyncio.run(live()), start=1):
        installation.burn()
        installation.restore(timestamp=moment)
        assert installation.notes() == ["one", "two", "three"][:count]


def test_restored_server_writes_a_fresh_generation_and_the_next_restore_has_all(
    installation: Installation,
) -> None:
    before = asyncio.run(write(installation, "first life"))
    installation.burn()
    first = installation.restore()
    asyncio.run(write(installation, "second life"))
    installation.burn()
    second = installation.restore()
    assert first is not None
    assert second is not None
    assert first.generation < second.generation
    assert installation.notes() == ["first life", "second life"]
    installation.burn()
    older = installation.restore(timestamp=before)
    assert older is not None
    assert older.generation == first.generation
    assert installation.notes() == ["first life"]


def test_a_generation_begun_and_never_written_leaves_the_one_before_in_force(
    installation: Installation,
) -> None:
    asyncio.run(write(installation, "one"))
    installation.burn()
    first = installation.restore()
    assert first is not None
    later = f"{int(first.generation[:13]) + 1:013d}-00000000"
    prefix = installation.settings.prefix
    S3Client(installation.settings).put(f"{prefix}/{later}/origin.json", b"{}")
    installation.burn()
    again = installation.restore()
    assert again is not None
    assert again.generation == first.generation


def test_a_moment_before_the_first_generation_is_refused(installation: Installation) -> None:
    asyncio.run(write(installation, "one"))
    installation.burn()
    with pytest.raises(ReplicaUnverified, match="reaches back"):
        installation.restore(timestamp="2001-01-01T00:00:00Z")


def test_a_damaged_replica_puts_nothing_in_place(installation: Installation) -> None:
    asyncio.run(write(installation, "one"))
    client = S3Client(installation.settings)
    for key, _ in client.list(f"{installation.settings.prefix}/", delimiter="").objects:
        body = client.get(key)
        assert body is not None
        client.put(key, body[: len(body) // 2])
    installation.burn()
    with pytest.raises(ReplicaUnverified, match="can't be restored"):
        installation.restore()
    assert not installation.database.exists()
    assert not list(installation.path.glob(".restore-*"))


def test_rows_that_differ_from_a_final_manifest_are_refused_unless_accepted(
    installation: Installation,
) -> None:
    async def live() -> None:
        async with installation.running() as (writer, replication):
            add(writer, "one", "two")
            manifest.record(writer, 1_000, final=True)
            writer.execute("DELETE FROM notes WHERE text = 'two'")
            await replication.barrier()

    asyncio.run(live())
    installation.burn()
    with pytest.raises(ReplicaUnverified, match="notes has 1 rows, recorded were 2"):
        installation.restore()
    report = installation.restore(accept_differences=True)
    assert report is not None
    assert report.differences == {"notes": (2, 1)}
    assert report.manifest_recorded_at_ms == 1_000


def test_rows_that_came_after_an_hourly_manifest_are_shown_and_accepted(
    installation: Installation,
) -> None:
    async def live() -> None:
        async with installation.running() as (writer, replication):
            add(writer, "one")
            manifest.record(writer, 1_000, manifest.measure(writer))
            add(writer, "two")
            await replication.barrier()

    asyncio.run(live())
    installation.burn()
    report = installation.restore()
    assert report is not None
    assert report.differences == {"notes": (1, 2)}


def test_a_manifest_stops_being_final_when_the_server_starts_again(
    installation: Installation,
) -> None:
    writer = installation.open()
    add(writer, "one")
    manifest.record(writer, 1_000, final=True)
    assert manifest.verify(writer).final
    manifest.record(writer, 2_000)
    add(writer, "two")
    found = manifest.verify(writer)
    writer.close()
    assert not found.final
    assert found.failures == ()
    assert found.differences == {"notes": (1, 2)}
