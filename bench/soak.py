"""`make soak`: the crash test for as long as you like, with as many kills as that holds.

    make soak ARGS="--kills 2000 --seed 7 --data /var/tmp/soak"

Every round is the whole of tests/system/test_crash.py with another seed: 64 writers, `kill -9`,
every acknowledged write there, every idempotent replay the same, integrity_check ok. The data
directory of a round that fails is left to be looked at. With `--streams` it is
tests/streams/killed.py: events appended, read, claimed, given back and acknowledged, each effect
made exactly once; with `--valkey` too, the streams in a Valkey that is killed every other time.
With `--jobs` it is tests/jobs/killed.py: server and workers are killed, every job that was answered
is done, its effect made once.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

_KILLS_PER_ROUND = 50


def main() -> int:
    """Run rounds until the kills are done; returns 0, or raises at the first failure."""
    parser = argparse.ArgumentParser(description="Kill the server again and again under load.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, help="of the first round; default: a random one")
    parser.add_argument("--data", type=Path, help="where to put data directories")
    parser.add_argument("--streams", action="store_true", help="kill it among events")
    parser.add_argument("--valkey", action="store_true", help="with streams, in a Valkey")
    parser.add_argument("--jobs", action="store_true", help="kill it, and workers, among jobs")
    parser.add_argument("--executable", action="store_true", help="kill dist/monolite instead")
    chosen = parser.parse_args()
    # The package of tests is found from the checkout's root, where `make` stands.
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.system.installation import CHECKOUT, EXECUTABLE, Installation
    from tests.system.test_crash import survive

    first = random.SystemRandom().randrange(1 << 32) if chosen.seed is None else chosen.seed
    folder = chosen.data or Path(tempfile.mkdtemp(prefix="monolite-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    began_s = time.monotonic()
    kills = writes = 0
    while kills < chosen.kills:
        cycles_count = min(_KILLS_PER_ROUND, chosen.kills - kills)
        data = folder / f"round-{kills // _KILLS_PER_ROUND}"
        command = EXECUTABLE if chosen.executable else CHECKOUT
        if chosen.jobs:
            writes += _jobs(data, first + kills, cycles_count)
        elif chosen.streams:
            writes += _streams(data, first + kills, cycles_count, in_valkey=chosen.valkey)
        else:
            ledger = survive(Installation(data, command), first + kills, cycles_count)
            writes += len(ledger.acknowledged)
        kills += cycles_count
        shutil.rmtree(data)
        elapsed_s = time.monotonic() - began_s
        print(f"{kills} kills, {writes} acknowledged writes, none lost, {elapsed_s:.0f} s")
    return 0


def _jobs(data: Path, seed: int, kills: int) -> int:
    """A round among jobs; how many were answered."""
    from tests.jobs.killed import survive

    return len(survive(data, seed, kills).added)


def _streams(data: Path, seed: int, kills: int, *, in_valkey: bool) -> int:
    """A round among events; how many were appended."""
    from tests.streams.killed import survive
    from tests.valkey_server import running_valkey

    if not in_valkey:
        return len(survive(data, seed, kills).appended)
    with running_valkey() as valkey:

        def kill() -> None:
            valkey.kill()
            valkey.start()

        settings = {"MONOLITE_STREAMS_URL": valkey.new_url()}
        return len(survive(data, seed, kills, settings=settings, kill_store=kill).appended)


if __name__ == "__main__":
    sys.exit(main())
