"""What a promoted, indexed field takes on the disk: the file with one, beside the file with none.

Each file has the same orders, all of one tenant, stored one after the other with the index there
from the beginning. It is measured as it was written, and after VACUUM, to which the figures hold.
The same orders make the same file, so there is one round.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from functools import partial
from pathlib import Path

import apsw

from bench import embedded, options, orders
from bench.rounds import Figure, report

NONE, BOTH = "none promoted", "both"
_FIELDS = {NONE: (), **{name: (name,) for name in orders.FIELDS}, BOTH: tuple(orders.FIELDS)}


def main() -> int:
    parser = options.parser(__doc__ or "", "promoted_storage", rounds=None, seconds=None)
    parser.add_argument("--documents", type=int, default=100_000, help="in each (%(default)s)")
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    written: dict[str, float] = {}
    vacuumed: dict[str, float] = {}
    print(f"{'bytes per document':<34}{'as written':>12}{'vacuumed':>12}")
    for name, fields in _FIELDS.items():
        path = folder / f"{name.replace(' ', '-')}.db"
        asyncio.run(_fill(path, fields, chosen.documents))
        connection = apsw.Connection(str(path))
        connection.pragma("wal_checkpoint", "TRUNCATE")
        written[name] = path.stat().st_size / chosen.documents
        connection.execute("VACUUM")
        connection.pragma("wal_checkpoint", "TRUNCATE")
        connection.close()
        vacuumed[name] = path.stat().st_size / chosen.documents
        print(f"{name:<34}{written[name]:>12.1f}{vacuumed[name]:>12.1f}")

    def more(sizes: dict[str, float], name: str) -> list[float]:
        return [100 * (sizes[name] / sizes[NONE] - 1)]

    return report(
        [
            *(
                Figure(f"{name}, promoted and indexed", more(vacuumed, name), at_most=10, unit=" %")
                for name in orders.FIELDS
            ),
            Figure("both, each indexed", more(vacuumed, BOTH), unit=" %"),
            *(
                Figure(f"{name}, as written", more(written, name), unit=" %")
                for name in (*orders.FIELDS, BOTH)
            ),
        ]
    )


async def _fill(path: Path, fields: tuple[str, ...], count: int) -> None:
    async with embedded.opened(path) as ours:
        await ours.define(1, *fields, only=fields)
        await ours.store(1, count)


if __name__ == "__main__":
    sys.exit(main())
