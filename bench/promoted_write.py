"""POST of one order with two promoted, indexed fields, beside the same with none promoted.

Both servers begin with the same orders. What is compared is time per insert under load, which is
the rate turned around: every order sent has its region and tier, so each is entered in two indexes,
each with the other field's value beside its own. One more server has one index over both fields.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from bench import load, options, orders, seeding, servers
from bench.load import Target
from bench.rounds import Figure, in_turn, p99s_ms, print_loads, rates, ratios, report

NONE, TWO, COMPOSITE = "none promoted", "two promoted and indexed", "two promoted, one index"
_BODIES_COUNT = 3000


def main() -> int:
    parser = options.parser(__doc__ or "", "promoted_write", rounds=5, seconds=4)
    parser.add_argument(
        "--synchronous", choices=("normal", "full"), default="normal", help="(%(default)s)"
    )
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    bodies, route = folder / "bodies", folder / "route"
    bodies.write_bytes(orders.lines(0, _BODIES_COUNT))
    route.write_text(f"/v1/collections/{orders.COLLECTION}/documents\n")
    stored = orders.lines(0, chosen.documents)
    running: dict[str, servers.Server] = {}
    targets: dict[str, Target] = {}
    for name in (NONE, TWO, COMPOSITE):
        data = folder / f"monolite-{len(running)}"
        command = options.command_of(chosen)
        server = servers.start_monolite(data, command=command, synchronous=chosen.synchronous)
        key = servers.monolite_key(data)
        if name != NONE:
            seeding.define_orders(server, key, index=name == TWO)
        if name == COMPOSITE:
            seeding.index_orders(server, key, *orders.FIELDS)
        seeding.import_orders(server, key, orders.COLLECTION, stored)
        running[name] = server
        targets[name] = seeding.writing_lines(server, route, bodies, key)

    def loaded(target: Target) -> load.Load:
        return load.run(target, seconds=chosen.seconds, connections=chosen.connections)

    measured = in_turn(
        {name: partial(loaded, each) for name, each in targets.items()}, chosen.rounds
    )
    print_loads(measured, {name: server.pss_mb() for name, server in running.items()})

    def time_each(name: str) -> list[float]:
        return ratios(rates(measured[NONE]), rates(measured[name]))

    return report(
        [
            Figure(
                f"time per insert at {chosen.synchronous}, two to none",
                time_each(TWO),
                at_most=1.15,
            ),
            Figure("p99, two to none", ratios(p99s_ms(measured[TWO]), p99s_ms(measured[NONE]))),
            Figure("time per insert, one index over both", time_each(COMPOSITE)),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
