"""POST throughput with replication to S3 on, beside the same with it off.

The S3 server is SeaweedFS on loopback, so its work and Litestream's are on this machine's cores
too, as a real one's would not be.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from bench import load, options, seeding, servers
from bench.rounds import Figure, in_turn, p99s_ms, print_loads, rates, ratios, report
from tests.s3_server import start_s3_server, stop_s3_server

OFF, ON = "monolite, replication off", "monolite, replication on"
_START_TIMEOUT_S = 60.0


def main() -> int:
    parser = options.parser(__doc__ or "", "replication_throughput", rounds=3, seconds=6)
    parser.add_argument(
        "--synchronous", choices=("normal", "full"), default="normal", help="(%(default)s)"
    )
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    s3 = start_s3_server(folder / "s3")
    running: dict[str, servers.Server] = {}
    targets: dict[str, load.Target] = {}
    try:
        replica = {
            "MONOLITE_REPLICA_URL": s3.fresh_url(),
            "MONOLITE_S3_ENDPOINT": s3.endpoint,
            "AWS_ACCESS_KEY_ID": s3.access_key_id,
            "AWS_SECRET_ACCESS_KEY": s3.secret_access_key,
        }
        for name, environment in ((OFF, {}), (ON, replica)):
            data = folder / f"monolite-{len(running)}"
            seeding.seed_monolite(data, chosen.documents, folder / "unused")
            running[name] = servers.start_monolite(
                data,
                command=options.command_of(chosen),
                synchronous=chosen.synchronous,
                **environment,
            )
            key = servers.monolite_key(data)
            targets[name] = seeding.writing(running[name], seeding.monolite_route(), folder, key)
        _wait_until_replicating(running[ON], servers.operator_key(folder / "monolite-1"))

        def loaded(name: str) -> load.Load:
            return load.run(targets[name], seconds=chosen.seconds, connections=chosen.connections)

        # The pause lets Litestream send what is left, which else would fall in the other's run.
        measured = in_turn(
            {name: partial(loaded, name) for name in targets}, chosen.rounds, pause_s=3.0
        )
        pss_mb = {name: server.pss_mb() for name, server in running.items()}
    finally:
        servers.stop_all()
        stop_s3_server(s3)
    print_loads(measured, pss_mb)
    return report(
        [
            Figure(
                f"requests/s at {chosen.synchronous}, replication on to off",
                ratios(rates(measured[ON]), rates(measured[OFF])),
                at_least=0.85,
            ),
            Figure(
                "p99, replication on to off",
                ratios(p99s_ms(measured[ON]), p99s_ms(measured[OFF])),
            ),
        ]
    )


def _wait_until_replicating(server: servers.Server, operator_key: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        status = server.call("GET", "/v1/operator/status", token=operator_key)["replication"]
        if status.get("state") == "running" and status.get("lag_ms") is not None:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"replication did not start: {status}")
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
