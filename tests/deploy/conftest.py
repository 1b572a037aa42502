"""A "host" that is a directory of this machine: deploy.sh runs for real, only ssh and scp don't."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.conftest import executable as built
from tests.s3_server import s3_server

__all__ = ["built", "s3_server"]

CHECKOUT = Path(__file__).resolve().parents[2]

# The transport: what a real ssh does with its last arguments, on this machine.
SSH = """#!/usr/bin/env bash
while [[ "$1" == -* ]]; do shift 2; done
shift
exec bash -c "$*"
"""
SCP = """#!/usr/bin/env bash
files=()
while [[ $# -gt 0 ]]; do
    case "$1" in -q) shift ;; -o) shift 2 ;; *) files+=("$1"); shift ;; esac
done
target="${files[-1]#*:}"
unset 'files[-1]'
cp "${files[@]}" "$target"
[[ -z "${DAMAGE_IN_TRANSIT:-}" || ! -e "$target/monolite" ]] || printf x >> "$target/monolite"
"""


@dataclass
class Host:
    """The directory, and what can be asked of it."""

    root: Path
    port: int
    environment: dict[str, str]

    def deploy(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run deploy.sh as its user does."""
        return subprocess.run(
            [str(CHECKOUT / "deploy.sh"), *arguments, "root@host.example"],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @property
    def current(self) -> str:
        """The release that /opt/monolite/monolite names."""
        return os.readlink(self.root / "opt/monolite/monolite")

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.root / "var/lib/monolite"

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        prefer: str | None = None,
    ) -> Any:
        """(status, decoded body) from the running server."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {key}"} if key else {})
            | ({"Prefer": prefer} if prefer else {}),
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def files(self) -> dict[str, tuple[int, int]]:
        """Every path under the root, with what would tell a change."""
        return {
            str(path.relative_to(self.root)): (path.lstat().st_mtime_ns, path.lstat().st_ino)
            for path in self.root.rglob("*")
        }


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def executable(path: Path, text: str) -> Path:
    """A script at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def release(path: Path, marker: str, program: str | None = None) -> Path:
    """A release: one file that runs the checkout's server, or `program`; `marker` sets its hash."""
    server = shlex.quote(str(CHECKOUT / "server.py"))
    run = f'{shlex.quote(sys.executable)} {program or server} "$@"'
    return executable(path, f"#!/bin/sh\n# {marker}\nexec {run}\n")


@contextmanager
def empty_host(tools: Path) -> Iterator[Host]:
    """A host with nothing on it; whatever was started there is ended afterwards."""
    # A datagram socket's path must fit 108 bytes, which pytest's own directories don't.
    root = Path(subprocess.check_output(["mktemp", "-d", "/tmp/mh.XXXXXX"], text=True).strip())
    executable(tools / "ssh", SSH)
    executable(tools / "scp", SCP)
    stand_in = shlex.quote(str(Path(__file__).with_name("systemctl_stand_in.py")))
    interpreter = shlex.quote(sys.executable)
    executable(tools / "systemctl", f'#!/bin/sh\nexec {interpreter} -S {stand_in} "$@"\n')
    executable(
        tools / "journalctl", f"#!/bin/sh\ntail -n 20 {shlex.quote(str(root / 'journal'))}\n"
    )
    port = free_port()
    settings = root / "etc/monolite/monolite.env"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"MONOLITE_LISTEN=127.0.0.1:{port}\n")
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "MONOLITE_DEPLOY_ROOT": str(root),
    }
    try:
        yield Host(root, port, environment)
    finally:
        subprocess.run(["systemctl", "stop", "monolite.service"], env=environment, check=False)
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """An empty host."""
    with empty_host(tmp_path / "bin") as made:
        yield made
