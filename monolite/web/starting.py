"""What is served while the installation is still opening.

The port is bound first: the process lives, so /healthz says so, while imports, migrations or a
restore of many gigabytes go on. /readyz says 503 until the application is there, and everything
else waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

_HEADERS = [(b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff")]


class Served(Protocol):
    """What a Server asks of an application."""

    def hot(self, scope: dict[str, Any]) -> App | None:
        """The handler of a request that may be started without a task; else None."""
        ...

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve a request or WebSocket."""
        ...


class Starting:
    """Stands in for the application until `become` names it, and then passes on to it."""

    def __init__(self) -> None:
        self._application: Served | None = None
        self._opened = asyncio.Event()

    def become(self, application: Served) -> None:
        """The application is there: answer what waits, and all that comes, with it."""
        self._application = application
        self._opened.set()

    def hot(self, scope: dict[str, Any]) -> App | None:
        """The application's, once it is there."""
        return None if self._application is None else self._application.hot(scope)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer /healthz and /readyz at once; let the rest wait."""
        if self._application is None and scope["type"] == "http":
            if scope["path"] == "/healthz":
                await _answer(send, 200, b'{"status":"ok"}')
                return
            if scope["path"] == "/readyz":
                await _answer(send, 503, b'{"status":"starting"}')
                return
        await self._opened.wait()
        assert self._application is not None  # set before the event
        await self._application(scope, receive, send)


async def _answer(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": body})
