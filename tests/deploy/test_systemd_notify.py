"""sd_notify(3) over a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from monolite.systemd_notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.settimeout(10)
    # A socket's path must fit 108 bytes, which pytest's own directories may not.
    name = Path(tempfile.mkdtemp()) / "notify"
    if request.param == "path":
        made.bind(str(name))
        shown = str(name)
    else:
        made.bind(f"\0monolite-test-{os.getpid()}")
        shown = f"@monolite-test-{os.getpid()}"
    with made:
        yield made, shown


def test_ready_and_stopping_reach_the_manager(listener: tuple[socket.socket, str]) -> None:
    received, address = listener
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    assert received.recv(100) == b"READY=1"
    notifier.stopping()
    assert received.recv(100) == b"STOPPING=1"


def test_watchdog_is_fed_again_and_again(listener: tuple[socket.socket, str]) -> None:
    received, address = listener
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000"})

    async def feed() -> list[bytes]:
        task = asyncio.create_task(notifier.watch())
        seen = [await asyncio.to_thread(received.recv, 100) for _ in range(3)]
        task.cancel()
        return seen

    assert asyncio.run(feed()) == [b"WATCHDOG=1"] * 3


def test_nothing_is_sent_without_a_socket_in_the_environment() -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.stopping()
    asyncio.run(notifier.watch())


def test_manager_that_went_away_is_no_error(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
