"""How much is missing from S3 when the machine and its disk are gone, and what the requests cost.

    python bench/loss_window.py --trials 5
    python bench/loss_window.py --trials 50 --idle-s 300 --rows-per-s 450 --interval-ms 50

Each trial writes rows one commit at a time, kills the writer and Litestream with SIGKILL at a
random moment, removes the disk, restores from S3, and takes the age of the last row that came
back as the loss. Litestream's own default (one second) runs in turn with ours. The S3 server is
SeaweedFS on loopback: a real one adds its round trip. Prices are Amazon S3 Standard's in
us-east-1: $0.005 a thousand PUT, POST and LIST, $0.0004 a thousand GET; DELETE is free.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from monolite.clock import SystemClock
from monolite.replication.core import Replication
from monolite.replication.restore import restore
from monolite.replication.settings import ReplicaSettings
from monolite.storage.sqlite.connection import open_reader, open_writer
from tests.s3_server import S3Server, start_s3_server, stop_s3_server

DEFAULT_INTERVAL_MS = 1000
TEXT = "lorem ipsum dolor sit amet " * 6
DOLLARS_A_THOUSAND = {"GET": 0.0004, "HEAD": 0.0004, "DELETE": 0.0}
DOLLARS_A_THOUSAND_OTHERS = 0.005
MONTH_S = 30 * 86_400


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=5, help="kills for each setting")
    parser.add_argument("--rows-per-s", type=float, default=450.0, help="commits a second")
    parser.add_argument(
        "--interval-ms", type=int, default=ReplicaSettings.sync_interval_ms, help="ours"
    )
    parser.add_argument("--idle-s", type=float, default=0.0, help="also count idle requests")
    parser.add_argument("--throughput-rows", type=int, default=0, help="also measure throughput")
    parser.add_argument("--seed", type=int, default=None, help="of the moments of the kills")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        asyncio.run(write_until_killed(*options.child))
        return
    seed = options.seed if options.seed is not None else random.randrange(2**32)
    print(f"seed {seed}, {options.trials} trials each, {options.rows_per_s:g} commits/s")
    with tempfile.TemporaryDirectory(prefix="loss-window-") as name:
        folder = Path(name)
        server = start_s3_server(folder / "s3")
        try:
            loss(options, server, folder, random.Random(seed))
            if options.idle_s:
                idle(server, folder, options.interval_ms, options.idle_s)
            if options.throughput_rows:
                throughput(server, folder, options.interval_ms, options.throughput_rows)
        finally:
            stop_s3_server(server)


def loss(
    options: argparse.Namespace, server: S3Server, folder: Path, chance: random.Random
) -> None:
    losses: dict[int, list[float]] = {DEFAULT_INTERVAL_MS: [], options.interval_ms: []}
    costs: dict[int, list[float]] = {DEFAULT_INTERVAL_MS: [], options.interval_ms: []}
    for _ in range(options.trials):
        for interval_ms in losses:
            lost_ms, dollars = trial(server, folder, interval_ms, options.rows_per_s, chance)
            losses[interval_ms].append(lost_ms)
            costs[interval_ms].append(dollars)
    for interval_ms, values in losses.items():
        ordered = sorted(values)
        p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
        label = "Litestream's default" if interval_ms == DEFAULT_INTERVAL_MS else "Monolite"
        print(
            f"{label:>20} {interval_ms:>5} ms: lost p50 {statistics.median(ordered):.0f} "
            f"p99 {p99:.0f} max {ordered[-1]:.0f} ms; writing without a pause "
            f"${statistics.mean(costs[interval_ms]):.2f} a month"
        )
    ratio = statistics.median(losses[DEFAULT_INTERVAL_MS]) / max(
        1.0, statistics.median(losses[options.interval_ms])
    )
    print(f"ratio of the medians, default to ours: {ratio:.1f}")


def trial(
    server: S3Server, folder: Path, interval_ms: int, rows_per_s: float, chance: random.Random
) -> tuple[float, float]:
    """One kill: the loss in ms, and what its requests would cost a month."""
    data, acks = folder / "data", folder / "acks"
    acks.unlink(missing_ok=True)
    settings = server.settings(sync_interval_ms=interval_ms, monitor_interval_ms=interval_ms)
    arguments = json.dumps({name: getattr(settings, name) for name in vars(settings)})
    child = subprocess.Popen(
        [sys.executable, __file__, "--child", str(data), str(acks), arguments, str(rows_per_s)],
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        litestream_pid = int(child.stdout.readline())
        # The first full copy and its merges belong to the start, not to the steady bill.
        time.sleep(2.0)
        before, began = server.requests(), time.monotonic()
        time.sleep(2.0 + chance.random())
        after, seconds = server.requests(), time.monotonic() - began
        time.sleep(chance.random())
        child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(litestream_pid, signal.SIGKILL)
        killed_at = time.time()
    shutil.rmtree(data)
    report = restore(settings, data / "monolite.db", progress=lambda _: None)
    assert report is not None
    acknowledged = [float(line) for line in acks.read_text().splitlines()]
    count = min(report.rows["notes"], len(acknowledged))
    shutil.rmtree(data)
    return (killed_at - acknowledged[count - 1]) * 1000, dollars_a_month(before, after, seconds)


async def write_until_killed(data: str, acks: str, arguments: str, rows_per_s: str) -> None:
    logging.basicConfig(level=logging.ERROR)
    settings = ReplicaSettings(**json.loads(arguments))
    writer, replication = await start(Path(data), settings)
    pid = replication.status().pid
    print(pid, flush=True)
    threading.Thread(target=write, args=(writer, acks, float(rows_per_s)), daemon=True).start()
    await asyncio.sleep(3600)


def write(writer: object, acks: str, rows_per_s: float) -> None:
    step_s = 1 / rows_per_s
    with open(acks, "a", buffering=1) as file:
        due = time.monotonic()
        while True:
            writer.execute("INSERT INTO notes (text) VALUES (?)", (TEXT,))  # type: ignore[attr-defined]
            file.write(f"{time.time():.6f}\n")
            due += step_s
            time.sleep(max(0.0, due - time.monotonic()))


async def start(data: Path, settings: ReplicaSettings) -> tuple[object, Replication]:
    data.mkdir(parents=True)
    writer = open_writer(data / "monolite.db", synchronous="normal", autocheckpoint=False)
    writer.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT) STRICT")
    replication = Replication(
        settings,
        data / "monolite.db",
        data / "replica",
        clock=SystemClock(),
        log=logging.getLogger("monolite.replication"),
    )
    await replication.start()
    while True:
        with contextlib.suppress(Exception):
            await replication.barrier()
            return writer, replication


def idle(server: S3Server, folder: Path, interval_ms: int, seconds: float) -> None:
    async def run() -> None:
        settings = server.settings(sync_interval_ms=interval_ms, monitor_interval_ms=interval_ms)
        _, replication = await start(folder / "idle", settings)
        await asyncio.sleep(5)
        before = server.requests()
        await asyncio.sleep(seconds)
        after = server.requests()
        print(
            f"idle for {seconds:g} s at {interval_ms} ms: {difference(before, after)}, "
            f"${dollars_a_month(before, after, seconds):.2f} a month, "
            f"Litestream {replication.status().cpu_fraction:.3f} of a core"
        )
        await replication.stop()

    asyncio.run(run())
    shutil.rmtree(folder / "idle")


def throughput(server: S3Server, folder: Path, interval_ms: int, rows: int) -> None:
    def insert(data: Path, writer: object) -> float:
        began = time.perf_counter()
        for _ in range(rows):
            writer.execute("INSERT INTO notes (text) VALUES (?)", (TEXT,))  # type: ignore[attr-defined]
        return rows / (time.perf_counter() - began)

    async def replicated(data: Path) -> float:
        settings = server.settings(sync_interval_ms=interval_ms, monitor_interval_ms=interval_ms)
        writer, replication = await start(data, settings)
        rate = await asyncio.to_thread(insert, data, writer)
        await replication.stop()
        return rate

    def alone(data: Path) -> float:
        data.mkdir()
        writer = open_writer(data / "monolite.db", synchronous="normal", autocheckpoint=True)
        writer.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT) STRICT")
        keeper = open_reader(data / "monolite.db")
        rate = insert(data, writer)
        keeper.close()
        writer.close()
        return rate

    ratios = []
    for number in range(3):
        off = alone(folder / f"off-{number}")
        on = asyncio.run(replicated(folder / f"on-{number}"))
        ratios.append(on / off)
        print(f"commits a second, replication off {off:.0f}, on {on:.0f}: {on / off:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}")


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {kind: n - before.get(kind, 0) for kind, n in after.items() if n > before.get(kind, 0)}


def dollars_a_month(before: dict[str, int], after: dict[str, int], seconds: float) -> float:
    dollars = sum(
        count / 1000 * DOLLARS_A_THOUSAND.get(kind, DOLLARS_A_THOUSAND_OTHERS)
        for kind, count in difference(before, after).items()
    )
    return dollars / seconds * MONTH_S


if __name__ == "__main__":
    main()
