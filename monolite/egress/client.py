"""One call to a URL that somebody else named."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from monolite.egress.connection import Answer, Connection
from monolite.egress.errors import EgressError, timed_out, unreachable
from monolite.egress.target import Guard, Target

CONNECT_S = 5.0
BODY_S = 1.0
"""How long the body of an answer is waited for, once its head has come."""

FINISH_S = 0.05
"""How long the end of a streamed body is waited for, once nothing more of it is wanted."""

KEPT_COUNT_MAX = 16
"""Idle connections kept to one origin."""

KEPT_S = 15.0


class Client:
    """Calls, over connections that are kept for a while."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._idle: dict[tuple[str, str, int], list[Connection]] = {}

    async def call(
        self,
        method: str,
        target: Target,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        *,
        deadline_s: float,
    ) -> Answer:
        """An answer, whatever its status; a redirect is one, and is not followed.

        Raises EgressError where none came within `deadline_s`, the address is refused, or what
        came was no HTTP.
        """
        all_headers = [("host", target.host_header), *headers]
        try:
            async with asyncio.timeout(deadline_s):
                return await self._call(method, target, all_headers, body)
        except TimeoutError:
            raise timed_out(f"no answer within {deadline_s:g} s") from None

    async def stream(
        self,
        method: str,
        target: Target,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        *,
        deadline_s: float,
    ) -> Streamed:
        """An answer whose body is read as it comes; its head comes within `deadline_s`. Close it.

        Raises EgressError as `call` does.
        """
        all_headers = [("host", target.host_header), *headers]
        pieces: asyncio.Queue[bytes] = asyncio.Queue()
        try:
            async with asyncio.timeout(deadline_s):
                connection = await self._begun(method, target, all_headers, body, sink=pieces)
        except TimeoutError:
            raise timed_out(f"no answer within {deadline_s:g} s") from None
        return Streamed(self, target, connection, pieces)

    async def _call(
        self, method: str, target: Target, headers: Sequence[tuple[str, str]], body: bytes
    ) -> Answer:
        connection = await self._begun(method, target, headers, body)
        try:
            async with asyncio.timeout(BODY_S):
                await connection.rest()
        except (TimeoutError, EgressError):
            # The status is known; a body that never ends says no more.
            answer = connection.answer()
            connection.close()
            return answer
        except BaseException:
            connection.close()
            raise
        answer = connection.answer()
        self.keep(target, connection)
        return answer

    async def _begun(
        self,
        method: str,
        target: Target,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        sink: asyncio.Queue[bytes] | None = None,
    ) -> Connection:
        """A connection on which the head of the answer has come."""
        connection = self._kept(target)
        while True:
            is_kept = connection is not None
            if connection is None:
                connection = await self._connect(target)
            connection.sink = sink
            try:
                await connection.head(method, target.path, headers, body)
                return connection
            except EgressError as error:
                connection.close()
                # The other side may have closed a kept connection just before.
                if not is_kept or error.code != "connection_failed":
                    raise
                connection = None
            except BaseException:
                connection.close()
                raise

    async def _connect(self, target: Target) -> Connection:
        loop = asyncio.get_running_loop()
        failure: Exception | None = None
        for address in await self._guard.addresses(target):
            tls: dict[str, Any] = {}
            if target.scheme == "https":
                tls = {"ssl": _tls(), "server_hostname": target.host}
            try:
                async with asyncio.timeout(CONNECT_S):
                    # To this very address: the name is not asked again.
                    _, connection = await loop.create_connection(
                        Connection, str(address), target.port, **tls
                    )
                return connection
            except (OSError, TimeoutError) as error:
                failure = error
        reason = str(failure) or f"no connection within {CONNECT_S:g} s"
        raise unreachable(f"{target.host}:{target.port} can't be reached: {reason}")

    def _kept(self, target: Target) -> Connection | None:
        idle = self._idle.get(target.origin, [])
        oldest = asyncio.get_running_loop().time() - KEPT_S
        while idle:
            connection = idle.pop()
            if connection.is_usable and connection.used_at >= oldest:
                return connection
            connection.close()
        return None

    def keep(self, target: Target, connection: Connection) -> None:
        """Have a connection for the next call, where it can make one."""
        idle = self._idle.setdefault(target.origin, [])
        if not connection.is_usable or len(idle) >= KEPT_COUNT_MAX:
            connection.close()
            return
        connection.used_at = asyncio.get_running_loop().time()
        idle.append(connection)

    def close_idle(self) -> None:
        """Give up connections that were not used for a while; call it now and then."""
        oldest = asyncio.get_running_loop().time() - KEPT_S
        for origin, idle in list(self._idle.items()):
            for connection in [c for c in idle if c.used_at < oldest or not c.is_usable]:
                idle.remove(connection)
                connection.close()
            if not idle:
                del self._idle[origin]

    def close(self) -> None:
        """Give up every connection."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()


class Streamed:
    """An answer on its way: its head has come."""

    def __init__(
        self, client: Client, target: Target, connection: Connection, pieces: asyncio.Queue[bytes]
    ) -> None:
        self._client = client
        self._target = target
        self._connection = connection
        self._pieces = pieces
        head = connection.answer()
        self.status = head.status
        self.headers = head.headers

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises EgressError where the connection breaks before its end."""
        ended = asyncio.ensure_future(self._connection.rest())
        # Its reader may go before it fails.
        ended.add_done_callback(lambda one: one.cancelled() or one.exception())
        try:
            while True:
                while not self._pieces.empty():
                    yield self._pieces.get_nowait()
                self._connection.resume()
                if ended.done():
                    ended.result()
                    return
                coming = asyncio.ensure_future(self._pieces.get())
                try:
                    await asyncio.wait({coming, ended}, return_when=asyncio.FIRST_COMPLETED)
                    if coming.done():
                        yield coming.result()
                finally:
                    coming.cancel()
        finally:
            ended.cancel()

    async def finish(self) -> None:
        """Wait a moment for the end of a body of which nothing more is wanted, so that the
        connection can make another call.
        """
        self._connection.sink = None
        self._connection.resume()
        with suppress(TimeoutError, EgressError):
            async with asyncio.timeout(FINISH_S):
                await self._connection.rest()

    def close(self) -> None:
        """Let the connection go, for another call where this answer has ended."""
        self._connection.sink = None
        if self._connection.is_usable:
            self._client.keep(self._target, self._connection)
        else:
            self._connection.close()


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
