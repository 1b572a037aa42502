"""HTTP/1.1 on one connection, one call after the other (RFC 9112, by way of h11)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import h11

from monolite.egress.errors import EgressError, garbled, unreachable

KEPT_BYTES_MAX = 1024
"""Of an answer's body."""

READ_BYTES_MAX = 64 * 1024
"""Of an answer's body, before the connection is given up with it."""

_HEAD_BYTES_MAX = 16 * 1024


class Answer(NamedTuple):
    """A status, headers by lower-case name, and the beginning of the body."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


PIECES_MAX = 256
"""That wait in a `sink`; beyond, no more is read until they are taken."""


class Connection(asyncio.Protocol):
    """A connection that is made; `call` it while `is_usable`."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES_MAX)
        self._transport: Any = None
        self._lost: EgressError | None = None
        self._head: asyncio.Future[None] | None = None
        self._end: asyncio.Future[None] | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()
        self._read = 0
        self._has_begun = False
        self._is_paused = False
        self.used_at = 0.0
        # Takes the body as it comes, in place of its beginning being kept.
        self.sink: asyncio.Queue[bytes] | None = None

    @property
    def is_usable(self) -> bool:
        """Whether another call can be made."""
        return self._lost is None and self._http.our_state is h11.IDLE

    async def head(
        self, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes
    ) -> None:
        """Send a request and wait for the head of its answer; raises EgressError."""
        loop = asyncio.get_running_loop()
        self._head, self._end = loop.create_future(), loop.create_future()
        self._body.clear()
        self._read = 0
        self._has_begun = False
        request = h11.Request(
            method=method, target=path, headers=[*headers, ("content-length", str(len(body)))]
        )
        send = self._http.send
        parts = [send(request), send(h11.Data(data=body)), send(h11.EndOfMessage())]
        if self._lost is not None:
            raise self._lost
        self._transport.write(b"".join(part or b"" for part in parts))
        await self._head

    async def rest(self) -> None:
        """Until the body has ended, or enough of it has come."""
        assert self._end is not None  # `head` comes before
        await self._end

    def answer(self) -> Answer:
        """What has come so far; there is a head."""
        return Answer(self._status, self._headers, bytes(self._body))

    def close(self) -> None:
        """Give the connection up."""
        self._lose(unreachable("the connection was closed"))
        if self._transport is not None:
            self._transport.abort()

    def resume(self) -> None:
        """Read on, where a full `sink` had stopped it."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    # ── asyncio.Protocol ───────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._has_begun = True
        try:
            self._http.receive_data(data)
            self._take_events()
        except h11.RemoteProtocolError as error:
            self._lose(garbled(f"the answer is not HTTP/1.1: {error}"))
            self._transport.abort()

    def eof_received(self) -> None:
        if self._has_begun:
            self.data_received(b"")
        else:
            self._lose(unreachable("the connection was closed without an answer"))

    def connection_lost(self, error: Exception | None) -> None:
        why = "" if error is None else f": {error}"
        self._lose(unreachable(f"the connection was closed before the answer ended{why}"))

    def _take_events(self) -> None:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Response):
                self._status = event.status_code
                self._headers = dict(event.headers)
                _settle(self._head)
            elif isinstance(event, h11.Data) and self.sink is not None:
                self.sink.put_nowait(bytes(event.data))
                if self.sink.qsize() >= PIECES_MAX and not self._is_paused:
                    self._is_paused = True
                    self._transport.pause_reading()
            elif isinstance(event, h11.Data):
                self._read += len(event.data)
                self._body += event.data[: KEPT_BYTES_MAX - len(self._body)]
                if self._read > READ_BYTES_MAX:
                    _settle(self._end)
            elif isinstance(event, h11.EndOfMessage):
                if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
                    self._http.start_next_cycle()
                _settle(self._end)
                return
            elif isinstance(event, h11.ConnectionClosed):
                self._lose(unreachable("the connection was closed without an answer"))
                return

    def _lose(self, error: EgressError) -> None:
        if self._lost is None:
            self._lost = error
        for future in (self._head, self._end):
            if future is not None and not future.done():
                future.set_exception(self._lost)
                # Whoever waited may have gone.
                future.exception()


def _settle(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
