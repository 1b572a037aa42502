"""HTTP/1.1 by hand over one keep-alive connection: what was sent, read and cut off is known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


class Closed(Exception):
    """The server closed before the first byte of an answer."""


class Truncated(Exception):
    """The server closed in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class Response:
    """One whole answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One keep-alive connection with a key."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """One request and its whole answer; a body of bytes goes as it is, any other as JSON.

        Raises:
            Closed: the connection ended before any byte of the answer.
            Truncated: it ended inside the answer.
        """
        lines = [f"{method} {path} HTTP/1.1", "Host: t", f"Authorization: Bearer {self._key}"]
        if isinstance(body, bytes):
            content, kind = body, "application/octet-stream"
        else:
            content, kind = b"" if body is None else json.dumps(body).encode(), "application/json"
        if body is not None:
            lines += [f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        try:
            self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
            await self._writer.drain()
            first = await self._reader.read(1)
        except OSError as error:
            raise Closed from error
        if not first:
            raise Closed
        try:
            return await self._answer(first)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Truncated from error

    async def _answer(self, first: bytes) -> Response:
        head = (first + await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in headers.items()}
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self._reader.readuntil(b"\r\n"), 16):
                body += (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readexactly(2)
        else:
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return Response(int(head[0].split(" ", 2)[1]), headers, body)
