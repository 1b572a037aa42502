"""A pooler before PostgreSQL, as PgBouncer is: sessions lent by the transaction, or for good."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SSL_REQUEST = 80877103
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Lent:
    """A session that a client has, and who passes its answers on."""

    def __init__(self, ends: Ends) -> None:
        self.ends: Ends | None = ends
        self.answering: asyncio.Task[None] | None = None

    def give_back(self) -> Ends:
        assert self.ends is not None
        ends, self.ends = self.ends, None
        return ends


class Pooler:
    """Listens on `port` of loopback until it is stopped."""

    def __init__(self, server_port: int, *, by_transaction: bool) -> None:
        self.port = 0
        self._server_port = server_port
        self._by_transaction = by_transaction
        self._idle: list[Ends] = []
        self._all: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._server: asyncio.Server | None = None

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._all:
            writer.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._all.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            greeting = await _startup(reader)
            if struct.unpack("!i", greeting[4:8])[0] == _SSL_REQUEST:
                writer.write(b"N")
                greeting = await _startup(reader)
            lent = _Lent(await self._new(greeting, writer))
            if self._by_transaction:
                self._idle.append(lent.give_back())
            while True:
                kind, message = await _message(reader)
                if kind == b"X":
                    break
                if lent.ends is None:
                    lent.ends = self._idle.pop() if self._idle else await self._new(greeting, None)
                if lent.answering is None:
                    # It may answer before the transaction's end, where the client asks to flush.
                    lent.answering = asyncio.create_task(self._answer(lent, writer))
                lent.ends[1].write(message)
        writer.close()

    async def _answer(self, lent: _Lent, writer: asyncio.StreamWriter) -> None:
        assert lent.ends is not None
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await _pass_on(lent.ends[0], writer) != b"I":
                pass
        lent.answering = None
        if self._by_transaction:
            self._idle.append(lent.give_back())

    async def _new(self, greeting: bytes, told: asyncio.StreamWriter | None) -> Ends:
        ends = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._all.append(ends[1])
        ends[1].write(greeting)
        await _pass_on(ends[0], told)
        return ends


async def _startup(reader: asyncio.StreamReader) -> bytes:
    length = await reader.readexactly(4)
    return length + await reader.readexactly(struct.unpack("!i", length)[0] - 4)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> bytes:
    """Pass an answer on up to ReadyForQuery; the state of the transaction."""
    while True:
        kind, message = await _message(reader)
        if writer is not None:
            writer.write(message)
        if kind == b"Z":
            return message[5:6]


@contextmanager
def pooler(server_port: int, *, by_transaction: bool) -> Iterator[Pooler]:
    made = Pooler(server_port, by_transaction=by_transaction)
    made.start()
    try:
        yield made
    finally:
        made.stop()
