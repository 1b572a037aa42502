"""The contenders: Monolite and PocketBase, started on free ports in directories of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from bench.machine import pss_bytes

ROOT = Path(__file__).resolve().parents[1]
SOURCE = (sys.executable, str(ROOT / "server.py"))
WITHOUT_GROUP_COMMIT = (sys.executable, "-m", "bench.without_group_commit")
_START_TIMEOUT_S = 30.0
_running: list[Server] = []
_ADMIN = {"identity": "bench@example.com", "password": "bench-password"}


class Server:
    """A child process that answers HTTP on `port`."""

    def __init__(self, command: list[str], port: int, health: str, log: Path, **env: str) -> None:
        self.port = port
        self.log = log
        # An inherited setting would make one machine's figures another's.
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MONOLITE_", "AWS_"))}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, cwd=ROOT, env=clean | env
            )
        _running.append(self)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers(health):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.02)

    def pss_mb(self) -> float:
        """Memory of its whole process tree, in MB of 1 000 000 bytes."""
        return pss_bytes(self.process.pid) / 1e6

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when it does not end; harmless where it has ended."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def call(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        """One JSON request; raises RuntimeError with the answer where it is not 2xx."""
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = token
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            headers=headers,
            data=None if body is None else json.dumps(body).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read()!r}") from error

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=1):
                return True
        except OSError:
            return False


def stop_all() -> None:
    """Ends every server that still runs, so that a failed figure leaves none behind."""
    while _running:
        _running.pop().stop()


def start_monolite(
    data: Path, *, command: tuple[str, ...] = SOURCE, synchronous: str = "normal", **env: str
) -> Server:
    """`serve --demo` on `data`; the tenant's key is then in `monolite_key(data)`."""
    data.mkdir(parents=True, exist_ok=True)
    port = free_port()
    server = Server(
        [*command, "serve", "--data", str(data), "--listen", f"127.0.0.1:{port}", "--demo"],
        port,
        "/healthz",
        data.with_suffix(".log"),
        MONOLITE_SYNCHRONOUS=synchronous,
        # A limit per key is a product's promise to its neighbours; here one key is all load.
        MONOLITE_RATE_LIMIT="off",
        **env,
    )
    while not (data / "demo.key").exists():
        time.sleep(0.02)
    return server


def monolite_key(data: Path) -> str:
    """The Authorization value of the tenant `demo`."""
    return "Bearer " + (data / "demo.key").read_text().strip()


def operator_key(data: Path) -> str:
    """The Authorization value of the operator."""
    return "Bearer " + (data / "operator.key").read_text().strip()


def start_pocketbase(data: Path, *, request_log: bool = True) -> Server:
    """PocketBase as shipped, or with its request log off."""
    _pocketbase(data, "superuser", "upsert", *_ADMIN.values())
    port = free_port()
    command = [pocketbase_executable(), "serve", "--http", f"127.0.0.1:{port}"]
    command += pocketbase_directories(data)
    server = Server(command, port, "/api/health", data.with_suffix(".log"))
    if not request_log:
        settings = {"logs": {"maxDays": 0}}
        server.call("PATCH", "/api/settings", settings, token=superuser_token(server))
    return server


def superuser_token(server: Server) -> str:
    """PocketBase's token of its administrator."""
    path = "/api/collections/_superusers/auth-with-password"
    return str(server.call("POST", path, _ADMIN)["token"])


def user_token(server: Server) -> str:
    """PocketBase's token of an ordinary user, made when missing."""
    users = "/api/collections/users"
    user = {"email": "user@example.com", "password": "user-password"}
    login = {"identity": user["email"], "password": user["password"]}
    try:
        return str(server.call("POST", f"{users}/auth-with-password", login)["token"])
    except RuntimeError:
        made = user | {"passwordConfirm": user["password"]}
        server.call("POST", f"{users}/records", made, token=superuser_token(server))
        return str(server.call("POST", f"{users}/auth-with-password", login)["token"])


def pocketbase_executable() -> str:
    """The one of this Python's environment, else the one on PATH."""
    beside = Path(sys.executable).parent / "pocketbase"
    found = str(beside) if beside.exists() else shutil.which("pocketbase")
    if found is None:
        raise RuntimeError("pocketbase is not installed; run `make bench`, which brings it")
    return found


def pocketbase_directories(data: Path) -> list[str]:
    """Every directory PocketBase uses, inside `data`."""
    return ["--dir", str(data), "--migrationsDir", str(data / "m"), "--hooksDir", str(data / "h")]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _pocketbase(data: Path, *words: str) -> None:
    command = [pocketbase_executable(), *words, *pocketbase_directories(data)]
    subprocess.run(command, check=True, capture_output=True)
