"""WebSockets (RFC 6455): let in as a request is, then one conversation on one connection.

    connect ──header or subprotocol has a credential──► checked ──► accepted ──hello──► open
        └──none──► accepted ──hello with a token──► checked ──► open
    open ──client leaves; right ends; too slow; garbage──► closed

The first message is always the hello, a JSON object: it may bring the token, which never travels in
the address, and what the operation wants to know. What is refused before the connection is accepted
is answered as a problem over HTTP; after that it is a close whose code is 4000 and the status of
the same refusal, and whose reason is its `code`: 4401 unauthenticated, 4403 missing_scope, 4410
gone, 4429 rate_limited.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

import msgspec

from monolite.errors import Malformed, NotFound, Unauthenticated, Unavailable
from monolite.tenancy.principal import Principal
from monolite.web import errors
from monolite.web.call import Call, Receive
from monolite.web.decoding import JsonBody
from monolite.web.endpoint import NOSNIFF, Endpoint, Send, request_id_of
from monolite.web.outlets import Message, Outlet, Why

log = logging.getLogger("monolite.web")

HELLO_S = 10.0
"""How long a client has for its first message."""

STRANGERS_MAX = 128
"""Connections that may wait for a hello without having shown a credential: before it is read
whole, a message takes up to 64 MB.
"""

_CLOSE_S = 2.0

BEARER = "bearer."
"""A subprotocol that begins so is a token: browsers can set no header."""

GOING_AWAY = 1001
TIMED_OUT = 4408
_REASON_BYTES_MAX = 120


class Hello(msgspec.Struct):
    """The first message. `token` is needed where neither header nor subprotocol brought one."""

    type: str
    token: str | None = None


class Closed(Exception):
    """The client has gone."""


class Socket:
    """An open WebSocket as a handler has it."""

    __slots__ = ("_monotonic", "_receive", "call", "hello", "outlet")

    def __init__(
        self,
        call: Call,
        hello: Any,
        receive: Receive,
        outlet: Outlet,
        monotonic: Callable[[], float],
    ) -> None:
        self.call = call
        self.hello = hello
        self.outlet = outlet
        self._receive = receive
        self._monotonic = monotonic

    async def receive(self) -> str | bytes:
        """The next message; raises Closed where the client has gone."""
        return _content(await self._receive())

    def send(self, value: Any) -> None:
        """A value as a JSON text message."""
        self.outlet.push(text(msgspec.json.encode(value)))

    def permit(self, scope: str, path: str) -> None:
        """Raise Forbidden or RateLimited unless a message may do what the scope and path name."""
        principal = self.call.principal
        principal.require(scope, path)
        principal.window.take(self._monotonic())


SocketHandler = tuple[type[Hello], Callable[[Socket], Awaitable[None]]]
"""The hello's type, and what answers the connection: it returns when that is over, or raises a
refusal to close it with.
"""


def text(json: bytes) -> Message:
    """JSON as a text message for an Outlet."""
    return {"type": "websocket.send", "text": json.decode()}, len(json)


def binary(data: bytes) -> Message:
    """Bytes as a binary message for an Outlet."""
    return {"type": "websocket.send", "bytes": data}, len(data)


PING = text(b'{"type":"ping"}')


class SocketEndpoint:
    """An operation's WebSocket behind the same refusals as its Endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.operation = endpoint.operation
        assert self.operation.socket is not None  # the application looks first
        kind, self._handler = self.operation.socket
        self._endpoint = endpoint
        self._decode_hello = JsonBody(kind)
        self._strangers_count = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI call, `scope["path_params"]` filled by whoever routed it."""
        started = perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        call = Call(
            self.operation,
            scope,
            receive,
            headers,
            scope["path_params"],
            request_id_of(headers).decode(),
        )
        await receive()  # websocket.connect
        status = 101
        try:
            subprotocol = await self._let_in(call, scope["subprotocols"])
        except Exception as error:
            self._log_unknown(call, error)
            status = await _refuse(call, error, send)
        else:
            accept = {"type": "websocket.accept"}
            await send(accept if subprotocol is None else {**accept, "subprotocol": subprotocol})
            code, reason = await self._converse(call, receive, send)
            # A client that never reads takes no close either; the kernel resets it in time.
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await send({"type": "websocket.close", "code": code, "reason": reason})
        self._endpoint.measure.observe(status, perf_counter() - started)

    async def _let_in(self, call: Call, subprotocols: list[str]) -> str | None:
        """Check what the handshake brings; returns the subprotocol to speak."""
        if any(name.startswith(BEARER) for name in subprotocols):
            name = next(name for name in subprotocols if name.startswith(BEARER))
            call.headers[b"authorization"] = b"Bearer " + name.removeprefix(BEARER).encode()
        self._endpoint.read_address(call)
        authorization = call.headers.get(b"authorization")
        if authorization is not None:
            await self._admit(call, authorization)
        elif self._strangers_count >= STRANGERS_MAX:
            raise Unavailable("Too many connections wait to say who they are; try again shortly.")
        # One of the client's own has to be chosen, or browsers break the connection off.
        return next((name for name in subprotocols if not name.startswith(BEARER)), None) or next(
            iter(subprotocols), None
        )

    async def _admit(self, call: Call, authorization: bytes) -> None:
        authenticator = self._endpoint.pipeline.authenticator
        principal = authenticator.remembered(authorization)
        if principal is None:
            principal = await authenticator.authenticate(authorization)
        self._endpoint.admit(call, principal)

    async def _converse(self, call: Call, receive: Receive, send: Send) -> tuple[int, str]:
        """Everything from hello to the end; returns the code and reason to close with."""
        task = asyncio.current_task()
        assert task is not None  # a socket is never started without one
        ended: list[Why] = []

        def end(why: Why) -> None:
            ended.append(why)
            task.cancel()

        pipeline = self._endpoint.pipeline
        outlet = Outlet(send, end, PING)
        try:
            hello = await self._hello(call, receive)
            with pipeline.live.registered(call.principal), pipeline.outlets.open(outlet):
                await self._handler(Socket(call, hello, receive, outlet, pipeline.clock.monotonic))
            return 1000, ""
        except asyncio.CancelledError:
            task.uncancel()
            if ended:
                return ended[0]
            if pipeline.live.is_closing:
                return GOING_AWAY, "the server stops"
            return 4401, "unauthenticated"
        except TimeoutError:
            return TIMED_OUT, "hello_timeout"
        except Closed:
            return 1000, ""
        except Exception as error:
            self._log_unknown(call, error)
            return close_of(error)
        finally:
            outlet.close()

    async def _hello(self, call: Call, receive: Receive) -> Any:
        principal: Principal | None = call.principal
        is_stranger = principal is None
        self._strangers_count += is_stranger
        try:
            async with asyncio.timeout(HELLO_S):
                content = _content(await receive())
        finally:
            self._strangers_count -= is_stranger
        if isinstance(content, bytes):
            raise Malformed("The first message is a text: a JSON object of type hello.")
        hello = self._decode_hello(content.encode())
        if hello.type != "hello":
            raise Malformed('The first message has "type": "hello".')
        if is_stranger:
            if hello.token is None:
                raise Unauthenticated("The hello of a connection without a header has a token.")
            await self._admit(call, b"Bearer " + hello.token.encode())
        return hello

    def _log_unknown(self, call: Call, error: Exception) -> None:
        if not errors.is_known(error):
            log.exception(
                "socket failed",
                exc_info=error,
                extra={"request_id": call.request_id, "path": call.path},
            )


def close_of(error: Exception) -> tuple[int, str]:
    """The close code and reason of a refusal."""
    status, code = errors.status_of(error)
    return 4000 + status, code[:_REASON_BYTES_MAX]


async def refuse_unrouted(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer a handshake at an address that has no WebSocket."""
    headers = dict(scope["headers"])
    request_id = request_id_of(headers)
    error = NotFound("There is no WebSocket at this address; /openapi.json lists all there are.")
    await receive()
    answer = errors.problem(error, instance=scope["path"], request_id=request_id.decode())
    await _answer(send, answer.status, answer.headers, answer.body, request_id)


async def _refuse(call: Call, error: Exception, send: Send) -> int:
    answer = errors.problem(error, instance=call.path, request_id=call.request_id)
    await _answer(send, answer.status, answer.headers, answer.body, call.request_id.encode())
    return answer.status


async def _answer(
    send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes, request_id: bytes
) -> None:
    answered = [*headers, (b"x-request-id", request_id), NOSNIFF]
    await send({"type": "websocket.http.response.start", "status": status, "headers": answered})
    await send({"type": "websocket.http.response.body", "body": body})


def _content(message: dict[str, Any]) -> str | bytes:
    if message["type"] == "websocket.disconnect":
        raise Closed
    content: str | bytes | None = message.get("text")
    return message["bytes"] if content is None else content
