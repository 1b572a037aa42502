"""A network between clients and a server: it can be down, and it can break at any byte."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PIECE_BYTES = 4096


class Wire:
    """An address that leads to `port` while `is_up`. With `breaks_after`, each connection ends
    somewhere within so many bytes: more after each break, so that all comes through in the end.
    """

    def __init__(self, seed: int) -> None:
        self.port = 0
        self.is_up = True
        self.breaks_after: int | None = None
        self.broken_count = 0
        self.url = ""
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._conversations: set[asyncio.Task[None]] = set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(10)

    def cut(self) -> None:
        """Break every connection."""
        self._loop.call_soon_threadsafe(self._cut)

    def down(self) -> None:
        self.is_up = False
        self.cut()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._accept, "127.0.0.1", 0)
        )
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self._ready.set()
        self._loop.run_forever()

    def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        self._cut()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._conversations.add(task)
        try:
            await self._converse(reader, writer)
        finally:
            self._conversations.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = [1 << 60]
        if self.breaks_after is not None:
            left = [self._random.randrange(self.breaks_after)]
        ends = [writer]
        try:
            if not self.is_up:
                return
            with suppress(OSError):
                there, back = await asyncio.open_connection("127.0.0.1", self.port)
                ends.append(back)
                self._open.update(ends)
                await asyncio.gather(
                    self._carry(reader, back, ends, left), self._carry(there, writer, ends, left)
                )
        finally:
            self._open.difference_update(ends)
            for end in ends:
                end.transport.abort()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ends: list[asyncio.StreamWriter],
        left: list[int],
    ) -> None:
        while piece := await reader.read(PIECE_BYTES):
            if len(piece) > left[0]:
                self.broken_count += 1
                if self.breaks_after is not None:
                    self.breaks_after += self.breaks_after // 10
                writer.write(piece[: left[0]])
                await writer.drain()
                break
            left[0] -= len(piece)
            writer.write(piece)
            await writer.drain()
        for end in ends:
            end.transport.abort()


@contextmanager
def wire(seed: int) -> Iterator[Wire]:
    """A wire that is up, to be led to a server."""
    one = Wire(seed)
    one.start()
    try:
        yield one
    finally:
        one.stop()
