"""Requests to the server of a data directory, or to the installation itself where none runs."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from monolite.settings import Settings
from monolite.storage.data_directory import DataDirectory
from monolite.storage.errors import DataDirectoryInUse

_PIECE_BYTES = 64 * 1024
_TIMEOUT_S = 600.0

Body = bytes | BinaryIO | None
Send = Callable[[str, str, Body, str, Callable[[bytes], None]], Awaitable[int]]


class Refused(Exception):
    """The API's answer was a problem; the message is its detail."""


class Client:
    """Speaks the API with the operator's key."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def call(self, method: str, path: str, value: Any = None) -> Any:
        """The decoded JSON of the answer, or None where it has no body; raises Refused."""
        pieces: list[bytes] = []
        body = None if value is None else json.dumps(value).encode()
        status = await self._send(method, path, body, "application/json", pieces.append)
        raw = b"".join(pieces)
        answer = json.loads(raw) if raw else None
        if status >= 400:
            raise Refused(_detail(answer, status))
        return answer

    async def stream(
        self, method: str, path: str, body: Body, sink: Callable[[bytes], None]
    ) -> None:
        """Send a body as NDJSON, and pass the answer's pieces on; raises Refused."""
        refused: list[bytes] = []
        status = 0

        def taken(piece: bytes) -> None:
            refused.append(piece) if len(refused) < 64 else None
            sink(piece)

        status = await self._send(method, path, body, "application/x-ndjson", taken)
        if status >= 400:
            raise Refused(_detail(json.loads(b"".join(refused) or b"null"), status))

    async def pages(self, path: str) -> AsyncIterator[Any]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            suffix = f"&cursor={cursor}" if cursor else ""
            page = await self.call("GET", f"{path}?limit=200{suffix}")
            for item in page["data"]:
                yield item
            cursor = page["next_cursor"]
            if cursor is None:
                return


@asynccontextmanager
async def connected(settings: Settings, *, only_stopped: bool = False) -> AsyncIterator[Client]:
    """A client of the directory's server, or of the directory itself where none runs.

    Raises:
        DataDirectoryInUse: another process has it and doesn't say where it serves, or a server
            has it and `only_stopped` was asked for.
    """
    from monolite.assembly import Installation

    directory = DataDirectory(settings.data)
    try:
        installation = await Installation.open(settings)
    except DataDirectoryInUse:
        if only_stopped:
            raise
        yield Client(_over_http(await _server_url(directory), _key(directory)))
        return
    try:
        yield Client(_in_process(installation.app, installation.operator_key))
    finally:
        await installation.close()


async def _server_url(directory: DataDirectory) -> str:
    # A server that is just starting has the lock before it has an address.
    for _ in range(50):
        try:
            url: str = json.loads(directory.server_info.read_text())["url"]
            return url
        except (OSError, ValueError, KeyError):
            await asyncio.sleep(0.1)
    raise DataDirectoryInUse(
        f"{directory.path} is in use by a process that does not say where it serves. Wait for it "
        "to end, then try again."
    )


def _key(directory: DataDirectory) -> str:
    return directory.operator_key.read_text().strip()


def _over_http(url: str, key: str) -> Send:
    def exchange(
        method: str, path: str, body: Body, media: str, sink: Callable[[bytes], None]
    ) -> int:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port or 80, timeout=_TIMEOUT_S
        )
        headers = {"Authorization": f"Bearer {key}"}
        if body is not None:
            headers["Content-Type"] = media
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            while piece := answer.read(_PIECE_BYTES):
                sink(piece)
        except (OSError, http.client.HTTPException) as error:
            raise Refused(f"The server at {url} does not answer: {error}.") from None
        finally:
            connection.close()
        return answer.status

    return lambda *request: asyncio.to_thread(exchange, *request)


def _in_process(app: Any, key: str) -> Send:
    async def exchange(
        method: str, path: str, body: Body, media: str, sink: Callable[[bytes], None]
    ) -> int:
        bare, _, query = path.partition("?")
        headers = [(b"authorization", f"Bearer {key}".encode())]
        if body is not None:
            headers.append((b"content-type", media.encode()))
        pieces = _pieces(body)
        ended = asyncio.Event()
        status = 0

        async def receive() -> dict[str, Any]:
            piece = next(pieces, None)
            if piece is None:
                await ended.wait()
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece, "more_body": bool(piece)}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message.get("body"):
                sink(message["body"])

        scope = {
            "type": "http",
            "method": method,
            "path": bare,
            "query_string": query.encode(),
            "headers": headers,
            "client": None,
        }
        try:
            await app(scope, receive, send)
        finally:
            ended.set()
        return status

    return exchange


def _pieces(body: Body) -> Iterator[bytes]:
    if body is not None and not isinstance(body, bytes):
        while piece := body.read(_PIECE_BYTES):
            yield piece
    elif body:
        yield body
    yield b""


def _detail(answer: Any, status: int) -> str:
    if isinstance(answer, dict) and "detail" in answer:
        return str(answer["detail"])
    return f"The server answered {status}."
