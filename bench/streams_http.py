"""Event streams over HTTP under load: in and out at once, a waiting reader, webhooks.

Events arrive in batches of 100 over 16 connections while a consumer in a process of its own reads a
thousand at a time and acknowledges with the next read. Generator, consumer and server share the
machine's cores. A waiting reader is one that blocks on one connection while another appends.
Webhooks go to eight receivers in a process of their own; then one of them answers nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import threading
import time
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from bench import load, options
from bench.http_caller import Caller
from bench.servers import free_port, monolite_key, start_monolite
from bench.streams import BATCH, BODY

HOOKS = 8
_spawn = multiprocessing.get_context("spawn")


print_now = partial(print, flush=True)


def main() -> int:
    parser = options.parser(__doc__ or "", "streams_http", rounds=None, seconds=None)
    parser.add_argument("--seconds", type=float, default=20, help="of load (%(default)s)")
    parser.add_argument("--connections", type=int, default=16, help="of producers (%(default)s)")
    parser.add_argument("--batch", type=int, default=1000, help="events a read (%(default)s)")
    parser.add_argument("--rate", type=float, default=120_000, help="events/s, paced (%(default)s)")
    parser.add_argument("--appends", type=int, default=1000, help="to a reader (%(default)s)")
    parser.add_argument("--events", type=int, default=3000, help="to webhooks (%(default)s)")
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    data = folder / "data"
    allowed = {"MONOLITE_ALLOW_PRIVATE_WEBHOOKS": "127.0.0.0/8"}
    server = start_monolite(data, **allowed)
    new_caller = partial(Caller, server.port, monolite_key(data))
    _in_and_out(chosen, folder, server.port, monolite_key(data), new_caller())
    _to_a_reader(new_caller(), new_caller(), chosen.appends)
    _webhooks(new_caller(), chosen.events)
    return 0


def _in_and_out(
    chosen: argparse.Namespace, folder: Path, port: int, key: str, caller: Caller
) -> None:
    bodies, paths = folder / "bodies", folder / "paths"
    bodies.write_bytes(BATCH + b"\n")
    paths.write_text("/v1/streams/many/events\n")
    caller.put("/v1/streams/many/groups/g", b'{"max_pending":10000000}')
    stopping, counted = _spawn.Event(), _spawn.Value("q", 0)
    consumer = _spawn.Process(target=_consume, args=(port, key, chosen.batch, stopping, counted))
    consumer.start()
    headers = (f"Authorization: {key}", "Content-Type: application/json")
    target = load.Target(port, paths, "POST", bodies=bodies, headers=headers)
    before, began = counted.value, time.perf_counter()
    done = load.run(target, seconds=chosen.seconds, connections=chosen.connections)
    read = (counted.value - before) / (time.perf_counter() - began)
    print_now(
        f"in {done.requests_per_s * 100:,.0f} events/s and out {read:,.0f} at once; "
        f"append of 100: p50 {done.p50_ms:.2f} ms, p99 {done.p99_ms:.2f} ms"
    )
    _caught_up(counted)
    before, began = counted.value, time.perf_counter()
    paced = load.run(
        target,
        seconds=chosen.seconds,
        connections=chosen.connections,
        requests_per_s=chosen.rate / 100,
    )
    read = (counted.value - before) / (time.perf_counter() - began)
    print_now(
        f"in {paced.requests_per_s * 100:,.0f} events/s as they are due, out {read:,.0f}; append "
        f"of 100: p50 {paced.p50_ms:.2f} ms, p99 {paced.p99_ms:.2f}, max {paced.max_ms:.1f}"
    )
    stopping.set()
    consumer.join()
    alone = load.run(target, seconds=chosen.seconds / 2, connections=chosen.connections)
    print_now(
        f"in alone {alone.requests_per_s * 100:,.0f} events/s; append of 100: "
        f"p50 {alone.p50_ms:.2f} ms, p99 {alone.p99_ms:.2f} ms"
    )
    before, began = counted.value, time.perf_counter()
    stopping.clear()
    consumer = _spawn.Process(target=_consume, args=(port, key, chosen.batch, stopping, counted))
    consumer.start()
    while counted.value == before:
        time.sleep(0.01)
    before, began = counted.value, time.perf_counter()
    time.sleep(min(5.0, chosen.seconds / 4))
    read = (counted.value - before) / (time.perf_counter() - began)
    stopping.set()
    consumer.join()
    print_now(f"out alone {read:,.0f} events/s, by one consumer")


def _caught_up(counted: Any) -> None:
    """Wait until the consumer has nothing left to read."""
    before = -1
    while counted.value != before:
        before = counted.value
        time.sleep(0.5)


def _consume(port: int, key: str, batch: int, stopping: Event, counted: Any) -> None:
    caller = Caller(port, key)
    tokens: list[bytes] = []
    while not stopping.is_set():
        ask = b'{"consumer":"ann","count":%d,"block_ms":200,"ack":[%b]}'
        body = ask % (batch, b",".join(tokens))
        answer = caller.post("/v1/streams/many/groups/g/read", body)
        # Tokens are the last member of every event: cheaper than to decode all of it.
        tokens = [part[: part.index(b"}")] for part in answer.split(b'"token":')[1:]]
        counted.value += len(tokens)
    caller.close()


def _to_a_reader(caller: Caller, reader: Caller, count: int) -> None:
    caller.put("/v1/streams/one/groups/g", b"{}")
    arrived: list[float] = []
    may_append = threading.Semaphore(0)

    def read() -> None:
        token = ""
        for _ in range(count):
            ack = f'"{token}"' if token else ""
            may_append.release()
            ask = f'{{"consumer":"ann","block_ms":20000,"ack":[{ack}]}}'.encode()
            answer = reader.post("/v1/streams/one/groups/g/read", ask)
            arrived.append(time.perf_counter())
            token = json.loads(answer)["events"][0]["token"]

    thread = threading.Thread(target=read)
    thread.start()
    sent = []
    for _ in range(count):
        may_append.acquire()
        time.sleep(0.002)  # until it waits
        sent.append(time.perf_counter())
        caller.post("/v1/streams/one/events", BODY)
    thread.join()
    took = sorted(1e3 * (end - begin) for begin, end in zip(sent, arrived, strict=True))
    print_now(
        f"append to waiting reader: p50 {took[count // 2]:.2f} ms, "
        f"p99 {took[int(count * 0.99)]:.2f} ms, {count} times"
    )


def _webhooks(caller: Caller, count: int) -> None:
    ports = [free_port() for _ in range(HOOKS)]
    counts = _spawn.Array("q", HOOKS)
    dead, stopping = _spawn.Event(), _spawn.Event()
    receivers = _spawn.Process(target=_receive, args=(ports, counts, dead, stopping))
    receivers.start()
    time.sleep(1)
    for at, port in enumerate(ports):
        hook = json.dumps({"url": f"http://127.0.0.1:{port}/in"}).encode()
        caller.put(f"/v1/streams/hooked/webhooks/h{at}", hook)
    for is_dead in (False, True):
        if is_dead:
            dead.set()
        before = list(counts)
        wanted = [count] * (HOOKS - 1) + [0 if is_dead else count]
        began = time.perf_counter()
        caller.fill("hooked", count, BATCH)
        deadline = began + 60
        while any(
            now - then < want for now, then, want in zip(counts, before, wanted, strict=True)
        ):
            if time.perf_counter() > deadline:
                break
            time.sleep(0.01)
        done = sum(list(counts)[: HOOKS - 1]) - sum(before[: HOOKS - 1])
        rate = done / (time.perf_counter() - began)
        told = "one of eight answers nothing" if is_dead else "all answer"
        print_now(f"webhooks: {rate:,.0f} deliveries/s to the other seven, {told}")
    stopping.set()
    receivers.join()


def _receive(ports: list[int], counts: Any, dead: Event, stopping: Event) -> None:
    class Receiver(asyncio.Protocol):
        def __init__(self, at: int) -> None:
            self._at = at
            self._got = b""

        def connection_made(self, transport: Any) -> None:
            self._transport = transport

        def data_received(self, data: bytes) -> None:
            self._got += data
            while True:
                head, separator, rest = self._got.partition(b"\r\n\r\n")
                if not separator:
                    return
                (length,) = [
                    int(line.partition(b":")[2])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                ]
                if len(rest) < length:
                    return
                self._got = rest[length:]
                if self._at == HOOKS - 1 and dead.is_set():
                    return
                counts[self._at] += 1
                self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        for at, port in enumerate(ports):
            await loop.create_server(partial(Receiver, at), "127.0.0.1", port)
        while not stopping.is_set():
            await asyncio.sleep(0.1)

    asyncio.run(serve())


if __name__ == "__main__":
    raise SystemExit(main())
