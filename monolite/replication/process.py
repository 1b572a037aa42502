"""One Litestream process: started so that it can't outlive us, its log lines passed on."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

LINE_BYTES_MAX = 256 * 1024
LEVELS = {"DEBUG": logging.DEBUG, "WARN": logging.WARNING, "ERROR": logging.ERROR}
_SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


def dying_with_us(*command: str) -> list[str]:
    """The command, run so that the kernel kills it when this process dies.

    Without it a `kill -9` of the server leaves a Litestream that fights the next one's. The
    request (PR_SET_PDEATHSIG) must be made in the child; `setpriv` of util-linux makes it after
    its exec. Python code between fork and exec must not: in a process with threads it deadlocks
    now and then, and this process with it. Where there is no setpriv the command runs as it is.
    The signal comes when the thread that forked ends: start children from the main thread, or
    from one that stays.
    """
    setpriv = _setpriv()
    return [setpriv, "--pdeathsig", "KILL", "--", *command] if setpriv else list(command)


def dies_with_us() -> bool:
    """Whether `dying_with_us` can keep its word on this machine."""
    return _setpriv() is not None


def _setpriv() -> str | None:
    return shutil.which("setpriv", path=_SYSTEM_PATH)


class LitestreamProcess:
    """`litestream replicate`, running. Use `start`."""

    def __init__(self, process: asyncio.subprocess.Process, reader: asyncio.Task[None]) -> None:
        self._process = process
        self._reader = reader

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(
        cls,
        executable: Path,
        config: Path,
        environment: Mapping[str, str],
        *,
        redact: Callable[[str], str],
        on_line: Callable[[int, str], None],
    ) -> LitestreamProcess:
        """Starts it. `on_line` gets each log line's level and redacted text. Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            *dying_with_us(str(executable), "replicate", "-config", str(config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environment),
            limit=LINE_BYTES_MAX,
            # A terminal's Ctrl-C is ours to handle: its last sync comes first.
            start_new_session=True,
        )
        assert process.stdout is not None
        reader = asyncio.create_task(_pass_on(process.stdout, redact, on_line))
        return cls(process, reader)

    async def wait(self) -> int:
        """Waits for its end; the exit status, negative for a signal."""
        status = await self._process.wait()
        await asyncio.wait((self._reader,), timeout=1.0)
        return status

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, and SIGKILL after `timeout_s`."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


async def _pass_on(
    stream: asyncio.StreamReader,
    redact: Callable[[str], str],
    on_line: Callable[[int, str], None],
) -> None:
    while True:
        try:
            raw = await stream.readline()
        except ValueError:  # a line over the limit; the reader has dropped it
            continue
        if not raw:
            return
        level, text = read_line(redact(raw.decode(errors="replace").rstrip()))
        on_line(level, text)


def read_line(line: str) -> tuple[int, str]:
    """Litestream's JSON line as (logging level, text): message, error, then other members."""
    try:
        entry = json.loads(line)
        message = entry.pop("msg")
    except (ValueError, KeyError, AttributeError, TypeError):
        # What it says before its logger is set up, and how it dies.
        return (logging.ERROR if line.startswith("Error") else logging.INFO), line
    level = LEVELS.get(str(entry.pop("level", "")).upper(), logging.INFO)
    entry.pop("time", None)
    details = " ".join(f"{name}={value}" for name, value in entry.items())
    return level, f"{message} {details}".rstrip()
