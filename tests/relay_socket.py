"""A WebSocket of the relay as a client has it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from monolite.sync.frames import Frame, read
from tests.server_process import ServerProcess


class RelaySocket:
    """An open connection. Every wait has an end."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: list[Frame] = []

    def send(self, **message: Any) -> None:
        blob = message.get("blob")
        if isinstance(blob, bytes):
            message["blob"] = base64.b64encode(blob).decode()
        self.connection.send(json.dumps(message))

    def next(self, *kinds: str) -> dict[str, Any]:
        """The next message of one of these kinds; others are passed over, frames kept."""
        while True:
            found = self._receive()
            if found is not None and (not kinds or found["type"] in kinds):
                return found

    def next_frame(self) -> Frame:
        """The next frame; other messages are passed over."""
        while not self.frames:
            self._receive()
        return self.frames.pop(0)

    def entries(self, count: int) -> list[dict[str, Any]]:
        """Entries as they come, that many at least."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            found += self.next("entries")["data"]
        return found

    def _receive(self) -> dict[str, Any] | None:
        message = self.connection.recv(timeout=20)
        if isinstance(message, bytes):
            self.frames += read(message)
            return None
        found: dict[str, Any] = json.loads(message)
        return found

    def closed(self) -> tuple[int, str]:
        """The code and reason it is closed with; what comes before is passed over."""
        with suppress(ConnectionClosed):
            while True:
                self.connection.recv(timeout=20)
        code, reason = self.connection.close_code, self.connection.close_reason
        assert code is not None
        assert reason is not None
        return code, reason


@contextmanager
def relay_socket(
    server: ServerProcess, document: str, key: str | None = None, **hello: Any
) -> Iterator[RelaySocket]:
    """A connection; with a key it has said hello."""
    url = f"ws://127.0.0.1:{server.port}/v1/sync/{document}/ws"
    with connect(url, max_size=None, compression=None) as connection:
        socket = RelaySocket(connection)
        if key is not None:
            socket.send(type="hello", token=key, **hello)
        yield socket
