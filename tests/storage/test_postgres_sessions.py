"""A pooler before PostgreSQL: one that lends sessions by the transaction is refused by name."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from monolite.storage.errors import StorageUnavailable
from monolite.storage.postgres.pool import Pool
from tests.postgres_server import PostgresServer
from tests.server_process import ROOT, Tenant, running_server
from tests.transaction_pooler import pooler


def through(url: str, port: int) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}").geturl()


async def opened(url: str) -> Pool:
    pool = Pool(url, statement_deadline_s=7.0)
    await pool.open()
    return pool


def test_a_pooler_by_the_transaction_is_refused_by_name(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.new_database()
    with pooler(postgres.port, by_transaction=True) as between:
        with pytest.raises(StorageUnavailable, match="pool_mode = session"):
            asyncio.run(opened(through(url, between.port)))
        started = subprocess.run(
            [sys.executable, "server.py", "serve", "--data", str(tmp_path / "data")],
            env=os.environ | {"MONOLITE_DATABASE_URL": through(url, between.port)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert started.returncode != 0
    assert "pool_mode = session" in started.stderr + started.stdout


def test_a_pooler_by_the_session_serves(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.new_database()
    with pooler(postgres.port, by_transaction=False) as between:
        through_it = through(url, between.port)
        with (
            running_server(tmp_path / "data", MONOLITE_DATABASE_URL=through_it) as server,
            Tenant(server) as tenant,
        ):
            answer = tenant.client.post("/v1/queues/q/jobs", json={"payload": 1})
            assert answer.status_code == 201


def test_every_connection_has_the_settings_it_needs(postgres: PostgresServer) -> None:
    url = postgres.new_database()

    async def look() -> list[list[str]]:
        pool = await opened(url)
        shown = []
        try:
            async with pool.connection() as one, pool.dedicated() as other:
                for connection in (one, other):
                    names = ("search_path", "statement_timeout", "jit", "timezone")
                    shown.append([await connection.fetchval(f"SHOW {name}") for name in names])
        finally:
            await pool.close()
        return shown

    assert asyncio.run(look()) == [
        ["monolite", "7s", "off", "UTC"],
        ["monolite", "0", "off", "UTC"],
    ]


def test_workers_that_wait_for_the_database_hold_up_nobody_else(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = postgres.new_database()
    settings = {
        "MONOLITE_DATABASE_URL": url,
        "MONOLITE_DATABASE_CONNECTIONS": "2",
        "MONOLITE_DATABASE_WORKER_CONNECTIONS": "2",
    }

    async def look(tenant: Tenant) -> None:
        blocking = await asyncpg.connect(url)
        try:
            await blocking.execute("BEGIN; LOCK TABLE monolite.jobs IN ACCESS EXCLUSIVE MODE")
            with ThreadPoolExecutor(3) as threads:
                claims = [threads.submit(claim, tenant) for _ in range(3)]
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
                while await blocking.fetchval(waiting) < 2:
                    await asyncio.sleep(0.01)
                answer = tenant.client.put("/v1/collections/c/documents/one", json={})
                await blocking.execute("ROLLBACK")
                assert answer.status_code == 201, answer.text
                assert [one.result() for one in claims] == [200, 200, 200]
        finally:
            await blocking.close()

    with running_server(tmp_path / "data", **settings) as server, Tenant(server) as tenant:
        tenant.client.post("/v1/queues/q/jobs", json={"payload": 1}).raise_for_status()
        asyncio.run(look(tenant))


def claim(tenant: Tenant) -> int:
    answer = tenant.client.post("/v1/queues/q/claim", json={"worker": "w", "lease_s": 60})
    return answer.status_code
