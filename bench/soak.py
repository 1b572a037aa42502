"""`make soak`: the crash test for as long as you like, with as many kills as that holds.

    make soak ARGS="--kills 2000 --seed 7 --data /var/tmp/soak"

Every round is the whole of tests/system/test_crash.py with another seed: 64 writers, `kill -9`,
every acknowledged write there, every idempotent replay the same, integrity_check ok. The data
directory of a round that fails is left to be looked at.
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
        ledger = survive(Installation(data, command), first + kills, cycles_count)
        kills += cycles_count
        writes += len(ledger.acknowledged)
        shutil.rmtree(data)
        elapsed_s = time.monotonic() - began_s
        print(f"{kills} kills, {writes} acknowledged writes, none lost, {elapsed_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
