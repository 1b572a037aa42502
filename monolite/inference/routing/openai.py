"""OpenAI's chat completions, and every endpoint compatible with them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import closing
from typing import Any

import msgspec

from monolite.inference.request import Ended, Event, Finish, Piece, ToolPiece
from monolite.inference.routing.provider import (
    CloudModel,
    CloudWish,
    Counted,
    ProviderError,
    Send,
    require_known,
    require_ok,
    server_sent,
)

_FINISH: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class OpenAi:
    """The Provider."""

    def __init__(self, model: CloudModel, send: Send) -> None:
        self._model = model
        self._send = send
        self._base = model.url.rstrip("/")
        self._headers = [
            ("authorization", f"Bearer {model.key}"),
            ("content-type", "application/json"),
            ("accept", "text/event-stream"),
        ]
        # OpenAI's newer models refuse the old name; others' servers may not know the new one.
        is_theirs = model.url.startswith("https://api.openai.com/")
        self._limit = "max_completion_tokens" if is_theirs else "max_tokens"

    async def check(self, first_s: float) -> None:
        url = self._base + "/models"
        with closing(await self._send("GET", url, self._headers, b"", first_s)) as reply:
            await require_known(reply)

    async def complete(
        self, wish: CloudWish, first_s: float
    ) -> AsyncGenerator[Event | Counted, None]:
        body = msgspec.json.encode(_body(self._model.model, self._limit, wish))
        with closing(
            await self._send("POST", self._base + "/chat/completions", self._headers, body, first_s)
        ) as reply:
            await require_ok(reply)
            finish: Finish | None = None
            counted = Counted(0)
            async for _, data in server_sent(reply):
                if data == b"[DONE]":
                    await reply.finish()
                    break
                chunk = _chunk(data)
                usage = chunk.get("usage")
                if isinstance(usage, dict):
                    counted = Counted(_count(usage, "prompt"), _count(usage, "completion"))
                    yield counted
                for choice in chunk.get("choices") or ():
                    for piece in _pieces(choice.get("delta") or {}):
                        yield piece
                    if choice.get("finish_reason"):
                        finish = _FINISH.get(choice["finish_reason"], "stop")
            if finish is None:
                raise ProviderError("bad_answer", "the provider's answer was cut off")
            yield Ended(finish, counted.prompt_tokens, 0, counted.completion_tokens, 0)


def _body(model: str, limit: str, wish: CloudWish) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": wish.messages,
        limit: wish.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    optional = {
        "temperature": wish.temperature,
        "top_p": wish.top_p,
        "seed": wish.seed,
        "stop": list(wish.stops) or None,
        "tools": list(wish.tools) or None,
        "tool_choice": wish.tool_choice,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    if wish.schema is not None:
        described = {"name": "answer", "schema": wish.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": described}
    elif wish.is_json_object:
        body["response_format"] = {"type": "json_object"}
    return body


def _chunk(data: bytes) -> dict[str, Any]:
    try:
        chunk = msgspec.json.decode(data)
    except msgspec.DecodeError:
        raise ProviderError("bad_answer", "the provider's answer can't be read") from None
    if not isinstance(chunk, dict):
        raise ProviderError("bad_answer", "the provider's answer can't be read")
    if "error" in chunk:
        raise ProviderError("failed", "the provider's answer ended with an error")
    return chunk


def _pieces(delta: dict[str, Any]) -> list[Piece]:
    pieces = [Piece(delta["content"])] if delta.get("content") else []
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        tool = ToolPiece(
            call.get("index", 0),
            call.get("id") or "",
            function.get("name") or "",
            function.get("arguments") or "",
        )
        pieces.append(Piece("", tool=tool))
    return pieces


def _count(usage: dict[str, Any], of: str) -> int:
    count = usage.get(f"{of}_tokens")
    return count if isinstance(count, int) and count >= 0 else 0
