"""Server-sent events (WHATWG HTML, 9.2): frames, and a comment every 15 s while nothing happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from monolite.web.answer import Stream
from monolite.web.outlets import Message

PING_S = 15.0
_PING = b": ping\n\n"
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # Tells nginx not to collect the stream before passing it on.
    (b"x-accel-buffering", b"no"),
]


def frame(data: bytes, *, event_id: str | None = None, event: str | None = None) -> bytes:
    """One event; `data` holds no line break, as msgspec's JSON never does."""
    head = b""
    if event_id is not None:
        head += b"id: " + event_id.encode() + b"\n"
    if event is not None:
        head += b"event: " + event.encode() + b"\n"
    return head + b"data: " + data + b"\n\n"


def piece(frames: bytes) -> Message:
    """Frames as a message for an Outlet."""
    return {"type": "http.response.body", "body": frames, "more_body": True}, len(frames)


PING = piece(_PING)


def event_stream(frames: AsyncIterator[bytes], *, ping_s: float = PING_S) -> Stream:
    """A stream of frames, kept open by pings so that proxies and phones don't close it."""
    return Stream(200, _with_pings(frames, ping_s), list(HEADERS))


async def _with_pings(frames: AsyncIterator[bytes], ping_s: float) -> AsyncGenerator[bytes, None]:
    # Sent at once, so that a client knows it is connected before the first event.
    yield _PING
    following = asyncio.ensure_future(anext(frames))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=ping_s)
            if not done:
                yield _PING
                continue
            try:
                yield following.result()
            except StopAsyncIteration:
                return
            following = asyncio.ensure_future(anext(frames))
    finally:
        following.cancel()
