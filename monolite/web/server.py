"""Granian, embedded in our one asyncio loop.

Granian's own embedding makes a task for every request and wakes the loop for each. Here requests
that arrived together are started together by one wake-up, and a hot operation is run at once, up
to its first suspension, without a task: a point read never has one. Measured against Granian's
scheduler on the same operation this gives 1.2-1.3 times the requests
(docs/decisions/0002-one-pipeline-two-ways-in.md).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

from monolite.web.starting import Served

log = logging.getLogger("monolite.web")

_BACKLOG = 1024
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_CONNECTION_COUNT_MAX = 16_384
_SILENCE_MS = 60_000
"""How long a client may acknowledge nothing of what it was sent before its connection is reset."""


class Server:
    """One listening address. `start`, then `stop` for a graceful end."""

    def __init__(self, application: Served, host: str, port: int) -> None:
        self.application = application
        self._host = host
        self._port = port
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended: asyncio.Future[None] | None = None
        self._signal: Any = None

    def start(self) -> None:
        """Bind and serve; raises OSError where the address can't be had."""
        native = _native()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        self._ended = ended
        self._signal = native.WorkerSignal()
        self._signal.add_cb(lambda: loop.call_soon_threadsafe(_set_once, ended))
        _require_free(self._host, self._port)
        holder = native.ListenerSpec(self._host, self._port, _BACKLOG).build()
        _give_up_on_the_silent(holder.get_fd())
        worker = native.ASGIWorker(
            1,  # worker id
            (None, holder),
            None,  # IPC
            1,  # runtime threads: more take the interpreter lock from each other
            512,  # runtime blocking threads
            1,  # Python threads
            30,  # their idle time-out, seconds
            _CONNECTION_COUNT_MAX,
            "auto",  # HTTP/1.1 and HTTP/2
            None,
            None,
            True,  # WebSockets
            None,  # static files
            *(False, None, None, None, "tls1.3", None, [], False),  # TLS is the proxy's
            (None, None),  # metrics
        )
        worker.serve_async(self._scheduler(native, loop), loop, self._signal)

    async def stop(self, grace_s: float) -> bool:
        """Take no new connection, let accepted requests finish; False when the grace ran out."""
        assert self._ended is not None
        # First the signal: a busy keep-alive connection would else bring requests for ever. With
        # it Granian closes the listener and idle connections, answers every request it has read
        # (with Connection: close), and ends with the last of its connections.
        self._signal.set()
        try:
            async with asyncio.timeout(grace_s):
                await self._ended
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    @property
    def open_requests(self) -> int:
        """How many requests are being answered."""
        return self._open

    def _scheduler(self, native: Any, loop: asyncio.AbstractEventLoop) -> Any:
        arrived: deque[tuple[Any, dict[str, Any], Callable[[], Awaitable[Any]]]] = deque()
        woken = False

        def start_all() -> None:
            nonlocal woken
            # Before the first look: whatever is appended after it wakes the loop once more.
            woken = False
            while arrived:
                watcher, scope, receive = arrived.popleft()
                self._open += 1
                self._idle.clear()
                application = self.application
                endpoint = application.hot(scope)
                coroutine = self._serve(watcher, scope, receive, endpoint or application)
                if endpoint is not None:
                    try:
                        waiting_for = coroutine.send(None)
                    except StopIteration:
                        continue
                    coroutine = _resumed(coroutine, waiting_for)
                # Asyncio keeps tasks weakly; the watcher lives until it is told the end.
                watcher.taskref(loop.create_task(coroutine))

        def schedule(watcher: Any) -> None:
            # Called on Granian's thread, with the interpreter lock.
            nonlocal woken
            scope, proto = watcher.scope, watcher.proto
            has_body = scope["type"] == "http" and scope["method"] not in _WITHOUT_BODY
            arrived.append((watcher, scope, _Prefetched(proto) if has_body else proto.receive))
            if not woken:
                woken = True
                loop.call_soon_threadsafe(start_all)

        class Scheduler(native.CallbackScheduler):  # type: ignore[misc]  # a native base
            __slots__ = ()

            def __init__(self, *_: Any) -> None:
                super().__init__()
                self._schedule_fn = schedule  # type: ignore[misc]  # a slot of the native base

        # Granian's base keeps the loop, a callback and three context hooks; only its own
        # schedule_fn would use the last four.
        return Scheduler(loop, None, None, None, None)

    async def _serve(
        self,
        watcher: Any,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        app: Callable[..., Awaitable[None]],
    ) -> None:
        try:
            await app(scope, receive, watcher.proto.send)
        except BaseException as error:
            log.exception("connection failed")
            watcher.err(error)
        else:
            watcher.done()
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()


class _Prefetched:
    """ASGI's `receive`, its first message asked for when the request came.

    Reading begins on Granian's thread while the loop is still to wake, so that a short body is
    there when it is wanted and its request needs no second turn of the loop.
    """

    __slots__ = ("_first", "_receive")

    def __init__(self, proto: Any) -> None:
        self._receive = proto.receive
        self._first: Awaitable[Any] | None = proto.receive()

    def __call__(self) -> Awaitable[Any]:
        first = self._first
        if first is None:
            following: Awaitable[Any] = self._receive()
            return following
        self._first = None
        return first


def _require_free(host: str, port: int) -> None:
    """Raise OSError where the address can't be had.

    Granian binds with SO_REUSEPORT, so two servers on one port would share its connections.
    """
    try:
        # As bytes, a name that needs none of it doesn't import the tables of IDNA.
        name = host.encode() if host.isascii() else host
        family, _, _, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"can't listen on {host}:{port}: {reason}. Stop what serves there, or choose another "
            "address with --listen"
        ) from None


def _give_up_on_the_silent(listener: int) -> None:
    """Have the kernel reset connections whose client takes nothing; accepted ones inherit it.

    Nothing else would: hyper waits for ever to write to a client that never reads, since TCP's
    probes of its zero window are answered, and whoever was let go for being slow would keep its
    connection and buffers.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        with socket.socket(fileno=os.dup(listener)) as duplicate:
            duplicate.setsockopt(socket.IPPROTO_TCP, option, _SILENCE_MS)


def _set_once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _native() -> Any:
    """Granian's extension module without its package's start-up.

    `granian/__init__` brings multiprocessing, ssl and click along, a dozen milliseconds that an
    embedded server has no use for.
    """
    import importlib.util
    import sys

    if "granian" not in sys.modules:
        spec = importlib.util.find_spec("granian")
        assert spec is not None  # a pinned dependency
        package = types.ModuleType("granian")
        package.__path__ = list(spec.submodule_search_locations or ())
        package.__spec__ = spec
        sys.modules["granian"] = package
    from granian import _granian

    return _granian


@types.coroutine
def _continue(coroutine: Coroutine[Any, Any, None], waiting_for: Any) -> Generator[Any, Any, None]:
    while True:
        resume: Callable[[Any], Any]
        try:
            given = yield waiting_for
            resume = coroutine.send
        except BaseException as error:
            given = error
            resume = coroutine.throw
        try:
            waiting_for = resume(given)
        except StopIteration:
            return


async def _resumed(coroutine: Coroutine[Any, Any, None], waiting_for: Any) -> None:
    """The rest of a coroutine that was run up to its first suspension outside a task."""
    await _continue(coroutine, waiting_for)
