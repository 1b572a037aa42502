"""GET one document by id with its key checked, beside PocketBase's GET of one record.

Both hold the same documents; ids are drawn at random from the list of all. Ours checks a bearer
key. PocketBase runs as shipped and with its request log off, each with a public collection (no
check at all) and with a user's token against the rule `@request.auth.id != ""`, its nearest to a
checked key. The figures hold against the public collection, PocketBase's faster one.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from bench import load, options, seeding, servers
from bench.load import Target
from bench.rounds import Figure, in_turn, p99s_ms, print_loads, rates, ratios, report

OURS = "monolite"
SHIPPED, SHIPPED_GUARDED = "pocketbase", "pocketbase, token"
QUIET, QUIET_GUARDED = "pocketbase, log off", "pocketbase, log off, token"


def main() -> int:
    parser = options.parser(__doc__ or "", "get_document", rounds=3, seconds=5)
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    paths, public, guarded = folder / "ours", folder / "public", folder / "guarded"
    seeding.seed_monolite(folder / "monolite", chosen.documents, paths)
    running = {}
    for name in (SHIPPED, QUIET):
        data = folder / name.replace(", ", "-").replace(" ", "-")
        seeding.seed_pocketbase(data, chosen.documents, public, guarded)
        running[name] = servers.start_pocketbase(data, request_log=name == SHIPPED)
    running[OURS] = servers.start_monolite(folder / "monolite", command=options.command_of(chosen))
    key = servers.monolite_key(folder / "monolite")
    targets = {
        OURS: seeding.reading(running[OURS], paths, key),
        SHIPPED: seeding.reading(running[SHIPPED], public),
        SHIPPED_GUARDED: seeding.reading(
            running[SHIPPED], guarded, servers.user_token(running[SHIPPED])
        ),
        QUIET: seeding.reading(running[QUIET], public),
        QUIET_GUARDED: seeding.reading(running[QUIET], guarded, servers.user_token(running[QUIET])),
    }

    def loaded(target: Target) -> load.Load:
        return load.run(target, seconds=chosen.seconds, connections=chosen.connections)

    measured = in_turn(
        {name: partial(loaded, each) for name, each in targets.items()}, chosen.rounds
    )
    pss_mb = {name: server.pss_mb() for name, server in running.items()}
    print_loads(measured, pss_mb)

    def rate(peer: str) -> list[float]:
        return ratios(rates(measured[OURS]), rates(measured[peer]))

    return report(
        [
            Figure("requests/s, to PocketBase as shipped", rate(SHIPPED), at_least=3.0),
            Figure("requests/s, to PocketBase, log off", rate(QUIET), at_least=2.0),
            Figure(
                "p99, to PocketBase as shipped",
                ratios(p99s_ms(measured[OURS]), p99s_ms(measured[SHIPPED])),
                at_most=0.25,
            ),
            Figure(
                "p99, to PocketBase, log off",
                ratios(p99s_ms(measured[OURS]), p99s_ms(measured[QUIET])),
                at_most=0.25,
            ),
            Figure("requests/s, to PocketBase as shipped, token", rate(SHIPPED_GUARDED)),
            Figure("requests/s, to PocketBase, log off, token", rate(QUIET_GUARDED)),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
