"""What a handler gives back: bytes and a status, or a stream of bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec

from monolite.web.outlets import Message, Outlet

Headers = list[tuple[bytes, bytes]]

JSON_TYPE = (b"content-type", b"application/json")
_encode = msgspec.json.Encoder().encode


class Answer:
    """A whole answer. `headers` are lower-case byte pairs, content-length excluded."""

    __slots__ = ("body", "headers", "status", "stored_body")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Headers | None = None,
        *,
        stored_body: bytes | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = [] if headers is None else headers
        # What an idempotent replay shows instead, where the body holds a secret.
        self.stored_body = body if stored_body is None else stored_body


class Stream:
    """An answer whose body comes piece by piece, until its iterator ends."""

    __slots__ = ("chunks", "headers", "status")

    def __init__(self, status: int, chunks: AsyncGenerator[bytes, None], headers: Headers) -> None:
        self.status = status
        self.chunks = chunks
        self.headers = headers


class Live:
    """An answer that stays open and is pushed to by whoever has news, through an Outlet.

    `follow` is given it once the head is sent, and comes back when what was there before is sent
    too. `leave` is called at the end, however it comes.
    """

    __slots__ = ("follow", "headers", "leave", "ping", "status")

    def __init__(
        self,
        follow: Callable[[Outlet], Awaitable[None]],
        leave: Callable[[], None],
        headers: Headers,
        ping: Message,
    ) -> None:
        self.status = 200
        self.follow = follow
        self.leave = leave
        self.headers = headers
        self.ping = ping


def json_answer(value: Any, status: int = 200, headers: Headers | None = None) -> Answer:
    """`value` (a msgspec Struct or plain data) as application/json."""
    return Answer(status, _encode(value), [JSON_TYPE, *(headers or ())])


def page_answer(data: list[Any], next_cursor: str | None, **extra: Any) -> Answer:
    """The list shape: `{"data": [...], "next_cursor": null}`."""
    return json_answer({"data": data, "next_cursor": next_cursor, **extra})


def page_of_texts(items: list[str], next_cursor: str | None, **extra: Any) -> Answer:
    """The list shape of items that are JSON text already."""
    rest = _encode({"next_cursor": next_cursor, **extra})
    body = b'{"data":[' + ",".join(items).encode() + b"]," + rest[1:]
    return Answer(200, body, [JSON_TYPE])
