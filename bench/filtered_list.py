"""A list of fifty filtered documents over HTTP, beside PocketBase's filtered list, same data.

    shipping_tier >= 3 and region = one of five, drawn at random

Both have the same orders of one tenant and an index on region and one on tier, and answer the first
fifty matches in order of creation. Ours checks a bearer key. PocketBase's collection is public, and
its count of all matches is off (`skipTotal`), as ours counts only when asked to; with it, a hundred
thousand orders made it answer less than one request a second at 64 connections. It runs as shipped
and with its request log off.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from urllib.parse import quote

from bench import load, options, orders, records, seeding, servers
from bench.load import Target
from bench.rounds import Figure, in_turn, p99s_ms, print_loads, rates, ratios, report
from bench.servers import Server

OURS, SHIPPED, QUIET = "monolite", "pocketbase", "pocketbase, log off"
_LIMIT = 50


def main() -> int:
    parser = options.parser(__doc__ or "", "filtered_list", rounds=3, seconds=5)
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    data = folder / "monolite"
    ours = servers.start_monolite(data, command=options.command_of(chosen))
    key = servers.monolite_key(data)
    seeding.define_orders(ours, key)
    lines = orders.lines(0, chosen.documents)
    seeding.import_orders(ours, key, orders.COLLECTION, lines)
    running = {OURS: ours}
    for name in (SHIPPED, QUIET):
        running[name] = _start_pocketbase(folder, name, chosen.documents)
    our_paths = [
        f"/v1/collections/{orders.COLLECTION}/documents?shipping_tier=gte.{orders.TIER_MIN}"
        f"&region=eq.{region}&limit={_LIMIT}"
        for region in orders.REGIONS
    ]
    their_paths = [
        f"{seeding.pocketbase_route(orders.COLLECTION)}?perPage={_LIMIT}&skipTotal=1&filter="
        + quote(f"shipping_tier >= {orders.TIER_MIN} && region = '{region}'")
        for region in orders.REGIONS
    ]
    _check(running, key, our_paths[0], their_paths[0])
    for name, paths in ((OURS, our_paths), (SHIPPED, their_paths)):
        (folder / name).with_suffix(".paths").write_text("".join(path + "\n" for path in paths))
    targets = {
        OURS: seeding.reading(ours, folder / f"{OURS}.paths", key),
        SHIPPED: seeding.reading(running[SHIPPED], folder / f"{SHIPPED}.paths"),
        QUIET: seeding.reading(running[QUIET], folder / f"{SHIPPED}.paths"),
    }

    def loaded(target: Target) -> load.Load:
        return load.run(target, seconds=chosen.seconds, connections=chosen.connections)

    measured = in_turn(
        {name: partial(loaded, each) for name, each in targets.items()}, chosen.rounds
    )
    print_loads(measured, {name: server.pss_mb() for name, server in running.items()})

    def rate(peer: str) -> list[float]:
        return ratios(rates(measured[OURS]), rates(measured[peer]))

    def p99(peer: str) -> list[float]:
        return ratios(p99s_ms(measured[OURS]), p99s_ms(measured[peer]))

    return report(
        [
            Figure("requests/s, to PocketBase as shipped", rate(SHIPPED), at_least=2.0),
            Figure("p99, to PocketBase as shipped", p99(SHIPPED), at_most=0.5),
            Figure("requests/s, to PocketBase, log off", rate(QUIET), at_least=2.0),
            Figure("p99, to PocketBase, log off", p99(QUIET), at_most=0.5),
        ]
    )


def _start_pocketbase(folder: Path, name: str, count: int) -> Server:
    data = folder / name.replace(", ", "-").replace(" ", "-")
    server = servers.start_pocketbase(data)
    admin = servers.superuser_token(server)
    records.create_collection(server, admin, orders.COLLECTION, ("region",), ("shipping_tier",))
    server.stop()
    records.fill(data, orders.COLLECTION, count)
    return servers.start_pocketbase(data, request_log=name == SHIPPED)


def _check(running: dict[str, Server], key: str, our_path: str, their_path: str) -> None:
    """Both answer the same orders."""
    mine = [
        each["data"]["number"] for each in running[OURS].call("GET", our_path, token=key)["data"]
    ]
    theirs = [each["data"]["number"] for each in running[QUIET].call("GET", their_path)["items"]]
    if mine != theirs or not mine:
        raise RuntimeError(f"not the same lists: {mine[:5]} and {theirs[:5]}")


if __name__ == "__main__":
    sys.exit(main())
