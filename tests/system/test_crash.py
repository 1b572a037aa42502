"""`kill -9` at random instants: what was acknowledged stays, and is answered alike."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from tests.system.installation import CHECKOUT, EXECUTABLE, Installation
from tests.system.writers import Ledger, all_documents, check_replays, write_until

CHECKOUT_CYCLES, EXECUTABLE_CYCLES = 50, 5


def survive(installation: Installation, seed: int, cycles_count: int) -> Ledger:
    """Kill and start again `cycles_count` times; checks every cycle's writes, and all at the end.

    Even cycles run with `synchronous=full`, odd ones with `normal`.
    """
    rng = random.Random(seed)
    print(f"seed {seed}")
    ledger = Ledger()
    key = ""
    try:
        installation.start()
        key = installation.make_tenant("acme")
        installation.kill()
        since_last: set[str] = set()
        for cycle in range(cycles_count):
            installation.start(MONOLITE_SYNCHRONOUS=("full", "normal")[cycle % 2])
            asyncio.run(check_replays(installation.port, key, ledger, since_last))
            before = set(ledger.sent)
            asyncio.run(
                write_until(
                    installation.kill,
                    rng.uniform(0.02, 0.4),
                    port=installation.port,
                    key=key,
                    ledger=ledger,
                )
            )
            since_last = set(ledger.sent) - before
            assert not ledger.refused
            if cycle % 10 == 0:
                assert installation.integrity() == "ok", f"after kill {cycle}"
        installation.start()
        asyncio.run(check_replays(installation.port, key, ledger, ledger.sent))
        check_all_there_once(asyncio.run(all_documents(installation.port, key)), ledger)
        assert installation.stop() == 0
        assert installation.integrity() == "ok"
    finally:
        installation.end()
    return ledger


def check_all_there_once(documents: list[dict[str, object]], ledger: Ledger) -> None:
    """Each write that was sent and answered is one document, and there is no other."""
    numbers = sorted(document["data"]["number"] for document in documents)  # type: ignore[index]
    assert numbers == sorted(data["number"] for data in ledger.sent.values())
    by_number = {document["data"]["number"]: document for document in documents}  # type: ignore[index]
    for write, data in ledger.sent.items():
        assert by_number[data["number"]]["data"] == data, write


@pytest.mark.parametrize(
    ("command", "cycles_count"),
    [(CHECKOUT, CHECKOUT_CYCLES), (EXECUTABLE, EXECUTABLE_CYCLES)],
    ids=["checkout", "executable"],
)
def test_killed_server_keeps_every_acknowledged_write_and_replays_the_same_answers(
    tmp_path: Path, command: tuple[str, ...], cycles_count: int
) -> None:
    if not Path(command[0]).exists():
        pytest.skip("dist/monolite is not built; run `make binary`")
    seed = int(os.environ.get("MONOLITE_TEST_SEED") or random.SystemRandom().randrange(1 << 32))
    ledger = survive(Installation(tmp_path / "data", command), seed, cycles_count)
    assert len(ledger.acknowledged) > 64 * cycles_count // 5
