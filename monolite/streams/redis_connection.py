"""One connection to Redis or Valkey, on which all that waits is sent at once.

What is asked while answers are read goes out in the next batch: under load hundreds of calls share
a round trip. A lost connection fails what was under way, since nobody knows whether it was carried
out, and is made again with the next call. The Lua verbs (lua/*.lua) are one script.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from monolite.bundle import resource
from monolite.storage.errors import QueueFull, StorageFull, StorageReadOnly, StorageUnavailable

DEADLINE_S = 10.0
"""How long a batch may take before the connection is given up."""

CONNECT_S = 5.0
QUEUE_COUNT_MAX = 16_384
BATCH_COUNT_MAX = 512
_IDLE_S = 1.0
_PARTS = ("ids", "log", "groups", "manage", "moving", "dispatch")

Argument = bytes | str | int
Command = Sequence[Argument]


@cache
def script() -> tuple[str, str]:
    """The Lua verbs, and the digest that Redis knows them by."""
    folder = resource("monolite/streams/lua")
    text = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in _PARTS)
    return text, hashlib.sha1(text.encode()).hexdigest()  # noqa: S324  # Redis's own name for it


def new_connection(url: str) -> Any:
    """A connection of redis-py's, not made yet; ValueError where the URL is none."""
    from redis.asyncio import ConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    over_network = {} if url.startswith("unix:") else {"socket_keepalive": True}
    pool: Any = ConnectionPool.from_url(
        url,
        protocol=2,
        # A call that is sent twice may be carried out twice.
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=CONNECT_S,
        socket_timeout=None,
        client_name="monolite",
        **over_network,
    )
    return pool.make_connection()


class RedisConnection:
    """Commands, answered in their order."""

    def __init__(self, url: str) -> None:
        self._connection = new_connection(url)
        self._queue: list[tuple[Command | Callable[[], Command], asyncio.Future[Any]]] = []
        self._waits = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._used_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._pump = self._loop.create_task(self._run())
        self.is_connected = False

    def send(self, command: Command | Callable[[], Command]) -> asyncio.Future[Any]:
        """One command, or what makes one at the moment it is sent.

        Its answer is of bytes, int, None and lists. Raises StorageError.
        """
        if len(self._queue) >= QUEUE_COUNT_MAX:
            raise QueueFull("too many calls wait for Redis; try again in a moment")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append((command, future))
        self._idle.clear()
        self._waits.set()
        return future

    def run(self, verb: str, *arguments: Argument) -> asyncio.Future[Any]:
        """One of the Lua verbs."""
        return self.send(("EVALSHA", script()[1], 0, verb, *arguments))

    async def close(self) -> None:
        """Answer what waits, and let go."""
        await self._idle.wait()
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)
        await self._connection.disconnect()

    async def _run(self) -> None:
        while True:
            await self._waits.wait()
            self._waits.clear()
            while self._queue:
                batch = self._queue[:BATCH_COUNT_MAX]
                try:
                    await self._exchange(batch)
                finally:
                    del self._queue[: len(batch)]
            self._idle.set()

    async def _exchange(
        self, batch: list[tuple[Command | Callable[[], Command], asyncio.Future[Any]]]
    ) -> None:
        from redis.exceptions import RedisError

        at = 0
        try:
            async with asyncio.timeout(DEADLINE_S + CONNECT_S):
                await self._connect()
                commands = [made() if callable(made) else made for made, _ in batch]
                await self._write(commands)
                unknown: list[int] = []
                for _, future in batch:
                    if not await self._settle(future):
                        unknown.append(at)
                    at += 1
                if unknown:
                    # Redis was started anew, or told to forget its scripts: nothing was done.
                    await self._load()
                    await self._write([commands[which] for which in unknown])
                    for which in unknown:
                        await self._settle(batch[which][1], is_last=True)
            self._used_at = self._loop.time()
        except (RedisError, OSError, TimeoutError, EOFError) as error:
            self.is_connected = False
            await self._connection.disconnect(nowait=True)
            for _, future in batch:
                if not future.done():
                    future.set_exception(_unavailable(error))
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(_unavailable(error))
            raise

    async def _connect(self) -> None:
        connection = self._connection
        if self.is_connected and self._loop.time() - self._used_at > _IDLE_S:
            # It may have been closed meanwhile.
            try:
                if await connection.can_read_destructive():
                    self.is_connected = False
            except OSError:
                self.is_connected = False
            if not self.is_connected:
                await connection.disconnect(nowait=True)
        if not self.is_connected:
            await connection.disconnect(nowait=True)
            await connection.connect()
            await self._load()
            self.is_connected = True

    async def _load(self) -> None:
        await self._write([("SCRIPT", "LOAD", script()[0])])
        await self._connection.read_response()

    async def _write(self, commands: Sequence[Command]) -> None:
        packed = self._connection.pack_commands(commands)
        await self._connection.send_packed_command(packed, check_health=False)

    async def _settle(self, future: asyncio.Future[Any], *, is_last: bool = False) -> bool:
        """Read an answer; False where the command was not known."""
        from redis.exceptions import NoScriptError, ResponseError

        try:
            value = await self._connection.read_response()
        except NoScriptError as error:
            if not is_last:
                return False
            value = error
        except ResponseError as error:
            value = error
        if not future.done():
            if isinstance(value, Exception):
                future.set_exception(_refused(value))
            else:
                future.set_result(value)
        return True


def _unavailable(error: BaseException) -> StorageUnavailable:
    why = str(error) or type(error).__name__
    return StorageUnavailable(f"Redis does not answer ({why}); see its log, then try again")


def _refused(error: Exception) -> Exception:
    """What Redis said no to. Nothing was changed: it looks before a script's first write."""
    text = str(error)
    if "OOM" in text:
        return StorageFull(
            "Redis is out of memory and refused the write: raise its maxmemory, or keep less of "
            "the streams"
        )
    if "READONLY" in text or "MISCONF" in text:
        return StorageReadOnly(f"Redis takes no writes ({text})")
    if "LOADING" in text or "MASTERDOWN" in text or "BUSY" in text:
        return StorageUnavailable(f"Redis can't answer yet ({text}); try again in a moment")
    if "NOAUTH" in text or "WRONGPASS" in text or "NOPERM" in text:
        return StorageUnavailable(f"Redis refuses MONOLITE_STREAMS_URL's user ({text})")
    return StorageUnavailable(f"Redis refused a command ({text})")
