"""`monolite serve`: from settings to a listening server, and back to nothing, in order."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
from collections.abc import Callable

from monolite.assembly import Installation
from monolite.settings import Settings
from monolite.storage.data_directory import write_private
from monolite.systemd_notify import Notifier
from monolite.web.server import Server

log = logging.getLogger("monolite")


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
    restored = await _restore_into_empty(settings)
    installation = await Installation.open(settings, may_rotate_secret=restored)
    try:
        server = Server(installation.app, *settings.listen)
        server.start()
        url = _url(settings)
        info = {"pid": os.getpid(), "url": url}
        write_private(installation.directory.server_info, json.dumps(info).encode())
        try:
            await installation.start_serving()
            _settle_garbage()
            on_ready(installation, url)
            notifier.ready()
            watchdog = loop.create_task(notifier.watch())
            await stopping.wait()
            log.info("stopping: %d requests in flight", server.open_requests)
            notifier.stopping()
            watchdog.cancel()
            installation.live.end_all()
            finished = await server.stop(settings.drain_s)
        finally:
            installation.directory.server_info.unlink(missing_ok=True)
    finally:
        await installation.close()
    if not finished:
        log.error("requests were still running after %s s and were cut off", settings.drain_s)
        return 1
    log.info("stopped")
    return 0


async def _restore_into_empty(settings: Settings) -> bool:
    """Bring the replica's database into an empty data directory; whether there was one."""
    if settings.replica_url is None or (settings.data / "monolite.db").exists():
        return False
    from monolite.replication.restore import restore
    from monolite.storage.data_directory import DataDirectory

    directory = DataDirectory(settings.data)
    directory.prepare()
    report = await asyncio.to_thread(
        restore, settings.replica(), directory.database, progress=lambda line: log.info(line)
    )
    return report is not None


def _url(settings: Settings) -> str:
    host, port = settings.listen
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _settle_garbage() -> None:
    # What start-up made stays: scanning it again and again is what shows in p99.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
