"""Litestream killed, and the machine and its disk lost, with a real S3 server."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.s3_server import S3Server
from tests.s3_server import s3_server as s3_server
from tests.system.installation import Installation
from tests.system.wire import Connection
from tests.system.writers import PATH, Ledger, all_documents, write_until

_REPLICATED = {"Prefer": "durability=replicated"}


@pytest.fixture
def replicated(tmp_path: Path, s3_server: S3Server) -> Installation:
    """An installation with a fresh replica, not yet started."""
    return Installation(
        tmp_path / "data",
        MONOLITE_REPLICA_URL=s3_server.fresh_url(),
        MONOLITE_S3_ENDPOINT=s3_server.endpoint,
        AWS_ACCESS_KEY_ID=s3_server.access_key_id,
        AWS_SECRET_ACCESS_KEY=s3_server.secret_access_key,
    )


def _litestream_pid(installation: Installation) -> int | None:
    """The server's child that replicates, found as the kernel knows it."""
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == installation.process.pid and b"replicate" in (
                (entry / "cmdline").read_bytes()
            ):
                return int(entry.name)
        except (OSError, ValueError):
            continue
    return None


def _wait_for_litestream(installation: Installation, *, but: int | None = None) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        pid = _litestream_pid(installation)
        if pid is not None and pid != but:
            return pid
        time.sleep(0.02)
    code = installation.process.poll()
    raise AssertionError(
        f"no Litestream (server exit code {code}):\n{installation.log.read_text()}"
    )


async def _write(port: int, key: str, document: dict[str, object], **headers: str) -> int:
    async with Connection(port, key) as connection:
        return (await connection.send("POST", PATH, document, headers)).status


def _numbers(installation: Installation, key: str) -> set[int]:
    documents = asyncio.run(all_documents(installation.port, key))
    return {document["data"]["number"] for document in documents}


def test_killed_litestream_is_restarted_and_no_byte_is_lost_once_caught_up(
    replicated: Installation,
) -> None:
    ledger = Ledger()
    rng = random.Random(7)

    def kill_litestream_thrice_and_stop() -> None:
        last: int | None = None
        for _ in range(3):
            last = _wait_for_litestream(replicated, but=last)
            time.sleep(rng.uniform(0.1, 0.5))
            os.kill(last, signal.SIGKILL)
        _wait_for_litestream(replicated, but=last)
        assert replicated.stop() == 0

    try:
        replicated.start()
        secret = replicated.run("secret", "export").stdout.strip()
        key = replicated.make_tenant("acme")
        asyncio.run(
            write_until(
                kill_litestream_thrice_and_stop,
                0.2,
                port=replicated.port,
                key=key,
                ledger=ledger,
                writers_count=8,
            )
        )
        replicated.destroy()
        replicated.start(MONOLITE_ROOT_SECRET=secret)
        told = {ledger.sent[write]["number"] for write in ledger.acknowledged}
        assert told <= _numbers(replicated, key)
        assert len(told) > 100
        assert replicated.stop() == 0
        assert replicated.integrity() == "ok"
    finally:
        replicated.end()


def test_writes_told_to_be_replicated_survive_the_loss_of_machine_and_disk(
    replicated: Installation,
) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    ledger = Ledger()
    try:
        replicated.start()
        secret = replicated.run("secret", "export").stdout.strip()
        key = replicated.make_tenant("acme")
        assert asyncio.run(_write(replicated.port, key, {"number": 0}, **_REPLICATED)) == 201
        for _ in range(3):

            def lose_everything() -> None:
                litestream = _litestream_pid(replicated)
                replicated.kill()
                if litestream is not None:
                    # It dies with its server; a machine's end takes both at once.
                    _wait_until_gone(litestream)
                replicated.destroy()

            asyncio.run(
                write_until(
                    lose_everything,
                    rng.uniform(0.5, 1.5),
                    port=replicated.port,
                    key=key,
                    ledger=ledger,
                    writers_count=16,
                    headers=_REPLICATED,
                )
            )
            replicated.start(MONOLITE_ROOT_SECRET=secret)
            told = {ledger.sent[write]["number"] for write in ledger.acknowledged}
            assert {0} | told <= _numbers(replicated, key)
        assert len(ledger.acknowledged) > 16
        assert replicated.stop() == 0
        assert replicated.integrity() == "ok"
    finally:
        replicated.end()


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "Litestream outlives its server"
        time.sleep(0.005)


def test_restore_without_the_secret_rotates_loudly_and_keeps_the_data(
    replicated: Installation,
) -> None:
    async def status(key: str) -> int:
        async with Connection(replicated.port, key) as connection:
            return (await connection.send("GET", PATH)).status

    try:
        replicated.start()
        old_operator = replicated.operator_key()
        old = replicated.make_tenant("acme")
        assert asyncio.run(_write(replicated.port, old, {"number": 1}, **_REPLICATED)) == 201
        replicated.destroy()
        replicated.log.unlink()
        replicated.start()
        assert asyncio.run(status(old)) == 401
        assert asyncio.run(status(old_operator)) == 401
        assert "secret" in replicated.log.read_text()
        assert replicated.operator_key() != old_operator
        made = replicated.run("key", "create", "--tenant", "acme")
        assert made.returncode == 0, made.stderr
        assert _numbers(replicated, made.stdout.strip()) == {1}
        assert replicated.stop() == 0
    finally:
        replicated.end()


def test_restore_by_timestamp_brings_back_what_was_there_then(replicated: Installation) -> None:
    try:
        replicated.start()
        secret = replicated.run("secret", "export").stdout.strip()
        key = replicated.make_tenant("acme")
        assert asyncio.run(_write(replicated.port, key, {"number": 1}, **_REPLICATED)) == 201
        time.sleep(1.5)
        then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        time.sleep(1.5)
        assert asyncio.run(_write(replicated.port, key, {"number": 2}, **_REPLICATED)) == 201
        assert replicated.stop() == 0
        replicated.destroy()
        done = replicated.run("restore", "--timestamp", then, MONOLITE_ROOT_SECRET=secret)
        assert done.returncode == 0, done.stderr
        replicated.start(MONOLITE_ROOT_SECRET=secret)
        assert _numbers(replicated, key) == {1}
        assert replicated.stop() == 0
    finally:
        replicated.end()
