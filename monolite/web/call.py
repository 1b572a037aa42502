"""One request on its way through a handler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from monolite.errors import Malformed, TooLarge
from monolite.preconditions import ANY, Precondition, not_modified, parse_etags
from monolite.web.answer import Answer

if TYPE_CHECKING:
    from monolite.tenancy.principal import Principal
    from monolite.web.idempotency import Once
    from monolite.web.operation import Operation

Receive = Callable[[], Awaitable[dict[str, Any]]]


class Call:
    """What a handler sees: who calls, the path's parameters, the decoded query and body.

    `principal` is None only in a public operation. `body` is of the operation's `body` type,
    `raw` the bytes it was decoded from. `is_admitted` once the credential was found good for this
    address. `is_streamed` says that the body is of one of the
    operation's `streams` and is still to be read.
    """

    __slots__ = (
        "_gone",
        "body",
        "body_bytes_max",
        "client_host",
        "guard",
        "headers",
        "is_admitted",
        "is_streamed",
        "once",
        "operation",
        "params",
        "path",
        "principal",
        "query",
        "query_string",
        "raw",
        "receive",
        "request_id",
        "rider",
    )

    def __init__(
        self,
        operation: Operation,
        scope: dict[str, Any],
        receive: Receive,
        headers: dict[bytes, bytes],
        params: dict[str, str],
        request_id: str,
    ) -> None:
        self.operation = operation
        self.path: str = scope["path"]
        self.query_string: bytes = scope["query_string"]
        client = scope.get("client")
        self.client_host: str | None = client[0] if client else None
        self.receive = receive
        self.headers = headers
        self.params = params
        self.request_id = request_id
        self.principal: Principal = None  # type: ignore[assignment]  # set by the Endpoint
        self.query: Any = None
        self.body: Any = None
        self.raw: bytes = b""
        self.body_bytes_max = operation.body_bytes_max
        self.is_admitted = False
        self.is_streamed = False
        self.once: Once | None = None
        self.rider: Callable[[Any, Answer], None] | None = None
        self.guard: Callable[[Any], Awaitable[None] | None] | None = None
        self._gone: asyncio.Task[None] | None = None

    @property
    def tenant_id(self) -> int:
        """The caller's tenant."""
        return self.principal.tenant_id

    @property
    def is_from_loopback(self) -> bool:
        """Whether a program on this machine asks for itself, and not for someone behind a proxy."""
        if b"x-forwarded-for" in self.headers or b"forwarded" in self.headers:
            return False
        return self.client_host is not None and (
            self.client_host == "::1" or self.client_host.startswith("127.")
        )

    @property
    def text(self) -> str:
        """The body as text; raises Malformed where it is not UTF-8."""
        try:
            return self.raw.decode()
        except UnicodeDecodeError:
            raise Malformed("The body is not UTF-8.") from None

    def header(self, name: bytes) -> str | None:
        """A request header by its lower-case name."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def precondition(self) -> Precondition:
        """`If-Match` and `If-None-Match` of a write."""
        if_match = self.header(b"if-match")
        if_none_match = self.header(b"if-none-match")
        if if_match is None and if_none_match is None:
            return ANY
        return Precondition(
            None if if_match is None else parse_etags(if_match),
            None if if_none_match is None else parse_etags(if_none_match),
        )

    def is_fresh(self, etag: str) -> bool:
        """Whether the caller of a GET has this version already (304)."""
        header = self.header(b"if-none-match")
        return header is not None and not_modified(header, etag)

    def companion(
        self, answer: Callable[[Any], Answer]
    ) -> Callable[[Any, Any], Awaitable[None] | None] | None:
        """What a creating write runs in its own transaction, given the engine's handle and result.

        It stores the answer under the Idempotency-Key, so that effect and answer are one commit.
        Where it answers something, as it does over PostgreSQL, that is awaited before the commit.
        What `X-Lock` asks for is looked at before, and what `X-Event` and `X-Ack` ask for is done
        behind all else. None where the caller gave none of these.
        """
        inner = self._unguarded(answer)
        guard = self.guard
        if guard is None:
            return inner
        look = guard

        def guarded(transaction: Any, result: Any) -> Awaitable[None] | None:
            looking = look(transaction)
            if looking is not None:
                return _in_turn(looking, inner, transaction, result)
            return None if inner is None else inner(transaction, result)

        return guarded

    def _unguarded(
        self, answer: Callable[[Any], Answer]
    ) -> Callable[[Any, Any], Awaitable[None] | None] | None:
        once, rider = self.once, self.rider
        if rider is not None:
            ride = rider

            def both(transaction: Any, result: Any) -> None:
                shown = answer(result)
                if once is not None:
                    once.record(transaction, shown)
                ride(transaction, shown)

            return both
        if once is None:
            return None
        return lambda transaction, result: once.record(transaction, answer(result))

    def gone(self) -> asyncio.Task[None]:
        """Done once the client has hung up, for which the body has to be read; it ends with the
        call. All who wait share it: a second `receive` beside a first may be told of a hang-up
        that was none.
        """
        if self._gone is None:
            self._gone = asyncio.create_task(self._hung_up())
        return self._gone

    def end(self) -> None:
        """The call is over."""
        if self._gone is not None:
            self._gone.cancel()

    async def _hung_up(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body piece by piece, where the operation declares `Chunks` or `is_streamed`.

        Raises:
            TooLarge: more came than the operation takes.
            Malformed: the client went away before the end.
        """
        async for piece in self._pieces(await self.receive()):
            yield piece

    async def rest_of_body(self, message: dict[str, Any]) -> bytes:
        """The whole body, of which `message` is the first; raises as `chunks` does."""
        return b"".join([piece async for piece in self._pieces(message)])

    async def _pieces(self, message: dict[str, Any]) -> AsyncIterator[bytes]:
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                raise Malformed("The connection closed before the body was whole.")
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > self.body_bytes_max:
                raise TooLarge(f"The body is over {self.body_bytes_max} bytes.")
            if piece:
                yield piece
            if not message.get("more_body", False):
                return
            message = await self.receive()


async def _in_turn(
    looking: Awaitable[None],
    then: Callable[[Any, Any], Awaitable[None] | None] | None,
    transaction: Any,
    result: Any,
) -> None:
    await looking
    doing = None if then is None else then(transaction, result)
    if doing is not None:
        await doing
