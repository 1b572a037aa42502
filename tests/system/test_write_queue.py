"""A full write queue refuses at once and never grows."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import apsw

from tests.system.installation import Installation
from tests.system.wire import Connection, Response
from tests.system.writers import PATH, all_documents


async def _one(port: int, key: str, number: int) -> Response:
    async with Connection(port, key) as connection:
        return await connection.send("POST", PATH, {"n": number})


async def _queue_count(port: int, operator_key: str) -> int:
    async with Connection(port, operator_key) as connection:
        status: Any = (await connection.send("GET", "/v1/operator/status")).json()
        return int(status["engine"]["write_queue_count"])


async def _crowd(installation: Installation, key: str) -> list[Response]:
    """Forty writes while somebody else holds the database's write lock."""
    operator_key = installation.operator_key()
    blocker = apsw.Connection(str(installation.data / "monolite.db"))
    blocker.execute("BEGIN IMMEDIATE")
    tasks = [asyncio.create_task(_one(installation.port, key, n)) for n in range(40)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert await _queue_count(installation.port, operator_key) <= 4
    finally:
        blocker.execute("ROLLBACK")
        blocker.close()
    return await asyncio.gather(*tasks)


def test_full_write_queue_answers_503_with_retry_after_and_keeps_its_bound(tmp_path: Path) -> None:
    # With `full` a writer thread waits for the lock while the loop goes on refusing.
    installation = Installation(
        tmp_path / "data", MONOLITE_WRITE_QUEUE="4", MONOLITE_SYNCHRONOUS="full"
    )
    try:
        installation.start()
        key = installation.make_tenant("acme")
        assert asyncio.run(_one(installation.port, key, 1000)).status == 201
        answers = asyncio.run(_crowd(installation, key))
        statuses = Counter(answer.status for answer in answers)
        assert set(statuses) == {201, 503}, statuses
        for answer in answers:
            if answer.status == 503:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.json()["code"] == "write_queue_full"
        documents = asyncio.run(all_documents(installation.port, key))
        assert len(documents) == 1 + statuses[201]
        assert asyncio.run(_one(installation.port, key, 2000)).status == 201
        assert installation.stop() == 0
    finally:
        installation.end()
