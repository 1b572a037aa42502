"""The real server as a child process, and the real command line beside it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = 60.0

_numbers = count(1)


def environment(**settings: str) -> dict[str, str]:
    """This process's environment without any setting of Monolite's, and with `settings`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MONOLITE_", "AWS_", "NOTIFY_", "WATCHDOG_"))
    }
    return kept | settings


def monolite(
    *arguments: str | Path, stdin: bytes | None = None, **settings: str
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end; `settings` are environment variables."""
    return subprocess.run(
        [sys.executable, str(ROOT / "server.py"), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=COMMAND_TIMEOUT_S,
        env=environment(**settings),
        check=False,
    )


class ServerProcess:
    """A server on a free port of loopback, or on `port`, with its own data directory."""

    def __init__(self, data: Path, settings: Mapping[str, str], port: int | None = None) -> None:
        self.data = data
        self.port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        self.log: list[str] = []
        self._more = threading.Condition()
        self.process = subprocess.Popen(
            [
                *(sys.executable, str(ROOT / "server.py"), "serve"),
                *("--data", str(data), "--listen", f"127.0.0.1:{self.port}"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(**settings),
            text=True,
        )
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def wait_ready(self) -> None:
        """Until /readyz says 200; raises AssertionError with the log where it never does."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the server did not become ready:\n" + "\n".join(self.log))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join(5)
            if self.process.stderr is not None:
                self.process.stderr.close()

    @property
    def operator_key(self) -> str:
        return (self.data / "operator.key").read_text().strip()

    def client(self, key: str | None = None, **headers: str) -> httpx.Client:
        """A client with a key, or without any."""
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)

    def wait_for_log(self, **members: Any) -> dict[str, Any]:
        """The first log line that has all these members, waited for."""
        deadline = time.monotonic() + 10
        seen = 0
        while True:
            with self._more:
                lines = self.log[seen:]
                if not lines:
                    left_s = deadline - time.monotonic()
                    if left_s <= 0:
                        raise AssertionError(f"no log line has {members}:\n" + "\n".join(self.log))
                    self._more.wait(left_s)
            seen += len(lines)
            for line in lines:
                entry: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
                if all(entry.get(name) == value for name, value in members.items()):
                    return entry

    def send_raw(self, request: bytes, timeout_s: float = 10) -> bytes:
        """Bytes as they are, the answer until the server closes or its head and body are there."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            # It may answer and close before it has read all.
            with suppress(OSError):
                connection.sendall(request)
            answer = b""
            with suppress(OSError):
                while piece := connection.recv(65536):
                    answer += piece
                    if _is_whole(answer):
                        break
            return answer

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._more:
                self.log.append(line.rstrip())
                self._more.notify_all()


@contextmanager
def running_server(data: Path, port: int | None = None, **settings: str) -> Iterator[ServerProcess]:
    """A server that is ready, stopped at the end."""
    server = ServerProcess(data, settings, port)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


class Tenant:
    """A tenant of its own for one test, with a client that has all its scopes, to be closed."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.name = f"tenant-{next(_numbers)}"
        with server.client(server.operator_key) as operator:
            made = operator.post("/v1/tenants", json={"name": self.name})
        made.raise_for_status()
        self.key: str = made.json()["key"]
        self.client = server.client(self.key)

    def __enter__(self) -> Tenant:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def key_with(self, *scopes: str, **fields: Any) -> tuple[str, str]:
        """A new key as (id, text)."""
        made = self.client.post("/v1/keys", json={"name": "k", "scopes": scopes, **fields})
        assert made.status_code == 201, made.text
        return made.json()["id"], made.json()["key"]

    def token(self, *scopes: str, key: str | None = None, **fields: Any) -> str:
        """A new token, minted by the tenant's key or by `key`."""
        with self.server.client(key or self.key) as minter:
            made = minter.post("/v1/tokens", json={"scopes": scopes, "ttl_s": 600, **fields})
        assert made.status_code == 201, made.text
        token: str = made.json()["token"]
        return token


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_whole(answer: bytes) -> bool:
    head, separator, body = answer.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return bool(separator) and len(body) >= int(line.partition(b":")[2])
    return bool(separator) and body.endswith(b"0\r\n\r\n")
