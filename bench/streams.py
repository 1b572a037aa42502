"""Event streams beside Valkey: appending, reading, acknowledging, claiming, trimming, retaining.

Three columns. `http`: a server of its own, one caller on one connection, sockets and JSON
included. `in process`: the engine that the server runs, called by one task of this process.
`valkey`: 9.1 with `appendonly yes, appendfsync everysec`, called by redis-py, caller and server on
the same core, which is its better case; many clients are `redis-benchmark -c 50`, beside 64 tasks
here. What an append acknowledged survives a killed process in all three, and a power cut in none of
them for sure. Medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench import options, valkey
from bench.http_caller import Caller
from bench.servers import monolite_key, start_monolite
from bench.valkey import Valkey
from monolite.assembly_sqlite import SqliteEngines
from monolite.clock import SystemClock
from monolite.settings import Settings
from monolite.storage.data_directory import DataDirectory
from monolite.streams.event import NewEvent, piece
from monolite.streams.event_id import ZERO
from monolite.streams.group import GroupSettings, Read
from monolite.streams.stream import Trim
from monolite.streams.tokens import Tokens

EVENT = {"id": 7, "customer": "c-000042", "total": 120.5, "currency": "EUR", "note": "x" * 71}
MESSAGE = json.dumps(EVENT, separators=(",", ":")).encode()
BODY = b'{"type":"order.created","data":%b}' % MESSAGE
BATCH = b"[" + b",".join([BODY] * 100) + b"]"
STORED = piece("order.created", MESSAGE)
MOST = GroupSettings(max_deliveries=1000, claim_idle_ms=60_000, max_pending=10_000_000)
TENANT = 1
_EFFECTS = (
    "CREATE TABLE IF NOT EXISTS effects (stream TEXT, event INTEGER, PRIMARY KEY (stream, event))"
    " STRICT, WITHOUT ROWID"
)


class Row(NamedTuple):
    """A figure of each side; `goal` is what in process is to be of Valkey's."""

    http: float | None
    ours: float | None
    peer: float | None
    goal: str
    unit: str = "/s"


