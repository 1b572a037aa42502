"""`kill -9` of the relay under writers and a compactor: what was acknowledged is in the document.

The replicas keep a set that only grows: a blob is numbers, a line each, and merging is union.
So the document after a crash is the union of the blobs that live, whatever superseded what.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
from itertools import count
from pathlib import Path

from tests.system.installation import CHECKOUT, Installation
from tests.system.wire import Closed, Connection, Response, Truncated

DOCUMENT = "/v1/sync/list"
WRITERS_COUNT, CYCLES_COUNT = 24, 6


class Replicas:
    """What every replica sent, and what it was told."""

    def __init__(self) -> None:
        self.numbers = count(1)
        self.updates: dict[bytes, int] = {}  # acknowledged: its seq
        self.states: dict[str, bytes] = {}  # acknowledged last
        self.acknowledged: set[int] = set()
        self.seqs: dict[int, str] = {}  # given: the etag it was given with
        self.compactions = 0
        self.refused: list[Response] = []

    def note(self, answer: Response) -> bool:
        """Whether it was taken. A `seq` belongs to one etag for ever."""
        if answer.status not in (200, 201):
            self.refused.append(answer)
            return False
        told = answer.json()
        assert self.seqs.setdefault(told["seq"], told["etag"]) == told["etag"], told
        return True


def numbers_of(blob: bytes) -> set[int]:
    return {int(line) for line in blob.split()}


def blob_of(numbers: set[int]) -> bytes:
    return "\n".join(str(number) for number in sorted(numbers)).encode()


async def listed(connection: Connection) -> dict[int, set[int]]:
    """Every live entry's numbers, by seq."""
    found: dict[int, set[int]] = {}
    since = ""
    while True:
        answer = await connection.send("GET", f"{DOCUMENT}/entries?blobs=inline&limit=1000{since}")
        if answer.status == 404:
            return found  # a document comes into being with its first write
        if answer.status == 410:  # compacted meanwhile: its own cursor goes on from the snapshot
            found, since = {}, f"&since={answer.json()['cursor']}"
            continue
        assert answer.status == 200, answer
        page = answer.json()
        for entry in page["data"]:
            found[entry["seq"]] = numbers_of(base64.b64decode(entry["blob"]))
        if page["up_to_date"]:
            return found
        since = f"&since={page['next_cursor']}"


async def append(connection: Connection, replicas: Replicas) -> None:
    number = next(replicas.numbers)
    blob = blob_of({number})
    answer = await connection.send("POST", f"{DOCUMENT}/updates", blob)
    if replicas.note(answer):
        replicas.updates[blob] = answer.json()["seq"]
        replicas.acknowledged.add(number)


async def put_state(connection: Connection, replicas: Replicas, replica: str) -> None:
    number = next(replicas.numbers)
    blob = blob_of(numbers_of(replicas.states.get(replica, b"")) | {number})
    if replicas.note(await connection.send("PUT", f"{DOCUMENT}/states/{replica}", blob)):
        replicas.states[replica] = blob
        replicas.acknowledged.add(number)


async def compact(connection: Connection, replicas: Replicas) -> None:
    live = await listed(connection)
    if len(live) < 2:
        await asyncio.sleep(0.005)
        return
    named = ",".join(str(seq) for seq in live)
    merged: set[int] = set().union(*live.values())
    answer = await connection.send(
        "POST", f"{DOCUMENT}/snapshots", blob_of(merged), {"X-Supersedes": named}
    )
    replicas.compactions += replicas.note(answer)


async def work(port: int, key: str, replicas: Replicas, index: int) -> None:
    """One client, until the server goes: the first compacts, every third puts its state."""
    try:
        async with Connection(port, key) as connection:
            while True:
                if index == 0:
                    await compact(connection, replicas)
                elif index % 3 == 0:
                    await put_state(connection, replicas, f"replica-{index}")
                else:
                    await append(connection, replicas)
    except (Closed, Truncated, OSError):
        return


async def write_until_killed(
    installation: Installation, key: str, replicas: Replicas, after_s: float
) -> None:
    clients = [
        asyncio.create_task(work(installation.port, key, replicas, index))
        for index in range(WRITERS_COUNT)
    ]
    await asyncio.sleep(after_s)
    await asyncio.to_thread(installation.kill)
    await asyncio.gather(*clients)


async def check(port: int, key: str, replicas: Replicas, rng: random.Random) -> None:
    """All that was acknowledged is in what lives; sending again costs nothing."""
    async with Connection(port, key) as connection:
        live = await listed(connection)
        there: set[int] = set().union(*live.values())
        assert replicas.acknowledged <= there, sorted(replicas.acknowledged - there)[:10]
        highest = max(replicas.seqs, default=0)
        again = sorted(replicas.updates)
        for blob in rng.sample(again, min(40, len(again))):
            answer = await connection.send("POST", f"{DOCUMENT}/updates", blob)
            assert answer.status == 200, answer
            assert answer.json()["seq"] == replicas.updates[blob]
        assert set(await listed(connection)) == set(live), "resending stored something"
        await append(connection, replicas)
        assert max(replicas.seqs) > highest, "a number was given again"


def test_killed_relay_keeps_every_acknowledged_entry_under_compaction(tmp_path: Path) -> None:
    seed = int(os.environ.get("MONOLITE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    rng = random.Random(seed)
    replicas = Replicas()
    installation = Installation(tmp_path / "data", CHECKOUT)
    try:
        installation.start()
        key = installation.make_tenant("acme")
        installation.kill()
        for cycle in range(CYCLES_COUNT):
            installation.start(MONOLITE_SYNCHRONOUS=("full", "normal")[cycle % 2])
            asyncio.run(check(installation.port, key, replicas, rng))
            after_s = rng.uniform(0.1, 0.5)
            asyncio.run(write_until_killed(installation, key, replicas, after_s))
            assert not replicas.refused, replicas.refused[:3]
        installation.start()
        asyncio.run(check(installation.port, key, replicas, rng))
        assert installation.stop() == 0
        assert installation.integrity() == "ok"
    finally:
        installation.end()
    assert len(replicas.acknowledged) > 10 * CYCLES_COUNT
    assert replicas.compactions > CYCLES_COUNT // 2
