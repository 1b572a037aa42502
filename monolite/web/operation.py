"""One operation of the API, declared once: routed, validated and documented from this value."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from monolite.errors import DomainError
from monolite.tenancy.scopes import ANY, SCOPES
from monolite.web.answer import Answer, Live, Stream

if TYPE_CHECKING:
    from monolite.web.call import Call
    from monolite.web.sockets import SocketHandler

Handler = Callable[["Call"], Awaitable[Answer | Stream | Live]]

OnRefusal = Callable[["Call", DomainError], Awaitable[None]]

PUBLIC = "public"
"""The scope of an operation that needs no credential."""

LOOPBACK = "operator or loopback"
"""The scope of an operation that the machine itself may call without a credential."""

RAW = bytes
"""The body type of an operation that takes its bytes as they are."""


class ObjectText:
    """The body type of an operation that takes a JSON object's text, and reads it itself."""


class Chunks:
    """The body type of an operation that reads its body piece by piece."""


JSON = ("application/json",)


@dataclass(frozen=True, slots=True)
class Operation:
    """A method on a path, and everything that is known of it before it runs.

    `scope` is the scope a credential must carry. `query` is a Struct whose fields are the query
    parameters; an unknown one is refused. `body` is the type that the body is decoded into, `RAW`,
    `ObjectText` or `Chunks`, or None for no body. `answers` maps each success status to its body
    type. `streams` are media types, beside `consumes`, whose body the handler reads piece by piece,
    up to `stream_bytes_max`; no Idempotency-Key goes with them. `creates` means that an
    Idempotency-Key is honoured. `names` overrides the pattern of a path parameter. `headers` says
    what request headers mean here, for the document; the handler reads them. `socket` answers a
    WebSocket on the same path. `on_refusal` may add to a refusal of the handler's.
    """

    id: str
    method: str
    path: str
    scope: str
    summary: str
    handler: Handler
    answers: Mapping[int, Any]
    description: str = ""
    query: type[msgspec.Struct] | None = None
    body: Any = None
    body_optional: bool = False
    # False where the handler reads `raw` by itself, which the type only documents.
    decodes: bool = True
    consumes: tuple[str, ...] = JSON
    produces: str = "application/json"
    body_bytes_max: int = 1 << 20
    streams: tuple[str, ...] = ()
    stream_bytes_max: int = 0
    creates: bool = False
    # X-Event and X-Ack are honoured: the write is one transaction, whose companion is asked for.
    joins: bool = False
    hot: bool = False
    # False where the query's keys are the caller's own, as a filter's field names are.
    known_query: bool = True
    example: Any = None
    answer_example: Any = None
    names: Mapping[str, str] = field(default_factory=dict)
    # The shape of refusals: RFC 9457's, or OpenAI's on the routes that are compatible with it.
    errors: Literal["problem", "openai"] = "problem"
    headers: Mapping[str, str] = field(default_factory=dict)
    socket: SocketHandler | None = None
    on_refusal: OnRefusal | None = None
    # None: writes unless it is GET. A POST that only reads says False.
    writes: bool | None = None

    def __post_init__(self) -> None:
        if self.scope not in SCOPES | {PUBLIC, LOOPBACK, ANY}:
            raise ValueError(f"{self.id}: an operation declares its scope; {self.scope!r} is none")

    @property
    def tag(self) -> str:
        """The subsystem it belongs to: the first word of its id."""
        return self.id.partition(".")[0]

    @property
    def is_write(self) -> bool:
        """Whether it may change something, and so takes `Prefer: durability=replicated`."""
        return self.method != "GET" if self.writes is None else self.writes

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its path parameters, in order."""
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))
