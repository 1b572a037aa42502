"""An operation as an ASGI application: the one pipeline every request goes through.

Its order is the order of refusal: credential (401), scope (403), rate (429), path and query
(422), size (413), type (415), body (400, 422), preference (400), idempotency (409, 422), and then
the handler's own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from monolite.clock import Clock
from monolite.errors import (
    DomainError,
    FieldError,
    Invalid,
    Malformed,
    TooLarge,
    UnsupportedType,
)
from monolite.names import NAME_PATTERN
from monolite.storage.errors import StorageError
from monolite.tenancy.authentication import Authenticator
from monolite.tenancy.principal import Principal
from monolite.tenancy.scopes import OPERATOR
from monolite.web import errors
from monolite.web.answer import Answer, Headers, Live, Stream
from monolite.web.call import Call, Receive
from monolite.web.decoding import JsonBody, QueryString
from monolite.web.idempotency import Idempotency
from monolite.web.live import LiveConnections
from monolite.web.measures import Measure
from monolite.web.operation import LOOPBACK, PUBLIC, RAW, Chunks, ObjectText, Operation
from monolite.web.outlets import Outlet, Outlets, Why

Send = Callable[[dict[str, Any]], Awaitable[None]]
Barrier = Callable[[], Awaitable[None]]

Ride = Callable[[Call], Callable[[Any, Answer], None]]
Guard = Callable[[Call], Callable[[Any], Awaitable[None] | None]]
"""What a call's `X-Event` and `X-Ack` ask for; raises DomainError."""

log = logging.getLogger("monolite.web")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}").fullmatch
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
NOSNIFF = (b"x-content-type-options", b"nosniff")
_process = os.urandom(5).hex()
_count = itertools.count(1)
_SLOW_S = 1.0


def request_id_of(headers: Mapping[bytes, bytes]) -> bytes:
    """The caller's `X-Request-Id` where it is safe to echo and log, else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given if _REQUEST_ID(given) else b"%s-%x" % (_process.encode(), next(_count))


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What all endpoints of one server share. `barrier` is None where no replica is configured."""

    authenticator: Authenticator
    idempotency: Idempotency
    live: LiveConnections
    clock: Clock
    barrier: Barrier | None
    outlets: Outlets
    ride: Ride
    guard: Guard
    log_requests: bool = False