class Ours:
    """The engine in this process, as the server opens it."""

    def __init__(self, folder: Path) -> None:
        directory = DataDirectory(folder)
        directory.prepare()
        settings = Settings(data=folder)
        self.runner = asyncio.Runner()
        self.engines = self.runner.run(_opened(settings, directory))
        streams: Any = self.engines.streams
        self.log, self.groups = streams.log, streams.groups
        self.path = directory.database

    def run(self, made: Any) -> Any:
        async def wait() -> Any:
            return await made

        return self.runner.run(wait())

    def fill(self, stream: str, count: int) -> None:
        """Events in batches of 1000."""

        async def fill() -> None:
            for _ in range(count // 1000):
                await self.log.append(TENANT, stream, [NewEvent(STORED)] * 1000)

        self.run(fill())

    def group(self, stream: str, name: str) -> None:
        self.run(self.groups.put_group(TENANT, stream, name, ZERO, MOST))

    def close(self) -> None:
        self.run(self.engines.close())
        self.runner.close()


async def _opened(settings: Settings, directory: DataDirectory) -> SqliteEngines:
    return SqliteEngines(settings, directory, SystemClock())


def main() -> int:
    parser = options.parser(__doc__ or "", "streams", rounds=3, seconds=None)
    parser.add_argument("--count", type=int, default=5000, help="calls each run (%(default)s)")
    parser.add_argument("--retained", type=int, default=1_000_000, help="events kept (%(default)s)")
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    cores = sorted(os.sched_getaffinity(0))
    ours = Ours(folder / "ours")
    server = start_monolite(folder / "server")
    caller = Caller(server.port, monolite_key(folder / "server"))
    rows: dict[str, list[Row]] = {}
    with valkey.running(folder / "valkey", core=cores[0]) as peer:
        os.sched_setaffinity(0, {cores[0]})
        try:
            for number in range(chosen.rounds):
                for name, row in _round(ours, caller, peer, number, chosen.count):
                    rows.setdefault(name, []).append(row)
            for name, row in _large(ours, peer, chosen.retained):
                rows.setdefault(name, []).append(row)
        finally:
            os.sched_setaffinity(0, cores)
            caller.close()
            ours.close()
    _print(rows)
    return 0


def _round(ours: Ours, caller: Caller, peer: Valkey, number: int, count: int) -> Any:
    stream = f"s{number}"
    redis = peer.client
    redis.flushall()
    one, url = [NewEvent(STORED)], f"/v1/streams/{stream}/events"
    latencies: dict[str, list[float]] = {"http": [], "ours": [], "peer": []}
    fields = {b"d": MESSAGE}
    rate = _rates(
        count,
        lambda: caller.post(url, BODY),
        _awaited(ours, lambda: ours.log.append(TENANT, stream, one)),
        lambda: redis.xadd(stream, fields),
        latencies,
    )
    yield "append, one caller", Row(*rate, "≥ 3×")
    p999 = [1e6 * sorted(latencies[who])[int(len(latencies[who]) * 0.999)] for who in latencies]
    yield "append, p99.9 µs", Row(*p999, "≤ 1.5×", "µs")
    many = peer.benchmark(MESSAGE, connections=50, count=40_000)
    yield "append, many callers (64 tasks)", Row(None, _producers(ours, count * 8), many, "≥ 4×")
    batch = [NewEvent(STORED)] * 100
    batched = _rates(
        count // 20,
        lambda: caller.post(url, BATCH),
        _awaited(ours, lambda: ours.log.append(TENANT, stream, batch)),
        lambda: _pipelined(redis, stream, fields),
    )
    yield "append in batches of 100, events", Row(*[100 * each for each in batched], "≥ 4×")
    yield from _reading(ours, caller, peer, stream, count)


def _reading(ours: Ours, caller: Caller, peer: Valkey, stream: str, count: int) -> Any:
    redis = peer.client
    ours.fill(stream, 3 * count)
    caller.fill(stream, 3 * count, BATCH)
    for _ in range(3 * count // 100):
        _pipelined(redis, stream, {b"d": MESSAGE})
    for name in ("both", "single", "chain"):
        ours.group(stream, name)
        caller.put(f"/v1/streams/{stream}/groups/{name}", b'{"max_pending":1000000}')
        redis.xgroup_create(stream, name, "0")
    times = count // 50
    group = f"/v1/streams/{stream}/groups/both"
    yield (
        "read 50, and acknowledge them, events",
        Row(
            *[
                50 * each
                for each in _rates(
                    times,
                    lambda: caller.acknowledge(group, caller.read(group, 50)),
                    _awaited(ours, lambda: _read_and_ack(ours, stream, "both")),
                    lambda: _valkey_read_and_ack(redis, stream, "both"),
                )
            ],
            "≥ 5×",
        ),
    )
    group = f"/v1/streams/{stream}/groups/single"
    theirs = iter([token for _ in range(times) for token in caller.read(group, 50)])
    own = iter([one for _ in range(times) for one in _singly(_read(ours, stream, "single"))])
    ids = iter([id for _ in range(times) for id in _valkey_read(redis, stream, "single")])
    yield (
        "acknowledge one by one",
        Row(
            *_rates(
                times * 50,
                lambda: caller.acknowledge(group, [next(theirs)]),
                _awaited(ours, lambda: _ack(ours, stream, "single", next(own))),
                lambda: redis.xack(stream, "single", next(ids)),
            ),
            "≥ 2×",
        ),
    )
    group = f"/v1/streams/{stream}/groups/chain"
    chain: dict[str, Any] = {"ours": {}, "peer": []}
    yield (
        "acknowledge 50, read 50, and their effect in one commit, events",
        Row(
            None,
            *[
                50 * each
                for each in _rates(
                    times,
                    None,
                    _awaited(ours, lambda: _chain(ours, stream, chain)),
                    lambda: _valkey_chain(redis, stream, chain),
                )[1:]
            ],
            "≥ 6×",
        ),
    )


def _large(ours: Ours, peer: Valkey, retained: int) -> Any:
    redis = peer.client
    redis.flushall()
    memory, before = peer.memory_bytes(), _own_bytes()
    for _ in range(retained // 1000):
        pipeline = redis.pipeline(transaction=False)
        for _ in range(1000):
            pipeline.xadd("large", {b"d": MESSAGE})
        pipeline.execute()
    theirs = (peer.memory_bytes() - memory) / retained * 1e6
    size = ours.path.stat().st_size
    ours.fill("large", retained)
    ours.run(ours.engines.writer.submit(lambda c: c.execute("SELECT 1").fetchall()))
    time.sleep(3)  # the checkpoint
    own = (_own_bytes() - before) / retained * 1e6
    yield (
        "memory of a million retained events, MB",
        Row(None, own / 1e6, theirs / 1e6, "≤ 0.1×", ""),
    )
    grown = (ours.path.stat().st_size - size) / retained * 1e6
    payload = len(STORED)
    yield (
        "file of a million retained events, of the payload",
        Row(None, grown / payload / 1e6, None, "≤ 1.25", "×"),
    )
    for pending in sorted({100_000, retained}):
        name = f"p{pending}"
        ours.group("large", name)
        redis.xgroup_create("large", name, "0")
        for _ in range(pending // 1000):
            ours.run(ours.groups.read(TENANT, "large", name, "ann", 1000))
            redis.xreadgroup(name, "ann", {"large": ">"}, count=1000)
        cursor = ["0-0"]
        yield (
            f"claim by hundreds, {pending} pending, events",
            Row(
                None,
                *[
                    100 * each
                    for each in _rates(
                        200,
                        None,
                        _awaited(
                            ours,
                            lambda name=name: ours.groups.claim(TENANT, "large", name, "b", 0, 100),
                        ),
                        lambda name=name, cursor=cursor: _valkey_claim(redis, name, cursor),
                    )[1:]
                ],
                "≥ 2×",
            ),
        )
    yield "rate behind a million events and twenty groups, of an empty stream's", _crowded(ours)
    began = time.perf_counter()
    dropped = redis.xtrim("large", maxlen=0, approximate=False)
    theirs = dropped / (time.perf_counter() - began)
    began = time.perf_counter()
    dropped = ours.run(ours.log.trim(TENANT, "large", Trim(maxlen=0)))
    yield "trim, entries", Row(None, dropped / (time.perf_counter() - began), theirs, "≥ 0.2×")


def _own_bytes() -> int:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))


def _crowded(ours: Ours) -> Row:
    for number in range(20):
        ours.group("large", f"g{number}")
        ours.group("empty", f"g{number}")
    found = []
    for stream in ("large", "empty"):
        call = _awaited(
            ours, lambda stream=stream: ours.log.append(TENANT, stream, [NewEvent(STORED)])
        )
        found.append(call(5000, None))
    return Row(None, found[0] / found[1], None, "≥ 0.8", "×")


# ── Calls ──────────────────────────────────────────────────────────────────────────────────────

Measure = Callable[[int, "list[float] | None"], float]


def _rates(
    count: int,
    http: Callable[[], Any] | None,
    ours: Measure,
    peer: Callable[[], Any],
    latencies: dict[str, list[float]] | None = None,
) -> tuple[Any, float, float]:
    """Calls a second of each, one after the other."""
    kept = latencies or {"http": None, "ours": None, "peer": None}
    return (
        None if http is None else _rate(count, http, kept["http"]),
        ours(count, kept["ours"]),
        _rate(count, peer, kept["peer"]),
    )


def _rate(count: int, call: Callable[[], Any], latencies: list[float] | None) -> float:
    clock = time.perf_counter
    took = []
    for _ in range(count):
        began = clock()
        call()
        took.append(clock() - began)
    if latencies is not None:
        latencies += took
    return count / sum(took)


def _awaited(ours: Ours, call: Callable[[], Any]) -> Measure:
    def measure(count: int, latencies: list[float] | None) -> float:
        async def loop() -> list[float]:
            clock = time.perf_counter
            took = []
            for _ in range(count):
                began = clock()
                await call()
                took.append(clock() - began)
            return took

        took = ours.run(loop())
        if latencies is not None:
            latencies += took
        return count / sum(took)

    return measure


def _producers(ours: Ours, count: int) -> float:
    async def produce() -> None:
        for _ in range(count // 64):
            await ours.log.append(TENANT, "many", [NewEvent(STORED)])

    async def all_of_them() -> float:
        began = time.perf_counter()
        await asyncio.gather(*[produce() for _ in range(64)])
        return count // 64 * 64 / (time.perf_counter() - began)

    return float(ours.run(all_of_them()))


def _read(ours: Ours, stream: str, group: str) -> Read:
    got: Read = ours.run(ours.groups.read(TENANT, stream, group, "ann", 50))
    return got


def _tokens(got: Read) -> Tokens:
    """What acknowledges all of it: in process a fence and its places, over HTTP texts."""
    marked: dict[int, list[Any]] = {}
    for run in got.runs:
        assert run.seq is not None
        marked.setdefault(run.fence, []).extend(range(run.seq, run.seq + len(run.pieces)))
    return marked


def _singly(got: Read) -> list[Tokens]:
    return [{fence: [place]} for fence, places in _tokens(got).items() for place in places]


async def _ack(ours: Ours, stream: str, group: str, marked: Tokens) -> None:
    await ours.groups.ack(TENANT, stream, group, marked)


async def _read_and_ack(ours: Ours, stream: str, group: str) -> None:
    got = await ours.groups.read(TENANT, stream, group, "ann", 50)
    await _ack(ours, stream, group, _tokens(got))


async def _chain(ours: Ours, stream: str, chain: dict[str, Any]) -> None:
    effects = [(stream, place) for places in chain["ours"].values() for place in places]

    def effect(connection: Any, _: Any) -> None:
        connection.execute(_EFFECTS)
        connection.executemany("INSERT INTO effects VALUES (?, ?)", effects)

    marked = chain["ours"]
    got = await ours.groups.read(TENANT, stream, "chain", "ann", 50, ack=marked, also=effect)
    chain["ours"] = _tokens(got)


def _pipelined(redis: Any, stream: str, fields: Any) -> None:
    pipeline = redis.pipeline(transaction=False)
    for _ in range(100):
        pipeline.xadd(stream, fields)
    pipeline.execute()


def _valkey_read(redis: Any, stream: str, group: str) -> list[Any]:
    found = redis.xreadgroup(group, "ann", {stream: ">"}, count=50)
    return [id for id, _ in found[0][1]]


def _valkey_read_and_ack(redis: Any, stream: str, group: str) -> None:
    redis.xack(stream, group, *_valkey_read(redis, stream, group))


def _valkey_chain(redis: Any, stream: str, chain: dict[str, Any]) -> None:
    pipeline = redis.pipeline(transaction=True)
    if chain["peer"]:
        pipeline.xack(stream, "chain", *chain["peer"])
        for id in chain["peer"]:
            pipeline.set(b"effect:" + id, b"1")
    pipeline.xreadgroup("chain", "ann", {stream: ">"}, count=50)
    found = pipeline.execute()[-1]
    chain["peer"] = [id for id, _ in found[0][1]]


def _valkey_claim(redis: Any, group: str, cursor: list[Any]) -> None:
    cursor[0], _, _ = redis.xautoclaim("large", group, "b", 0, cursor[0], count=100)


# ── The table ──────────────────────────────────────────────────────────────────────────────────


def _print(rows: dict[str, list[Row]]) -> None:
    print(f"\n{'':<70}{'http':>11}{'in process':>13}{'valkey':>12}{'ratio':>8}  goal")
    for name, rounds in rows.items():
        http, ours, peer = (_median([row[at] for row in rounds]) for at in range(3))
        ratio = f"{ours / peer:.2f}" if ours is not None and peer else ""
        unit = rounds[0].unit
        print(
            f"{name:<70}{_shown(http, unit):>11}{_shown(ours, unit):>13}{_shown(peer, unit):>12}"
            f"{ratio:>8}  {rounds[0].goal}"
        )


def _median(values: list[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if unit == "/s" or value >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    raise SystemExit(main())
