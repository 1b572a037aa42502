"""A host's clock that jumps back an hour under a running server, and across a restart."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from tests.system.installation import ROOT, Installation
from tests.system.wire import Connection
from tests.system.writers import PATH, all_documents

_DRIVER = (sys.executable, str(Path(__file__).with_name("clock_driver.py")))
_HOUR_MS = 3_600_000


async def _write(port: int, key: str, names: list[str]) -> list[dict[str, Any]]:
    async with Connection(port, key) as connection:
        made = []
        for name in names:
            answer = await connection.send("POST", PATH, {"n": name}, {"Idempotency-Key": name})
            assert answer.status == 201, answer
            made.append({"headers": answer.headers, **answer.json()})
        return made


async def _page(port: int, key: str, cursor: str) -> Any:
    async with Connection(port, key) as connection:
        answer = await connection.send("GET", f"{PATH}?limit=5{cursor}")
        assert answer.status == 200, answer
        return answer.json()


def test_clock_that_jumps_back_keeps_ids_ascending_cursors_and_replays_working(
    tmp_path: Path,
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    installation = Installation(
        tmp_path / "data", _DRIVER, CLOCK_OFFSET_FILE=str(offset), PYTHONPATH=str(ROOT)
    )
    try:
        installation.start()
        port = installation.port
        key = installation.make_tenant("acme")
        first = asyncio.run(_write(port, key, [f"a{n}" for n in range(10)]))
        page = asyncio.run(_page(port, key, ""))
        offset.write_text(str(-_HOUR_MS))
        second = asyncio.run(_write(port, key, [f"b{n}" for n in range(10)]))
        ids = [document["id"] for document in first + second]
        assert ids == sorted(ids)
        again = asyncio.run(_write(port, key, ["a3", "b3"]))
        assert [d["id"] for d in again] == [first[3]["id"], second[3]["id"]]
        assert all(d["headers"]["idempotency-replayed"] == "true" for d in again)
        seen = page["data"]
        while page["next_cursor"] is not None:
            page = asyncio.run(_page(port, key, f"&cursor={page['next_cursor']}"))
            seen = seen + page["data"]
        assert sorted(d["id"] for d in seen) == ids
        assert installation.stop() == 0
        # Before this start the clock has gone back a second time.
        offset.write_text(str(-2 * _HOUR_MS))
        installation.start()
        third = asyncio.run(_write(installation.port, key, [f"c{n}" for n in range(10)]))
        again = asyncio.run(_write(installation.port, key, ["a3", "b3", "c3"]))
        assert [d["id"] for d in again] == [first[3]["id"], second[3]["id"], third[3]["id"]]
        assert len(asyncio.run(all_documents(installation.port, key))) == 30
        assert installation.stop() == 0
        assert installation.integrity() == "ok"
    finally:
        installation.end()
