"""`monolite serve`: from settings to a listening server, and back to nothing, in order."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from monolite.settings import Settings
from monolite.storage.data_directory import DataDirectory, DirectoryLock, write_private
from monolite.systemd_notify import Notifier
from monolite.web.server import Server
from monolite.web.starting import Starting

if TYPE_CHECKING:
    from monolite.assembly import Installation

log = logging.getLogger("monolite")

_SWITCH_INTERVAL_S = 0.0005
_OPEN_FILES = 65_536


async def serve(settings: Settings, *, on_ready: Callable[[Installation, str], None]) -> int:
    """Serve until SIGTERM or SIGINT, then drain; returns the exit code.

    `on_ready` is given the installation and its URL once requests are answered.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    # A closed terminal doesn't end a server; there is nothing to reload.
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    notifier = Notifier()
    directory = DataDirectory(settings.data)
    directory.prepare()
    with directory.lock() as lock:
        _allow_open_files()
        starting = Starting()
        server = Server(starting, *settings.listen)
        server.start()
        installation = await _open(settings, directory, lock)
        try:
            starting.become(installation.app)
            server.application = installation.app
            url = _url(settings)
            info = json.dumps({"pid": os.getpid(), "url": url})
            write_private(directory.server_info, info.encode())
            await installation.start_serving()
            on_ready(installation, url)
            notifier.ready()
            watchdog = loop.create_task(notifier.watch())
            _settle_garbage()
            await stopping.wait()
            log.info("stopping: %d requests in flight", server.open_requests)
            notifier.stopping()
            watchdog.cancel()
            installation.live.end_all()
            installation.stop_waiting()
            finished = await server.stop(settings.drain_s)
        finally:
            directory.server_info.unlink(missing_ok=True)
            await installation.close()
    if not finished:
        log.error("requests were still running after %s s and were cut off", settings.drain_s)
        return 1
    log.info("stopped")
    return 0


async def _open(settings: Settings, directory: DataDirectory, lock: DirectoryLock) -> Installation:
    restored = await _restore_into_empty(settings, directory)
    # In a thread: its imports take longer than everything before, and /healthz is answered already,
    # the more promptly the shorter a thread may keep the interpreter lock.
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        assembly = await asyncio.to_thread(_assembly)
    finally:
        sys.setswitchinterval(interval_s)
    return await assembly.open(settings, lock=lock, may_rotate_secret=restored)


def _assembly() -> type[Installation]:
    from monolite.assembly import Installation

    return Installation


async def _restore_into_empty(settings: Settings, directory: DataDirectory) -> bool:
    """Bring the replica's database into an empty data directory; whether there was one."""
    if settings.replica_url is None or directory.database.exists():
        return False
    from monolite.replication.restore import restore

    report = await asyncio.to_thread(
        restore, settings.replica(), directory.database, progress=lambda line: log.info(line)
    )
    return report is not None


def _url(settings: Settings) -> str:
    host, port = settings.listen
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _allow_open_files() -> None:
    """Lift the soft limit: each connection is a descriptor, and shells give out 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _settle_garbage() -> None:
    # What start-up made stays: scanning it again and again is what shows in p99.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
