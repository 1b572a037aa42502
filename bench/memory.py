"""Memory after the same reads and writes, beside PocketBase as shipped.

Each round starts both anew on the same documents, loads them with GET and then with POST, and
reads the proportional set size (PSS) of the whole process tree: shared pages count by share.
Ours is the executable where there is one, since that is what a user runs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path

from bench import load, options, seeding, servers
from bench.rounds import Figure, in_turn, ratios, report
from bench.servers import ROOT, Server

EXECUTABLE = ROOT / "dist" / "monolite"


def main() -> int:
    parser = options.parser(__doc__ or "", "memory", rounds=3, seconds=4)
    chosen = parser.parse_args()
    if chosen.executable is None and EXECUTABLE.exists():
        chosen.executable = str(EXECUTABLE)
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    command = options.command_of(chosen)
    print(f"ours is {' '.join(command)}")
    our_paths, their_paths = folder / "ours", folder / "theirs"
    seeding.seed_monolite(folder / "monolite", chosen.documents, our_paths)
    seeding.seed_pocketbase(folder / "pocketbase", chosen.documents, their_paths, folder / "unused")

    def after(server: Server, paths: Path, route: str, token: str | None) -> float:
        try:
            for target in (
                seeding.reading(server, paths, token),
                seeding.writing(server, route, folder, token),
            ):
                load.run(target, seconds=chosen.seconds, connections=chosen.connections)
            return server.pss_mb()
        finally:
            server.stop()

    def monolite() -> float:
        data = _copy(folder / "monolite")
        server = servers.start_monolite(data, command=command, synchronous="full")
        key = servers.monolite_key(data)
        return after(server, our_paths, seeding.monolite_route(), key)

    def pocketbase() -> float:
        data = _copy(folder / "pocketbase")
        server = servers.start_pocketbase(data)
        route = seeding.pocketbase_route(seeding.COLLECTION)
        return after(server, their_paths, route, None)

    measured = in_turn({"monolite": monolite, "pocketbase": pocketbase}, chosen.rounds)
    for name, values in measured.items():
        print(f"{name:<34}" + " ".join(f"{value:8.1f}" for value in values) + "  MB PSS")
    return report(
        [
            Figure(
                "PSS, to PocketBase as shipped",
                ratios(measured["monolite"], measured["pocketbase"]),
                at_most=0.7,
            )
        ]
    )


def _copy(data: Path) -> Path:
    """The seeded directory again, as each round must begin with the same."""
    target = data.with_name(f"{data.name}-copy")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(data, target)
    return target


if __name__ == "__main__":
    sys.exit(main())
