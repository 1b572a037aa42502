"""What other servers on the same Redis appended or released, told to those who wait here.

A channel is subscribed while somebody here waits for its stream, and a little longer. Whoever
waits looks once more when the subscription holds: what was appended until then, nobody told.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from monolite.streams.redis_connection import new_connection
from monolite.streams.waiting import Key, Waiting

log = logging.getLogger("monolite")

LINGER_S = 30.0
_PING_S = 20.0
_AGAIN_S = 1.0


class RedisNews:
    """A connection that only listens. `server` is who this is, and whose own news it skips."""

    def __init__(self, url: str, waiting: Waiting, server: str) -> None:
        self._connection = new_connection(url)
        self._waiting = waiting
        self._server = server.encode()
        self._wanted: dict[Key, int] = {}
        self._held: set[Key] = set()
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []

    @contextmanager
    def wanted(self, key: Key) -> Iterator[None]:
        """Hear of a stream meanwhile."""
        if not self._tasks:
            self._tasks.append(self._loop.create_task(self._run()))
        count = self._wanted.get(key, 0)
        self._wanted[key] = count + 1
        if key not in self._held:
            self._changed.set()
        try:
            yield
        finally:
            self._wanted[key] -= 1
            if not self._wanted[key]:
                self._loop.call_later(LINGER_S, self._drop, key)

    def _drop(self, key: Key) -> None:
        if self._wanted.get(key) == 0:
            del self._wanted[key]
            self._changed.set()

    async def close(self) -> None:
        """Stop listening."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.disconnect()

    async def _run(self) -> None:
        from redis.exceptions import RedisError

        while True:
            try:
                await self._connection.connect()
                self._held.clear()
                self._changed.set()
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._subscribe())
                    group.create_task(self._listen())
            except* (RedisError, OSError, EOFError) as failed:
                log.warning("Redis's news are lost for now: %s", failed.exceptions[0])
            await self._connection.disconnect(nowait=True)
            await asyncio.sleep(_AGAIN_S)

    async def _subscribe(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_PING_S):
                    await self._changed.wait()
            except TimeoutError:
                await self._connection.send_command("PING", check_health=False)
                continue
            self._changed.clear()
            wanted = set(self._wanted)
            for verb, keys in (
                ("SUBSCRIBE", wanted - self._held),
                ("UNSUBSCRIBE", self._held - wanted),
            ):
                if keys:
                    names = [_channel(key) for key in keys]
                    await self._connection.send_command(verb, *names, check_health=False)
            self._held = wanted

    async def _listen(self) -> None:
        while True:
            got: Any = await self._connection.read_response(timeout=math.inf)
            if not isinstance(got, list) or len(got) < 3:
                continue
            kind, channel, what = got[0], got[1], got[2]
            if kind == b"subscribe":
                self._waiting.call_stream(_key(channel))
            elif kind == b"message":
                server, _, said = what.partition(b" ")
                if server != self._server:
                    self._hear(_key(channel), said.decode())

    def _hear(self, key: Key, said: str) -> None:
        if said == "a":
            self._waiting.appended(key)
        elif said == "d":
            self._waiting.call_stream(key)
        else:
            self._waiting.call_all(key, said[1:])


def _channel(key: Key) -> str:
    return f"monolite:{key[0]}:{key[1]}:news"


def _key(channel: bytes) -> Key:
    _, tenant, rest = channel.decode().split(":", 2)
    return int(tenant), rest.rpartition(":")[0]
