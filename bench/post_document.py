"""POST one document, every answer after an fsync, beside PocketBase's POST of one record.

Ours runs at `synchronous=full`, and beside it at `normal` and at `full` with a transaction for each
write. PocketBase, whose SQLite runs at NORMAL, does not fsync a commit: the comparison is of our
safer promise to its weaker one. It runs as shipped and with its request log off, each with a
public collection and with a user's token against the rule `@request.auth.id != ""`. The figures
hold against the public collection, PocketBase's faster one.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from bench import load, options, seeding, servers
from bench.load import Target
from bench.rounds import Figure, in_turn, p99s_ms, print_loads, rates, ratios, report
from bench.servers import WITHOUT_GROUP_COMMIT

FULL, NORMAL, ONE_BY_ONE = "monolite, full", "monolite, normal", "monolite, full, no group commit"
SHIPPED, SHIPPED_GUARDED = "pocketbase", "pocketbase, token"
QUIET, QUIET_GUARDED = "pocketbase, log off", "pocketbase, log off, token"


def main() -> int:
    parser = options.parser(__doc__ or "", "post_document", rounds=3, seconds=4)
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    running: dict[str, servers.Server] = {}
    targets: dict[str, load.Target] = {}
    ours = options.command_of(chosen)
    modes = ((FULL, ours, "full"), (NORMAL, ours, "normal"))
    for name, command, synchronous in (*modes, (ONE_BY_ONE, WITHOUT_GROUP_COMMIT, "full")):
        data = folder / f"monolite-{len(running)}"
        seeding.seed_monolite(data, chosen.documents, folder / "unused")
        running[name] = servers.start_monolite(data, command=command, synchronous=synchronous)
        route, key = seeding.monolite_route(), servers.monolite_key(data)
        targets[name] = seeding.writing(running[name], route, folder, key)
    for public, guarded in ((SHIPPED, SHIPPED_GUARDED), (QUIET, QUIET_GUARDED)):
        data = folder / f"pocketbase-{len(running)}"
        seeding.seed_pocketbase(data, chosen.documents, folder / "unused", folder / "unused")
        server = servers.start_pocketbase(data, request_log=public == SHIPPED)
        running[public] = server
        for name, collection, token in (
            (public, seeding.COLLECTION, None),
            (guarded, seeding.GUARDED, servers.user_token(server)),
        ):
            route = seeding.pocketbase_route(collection)
            targets[name] = seeding.writing(server, route, folder, token)

    def loaded(target: Target) -> load.Load:
        return load.run(target, seconds=chosen.seconds, connections=chosen.connections)

    measured = in_turn(
        {name: partial(loaded, each) for name, each in targets.items()}, chosen.rounds
    )
    pss_mb = {name: server.pss_mb() for name, server in running.items()}
    print_loads(measured, pss_mb)

    def rate(peer: str) -> list[float]:
        return ratios(rates(measured[FULL]), rates(measured[peer]))

    return report(
        [
            Figure("full, to PocketBase as shipped", rate(SHIPPED), at_least=3.0),
            Figure("full, to PocketBase, log off", rate(QUIET), at_least=2.0),
            Figure(
                "p99 at full, to PocketBase as shipped",
                ratios(p99s_ms(measured[FULL]), p99s_ms(measured[SHIPPED])),
                at_most=0.25,
            ),
            Figure("full, to ours at normal", rate(NORMAL), at_least=0.7),
            Figure("full, to ours without group commit", rate(ONE_BY_ONE), at_least=3.0),
            Figure("full, to PocketBase as shipped, token", rate(SHIPPED_GUARDED)),
            Figure("full, to PocketBase, log off, token", rate(QUIET_GUARDED)),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
