"""Tells systemd how the service is: sd_notify(3) without libsystemd.

Silent where NOTIFY_SOCKET is not set, so that a server in a terminal needs no flag.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Datagrams to the service manager's socket; a lost one is never an error of the service."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # systemd writes an abstract socket's leading zero byte as @.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = int(environment.get("WATCHDOG_USEC", "0")) / 1_000_000

    def ready(self) -> None:
        """Start-up is over."""
        self._send(b"READY=1")

    def stopping(self) -> None:
        """The service begins to stop."""
        self._send(b"STOPPING=1")

    async def watch(self) -> None:
        """Show life at twice the rate that the watchdog asks for; a stuck loop can't."""
        while self._watchdog_s:
            self._send(b"WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / 2)

    def _send(self, message: bytes) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            try:
                sender.sendto(message, self._address)
            except OSError:
                return
