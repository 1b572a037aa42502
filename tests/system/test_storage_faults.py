"""A disk that is full, read-only, or holds something else: one clear answer, nothing corrupted."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.installation import Installation
from tests.system.wire import Connection, Response
from tests.system.writers import PATH, all_documents

# The file limit of `ulimit -f` is in KiB in bash.
_FULL_AT_KIB = 1536


def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    done = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return done.returncode == 0


needs_mounts = pytest.mark.skipif(not _may_mount(), reason="needs the right to mount (root)")


async def _fill(installation: Installation, key: str) -> tuple[int, Response]:
    """Write until refused: how many were acknowledged, and the refusal."""
    async with Connection(installation.port, key) as connection:
        for number in range(2000):
            answer = await connection.send("POST", PATH, {"n": number, "pad": "x" * 20_000})
            if answer.status != 201:
                return number, answer
    raise AssertionError("the disk never became full")


async def _numbers(installation: Installation, key: str) -> list[int]:
    return sorted(d["data"]["n"] for d in await all_documents(installation.port, key))


async def _write_one(installation: Installation, key: str, number: int) -> int:
    async with Connection(installation.port, key) as connection:
        return (await connection.send("POST", PATH, {"n": number})).status


def _check_refusal(answer: Response) -> None:
    assert answer.status in (503, 507), answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] in ("storage_full", "storage_unavailable"), answer
    assert answer.json()["detail"]


def test_a_file_that_cannot_grow_answers_507_or_503_and_keeps_what_it_has(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "data")
    try:
        installation.start()
        key = installation.make_tenant("acme")
        assert installation.stop() == 0
        limited = ("bash", "-c", f'ulimit -f {_FULL_AT_KIB}; exec "$@"', "bash")
        installation.start(before=limited)
        written, refusal = asyncio.run(_fill(installation, key))
        _check_refusal(refusal)
        # Reading goes on.
        assert asyncio.run(_numbers(installation, key)) == list(range(written))
        installation.kill()
        installation.start()
        assert asyncio.run(_numbers(installation, key)) == list(range(written))
        assert asyncio.run(_write_one(installation, key, written)) == 201
        assert installation.stop() == 0
        assert installation.integrity() == "ok"
    finally:
        installation.end()


@needs_mounts
def test_full_disk_answers_507_or_503_and_writing_goes_on_when_space_returns(
    tmp_path: Path,
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    installation = Installation(disk / "data")
    installation.log = tmp_path / "log"
    mount = f'mount -t tmpfs -o size=8m none "{disk}" && exec "$@"'
    try:
        installation.start(
            before=("unshare", "-m", "bash", "-c", mount, "bash"), MONOLITE_DISK_BYTES_MIN="1"
        )
        # The mount is seen by the server's namespace alone: its root leads there.
        seen = Path(f"/proc/{installation.process.pid}/root{disk}")
        operator_key = (seen / "data" / "operator.key").read_text().strip()
        key = asyncio.run(_make_tenant(installation, operator_key))
        (seen / "ballast").write_bytes(bytes(2 << 20))
        written, refusal = asyncio.run(_fill(installation, key))
        _check_refusal(refusal)
        assert asyncio.run(_numbers(installation, key)) == list(range(written))
        (seen / "ballast").unlink()
        assert asyncio.run(_write_one(installation, key, written)) == 201
        assert asyncio.run(_numbers(installation, key)) == list(range(written + 1))
        shutil.copytree(seen / "data", tmp_path / "data")
        copy = Installation(tmp_path / "data")
        assert copy.integrity() == "ok"
        assert installation.stop() == 0
    finally:
        installation.end()


async def _make_tenant(installation: Installation, operator_key: str) -> str:
    async with Connection(installation.port, operator_key) as connection:
        made = await connection.send("POST", "/v1/tenants", {"name": "acme"})
        return str(made.json()["key"])


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        # The -shm file is SQLite's scratch index of the log, made anew by whoever opens it.
        if path.name in ("monolite.db", "monolite.db-wal")
    }


def _refusal_line(installation: Installation, before: tuple[str, ...] = ()) -> str:
    """The one line with which `serve` refuses to start."""
    done = subprocess.run(
        [
            *(*before, *installation.command, "serve"),
            *("--data", str(installation.data), "--listen", f"127.0.0.1:{installation.port}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        env=installation.environment(),
        check=False,
    )
    assert done.returncode not in (0, None), done
    # What is logged is JSON; the refusal is for people.
    lines = [line for line in done.stderr.splitlines() if not line.startswith('{"time"')]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("monolite: ")
    return lines[0]


@pytest.fixture
def stopped(tmp_path: Path) -> Installation:
    """An installation with a tenant and documents, stopped."""
    installation = Installation(tmp_path / "data")
    try:
        installation.start()
        key = installation.make_tenant("acme")
        for number in range(20):
            asyncio.run(_write_one(installation, key, number))
        assert installation.stop() == 0
    finally:
        installation.end()
    return installation


def test_truncated_database_file_is_refused_and_left_as_it_is(stopped: Installation) -> None:
    database = stopped.data / "monolite.db"
    os.truncate(database, database.stat().st_size // 2 // 4096 * 4096)
    before = _digests(stopped.data)
    line = _refusal_line(stopped)
    assert "damaged" in line, line
    assert "restore" in line, line
    assert _digests(stopped.data) == before


def test_database_cut_inside_its_first_page_is_refused_and_left_as_it_is(
    stopped: Installation,
) -> None:
    os.truncate(stopped.data / "monolite.db", 100)
    before = _digests(stopped.data)
    line = _refusal_line(stopped)
    assert "damaged" in line, line
    assert "restore" in line, line
    assert _digests(stopped.data) == before


def test_file_that_is_no_database_is_refused_and_left_as_it_is(stopped: Installation) -> None:
    (stopped.data / "monolite.db").write_bytes(b"These are somebody's holiday notes.\n" * 500)
    before = _digests(stopped.data)
    line = _refusal_line(stopped)
    assert "monolite.db" in line, line
    assert _digests(stopped.data) == before


@needs_mounts
def test_read_only_directory_is_refused_and_left_as_it_is(stopped: Installation) -> None:
    before = _digests(stopped.data)
    data = stopped.data
    bind = f'mount --bind "{data}" "{data}" && mount -o remount,ro,bind "{data}" && exec "$@"'
    line = _refusal_line(stopped, ("unshare", "-m", "bash", "-c", bind, "bash"))
    assert str(data) in line, line
    assert _digests(stopped.data) == before


def test_second_server_on_one_directory_refuses_and_names_the_first(stopped: Installation) -> None:
    second = Installation(stopped.data)
    try:
        stopped.start()
        line = _refusal_line(second)
        assert str(stopped.process.pid) in line, line
        # The first goes on as if nothing had been.
        assert stopped.run("tenant", "list").returncode == 0
        assert stopped.stop() == 0
    finally:
        stopped.end()