class Endpoint:
    """One operation behind the pipeline; reached by the hot table or by Starlette's router."""

    __slots__ = (
        "_body",
        "_names",
        "_on_refusal",
        "_query",
        "_reads_whole",
        "_streams",
        "measure",
        "operation",
        "pipeline",
    )

    def __init__(self, operation: Operation, pipeline: Pipeline) -> None:
        self.operation = operation
        self.pipeline = pipeline
        self.measure = Measure()
        self._on_refusal = operation.on_refusal
        self._query = (
            QueryString(operation.query, known=operation.known_query)
            if operation.query is not None
            else None
        )
        self._reads_whole = operation.body is not None and operation.body is not Chunks
        self._body = (
            JsonBody(operation.body)
            if operation.decodes and operation.body not in (None, RAW, ObjectText, Chunks)
            else None
        )
        self._streams = frozenset(media.encode() for media in operation.streams)
        self._names = {
            name: re.compile(operation.names.get(name, NAME_PATTERN)).fullmatch
            for name in operation.parameters
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI call, `scope["path_params"]` filled by whoever routed it."""
        started = perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = request_id_of(headers)
        call = Call(
            self.operation, scope, receive, headers, scope["path_params"], request_id.decode()
        )
        outcome: Answer | Stream | Live
        try:
            outcome = await self._outcome(call)
        except Exception as error:
            if not errors.is_known(error):
                log.exception("request failed", extra=self._context(call))
            elif call.is_admitted and self._on_refusal and isinstance(error, DomainError):
                await self._on_refusal(call, error)
            outcome = errors.answer(
                error,
                instance=call.path,
                request_id=call.request_id,
                shape=self.operation.errors,
            )
        answered = [*outcome.headers, (b"x-request-id", request_id), NOSNIFF]
        principal: Principal | None = call.principal
        if principal is not None and principal.window.quota is not None:
            window = principal.window
            answered.append((b"ratelimit-policy", window.policy))
            answered.append((b"ratelimit", window.header(self.pipeline.clock.monotonic())))
        try:
            if isinstance(outcome, Answer):
                await self._send_answer(outcome, answered, scope["method"] == "HEAD", send)
            else:
                if asyncio.current_task() is None:
                    # A hot operation that never waited runs in no task yet, and only a task can
                    # be broken off.
                    await asyncio.sleep(0)
                if isinstance(outcome, Live):
                    # It may idle for days, by the thousand: what only the request needed goes.
                    scope.clear()
                    headers.clear()
                    await self._send_live(outcome, answered, call, send)
                else:
                    await self._send_stream(outcome, answered, call, send)
        finally:
            call.end()
            elapsed_s = perf_counter() - started
            self.measure.observe(outcome.status, elapsed_s)
            if self.pipeline.log_requests or elapsed_s > _SLOW_S or outcome.status >= 500:
                self._log(call, outcome.status, elapsed_s)

    async def _outcome(self, call: Call) -> Answer | Stream | Live:
        operation = self.operation
        pipeline = self.pipeline
        is_open = operation.scope == PUBLIC or (
            operation.scope == LOOPBACK and call.is_from_loopback
        )
        if not is_open:
            authorization = call.headers.get(b"authorization")
            principal = pipeline.authenticator.remembered(authorization)
            if principal is None:
                principal = await pipeline.authenticator.authenticate(authorization)
            self.admit(call, principal)
        self.read_address(call)
        if self._streams and self._is_streamed(call):
            call.is_streamed = True
            call.body_bytes_max = operation.stream_bytes_max
            self._declared_length(call)
        elif self._reads_whole:
            length = self._declared_length(call)
            message = await call.receive()
            piece: bytes = message.get("body", b"")
            # Granian says only in a further message that the first was the last; where the length
            # was declared, asking for it would cost every POST another turn of two threads.
            if len(piece) == length or not message.get("more_body", True):
                call.raw = self._capped(piece)
            else:
                call.raw = await call.rest_of_body(message)
            if call.raw or not operation.body_optional:
                self._check_type(call)
                call.body = call.raw if self._body is None else self._body(call.raw)
        elif operation.body is Chunks:
            self._check_type(call)
            self._declared_length(call)
        if b"x-event" in call.headers or b"x-ack" in call.headers:
            self._join(call)
            call.rider = self.pipeline.ride(call)
        if b"x-lock" in call.headers:
            self._join(call)
            call.guard = self.pipeline.guard(call)
        if b"prefer" in call.headers and operation.is_write and self._wants_replicated(call):
            return await self._replicated(call)
        if operation.creates and b"idempotency-key" in call.headers:
            return await self._once(call)
        return await operation.handler(call)

    def admit(self, call: Call, principal: Principal) -> None:
        """Let a good credential in, or raise Forbidden or RateLimited."""
        operation = self.operation
        call.principal = principal
        principal.require(OPERATOR if operation.scope == LOOPBACK else operation.scope, call.path)
        principal.window.take(self.pipeline.clock.monotonic())
        call.is_admitted = True

    def read_address(self, call: Call) -> None:
        """Check path parameters and decode the query; raises Invalid."""
        for name, matches in self._names.items():
            if not matches(call.params[name]):
                why = f"names match {self.operation.names.get(name, NAME_PATTERN)}"
                raise Invalid(f"{{{name}}}: {why}", [FieldError(f"{{{name}}}", why)])
        if self._query is not None:
            call.query = self._query(call.query_string)

    def _is_streamed(self, call: Call) -> bool:
        media = call.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if media not in self._streams:
            return False
        if b"idempotency-key" in call.headers:
            raise Malformed(
                "An Idempotency-Key can't go with a stream, which is many writes and not one.",
                code="idempotency_not_possible",
            )
        return True

    def _join(self, call: Call) -> None:
        if not self.operation.joins or call.is_streamed:
            raise Malformed(
                "X-Event, X-Ack and X-Lock go with one write of documents, jobs or events, and not"
                " with this.",
                code="nothing_to_join",
            )

    async def _once(self, call: Call) -> Answer | Stream | Live:
        idempotency = self.pipeline.idempotency
        stored = await idempotency.replay(call, call.header(b"idempotency-key") or "")
        if stored is not None:
            return stored
        try:
            return await self.operation.handler(call)
        finally:
            idempotency.end(call)

    async def _replicated(self, call: Call) -> Answer | Stream | Live:
        creates = self.operation.creates and b"idempotency-key" in call.headers
        outcome = await (self._once(call) if creates else self.operation.handler(call))
        assert self.pipeline.barrier is not None  # _wants_replicated refused otherwise
        await self.pipeline.barrier()
        outcome.headers.append((b"preference-applied", b"durability=replicated"))
        return outcome

    def _wants_replicated(self, call: Call) -> bool:
        prefer = call.headers.get(b"prefer")
        if prefer is None:
            return False
        wishes = {part.strip().replace(b'"', b"") for part in prefer.lower().split(b",")}
        if b"durability=replicated" not in wishes:
            return False
        if self.pipeline.barrier is None:
            raise Malformed(
                "Prefer: durability=replicated needs a replica; set MONOLITE_REPLICA_URL.",
                code="no_replica",
            )
        return True

    def _check_type(self, call: Call) -> None:
        header = call.headers.get(b"content-type")
        if header is None:
            return
        media = header.partition(b";")[0].strip().lower().decode("latin-1")
        if media not in self.operation.consumes:
            takes = " or ".join((*self.operation.consumes, *self.operation.streams))
            raise UnsupportedType(
                f"The body is {media}; this takes {takes}. With curl: -H 'Content-Type: "
                f"{self.operation.consumes[0]}'."
            )

    def _declared_length(self, call: Call) -> int | None:
        header = call.headers.get(b"content-length")
        if header is None or not header.isdigit():
            return None
        length = int(header)
        if length > call.body_bytes_max:
            raise TooLarge(f"The body is {length} bytes; this takes at most {call.body_bytes_max}.")
        return length

    def _capped(self, body: bytes) -> bytes:
        if len(body) > self.operation.body_bytes_max:
            raise TooLarge(f"The body is over {self.operation.body_bytes_max} bytes.")
        return body

    @staticmethod
    async def _send_answer(answer: Answer, headers: Headers, head: bool, send: Send) -> None:
        if head:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else answer.body})

    async def _send_stream(self, stream: Stream, headers: Headers, call: Call, send: Send) -> None:
        await send({"type": "http.response.start", "status": stream.status, "headers": headers})
        task = asyncio.current_task()
        assert task is not None  # __call__ saw to it
        # Whoever reads the body meets the client's end there; two readers would share its pieces.
        if not call.is_streamed:
            call.gone().add_done_callback(lambda gone: None if gone.cancelled() else task.cancel())
        try:
            # Closed at once when it is broken off: an export holds a snapshot open.
            async with aclosing(stream.chunks) as chunks:
                with self.pipeline.live.registered(call.principal):
                    async for chunk in chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except asyncio.CancelledError:
            # Its right to be here ended, or the client went: the stream ends, the server goes on.
            task.uncancel()
        except DomainError as error:
            log.info("a stream broke off: %s", error.detail, extra=self._context(call))
        finally:
            call.end()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_live(self, live: Live, headers: Headers, call: Call, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None  # __call__ saw to it

        def end(_: Why) -> None:
            task.cancel()

        outlet = Outlet(send, end, live.ping)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            with self.pipeline.live.registered(call.principal), self.pipeline.outlets.open(outlet):
                # At once, so that a client knows it is connected before the first event.
                outlet.push(live.ping)
                await live.follow(outlet)
                while (await call.receive())["type"] != "http.disconnect":
                    pass
        except asyncio.CancelledError:
            task.uncancel()
        except (DomainError, StorageError) as error:
            log.info("a stream broke off: %s", error, extra=self._context(call))
        finally:
            live.leave()
            outlet.close()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _log(self, call: Call, status: int, elapsed_s: float) -> None:
        level = logging.ERROR if status >= 500 else logging.INFO
        log.log(
            level,
            "request",
            extra={**self._context(call), "status": status, "ms": round(elapsed_s * 1000, 2)},
        )

    def _context(self, call: Call) -> dict[str, Any]:
        context: dict[str, Any] = {
            "request_id": call.request_id,
            "operation": self.operation.id,
            "path": call.path,
        }
        if call.principal is not None:
            context["tenant"] = call.principal.tenant_name
            context["key_id"] = call.principal.key_id
        traceparent = call.headers.get(b"traceparent")
        if traceparent is not None and _TRACEPARENT(traceparent):
            context["traceparent"] = traceparent.decode()
        return context
