"""A cloud's model: one Protocol, and the one kind of event that every provider is turned into."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from monolite.inference.request import Event
from monolite.inference.routing.decision import Tier

ANSWER_BYTES_MAX = 8 << 20
LINE_BYTES_MAX = 4 << 20


@dataclass(frozen=True, slots=True)
class CloudModel:
    """What a provider is reached by, and what its model can and costs.

    Prices are US dollars a million tokens, which are micro-dollars a token.
    """

    provider: str
    url: str
    model: str
    key: str = field(repr=False)
    tier: Tier = "advanced"
    context_tokens: int = 200_000
    price_input: float = 0.0
    price_output: float = 0.0

    def micros(self, prompt_tokens: int, completion_tokens: int) -> int:
        """What so many tokens cost, in millionths of a dollar, rounded up."""
        exact = prompt_tokens * self.price_input + completion_tokens * self.price_output
        return -int(-exact // 1)


class CloudWish(NamedTuple):
    """What is asked of a provider; messages, tools and their choice in OpenAI's shape."""

    messages: Sequence[Mapping[str, Any]]
    max_tokens: int
    temperature: float | None = None
    top_p: float | None = None
    stops: Sequence[str] = ()
    seed: int | None = None
    schema: Mapping[str, Any] | bool | None = None
    is_json_object: bool = False
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str | Mapping[str, Any] | None = None


class ProviderError(Exception):
    """A call that failed. `code` is one of `timed_out`, `connection_failed`, `key_refused`,
    `overloaded`, `failed`, `refused`, `bad_answer`.
    """

    def __init__(self, code: str, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s

    @property
    def is_certain(self) -> bool:
        """Whether the next call would fail too."""
        return self.code in ("timed_out", "connection_failed", "key_refused")


class Reply(Protocol):
    """An answer whose head has come."""

    status: int
    headers: Mapping[bytes, bytes]

    def pieces(self) -> AsyncIterator[bytes]:
        """The body."""
        ...

    async def finish(self) -> None:
        """Nothing more of the body is wanted, and its end is near."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


Send = Callable[[str, str, Sequence[tuple[str, str]], bytes, float], Awaitable[Reply]]
"""A method, a URL, headers and a body, the answer's head within so many seconds. Raises
ProviderError.
"""


class Provider(Protocol):
    """Speaks one protocol."""

    def complete(self, wish: CloudWish, first_s: float) -> AsyncGenerator[Event | Counted, None]:
        """The events of one answer; the head comes within `first_s`. Raises ProviderError."""
        ...

    async def check(self, first_s: float) -> None:
        """Ask for what costs nothing; raises ProviderError where address or key don't do."""
        ...


class Counted(NamedTuple):
    """What the provider has counted so far, for an answer that may be cut off."""

    prompt_tokens: int
    completion_tokens: int = 0


async def server_sent(reply: Reply) -> AsyncGenerator[tuple[str, bytes], None]:
    """The events of a stream (WHATWG HTML, 9.2): type and data of each.

    Raises ProviderError where there are more bytes than an answer has.
    """
    kept, read = b"", 0
    kind, data = "", []
    async for piece in reply.pieces():
        read += len(piece)
        kept += piece
        if read > ANSWER_BYTES_MAX or len(kept) > LINE_BYTES_MAX:
            raise ProviderError("bad_answer", "the answer does not end")
        *lines, kept = kept.split(b"\n")
        for line in lines:
            name, _, value = line.rstrip(b"\r").partition(b":")
            value = value.removeprefix(b" ")
            if name == b"event":
                kind = value.decode("utf-8", "replace")
            elif name == b"data":
                data.append(value)
            elif not name and not value and data:
                yield kind, b"\n".join(data)
                kind, data = "", []


async def require_known(reply: Reply) -> None:
    """As `require_ok`, for a list of models, which a compatible server may be without."""
    if reply.status not in (404, 405):
        await require_ok(reply)


async def require_ok(reply: Reply) -> None:
    """Raise ProviderError for a status other than 200, with what the provider says of it."""
    status = reply.status
    if status == 200:
        return
    body = b""
    async for piece in reply.pieces():
        body += piece
        if len(body) > 4096:
            break
    said = _said(body)
    if status in (401, 403):
        raise ProviderError("key_refused", f"the provider refuses the key ({status})")
    if status in (429, 503, 529):
        after = reply.headers.get(b"retry-after", b"").decode("latin-1")
        raise ProviderError(
            "overloaded",
            f"the provider answered {status}",
            min(float(after), 3600.0) if after.isdecimal() and len(after) < 6 else None,
        )
    if status >= 500:
        raise ProviderError("failed", f"the provider answered {status}")
    raise ProviderError("refused", f"the provider answered {status}{said}")


def _said(body: bytes) -> str:
    """What kind of error a provider names; its message may repeat the prompt, and stays here."""
    import msgspec

    try:
        found = msgspec.json.decode(body)["error"]["type"]
    except (msgspec.DecodeError, KeyError, TypeError, IndexError):
        return ""
    return f", {found}" if isinstance(found, str) and len(found) < 64 else ""
