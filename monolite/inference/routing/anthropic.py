"""Anthropic's Messages API, version 2026-10-21, turned into OpenAI's words and back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
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

VERSION = "2026-10-21"
ANSWER_TOOL = "answer"
"""The tool whose input is an answer that has a schema."""

_PROMPT_TOKENS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_FINISH: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
}


class Anthropic:
    """The Provider."""

    def __init__(self, model: CloudModel, send: Send) -> None:
        self._model = model
        self._send = send
        self._base = model.url.rstrip("/").removesuffix("/v1") + "/v1"
        self._headers = [
            ("authorization", f"Bearer {model.key}"),
            ("anthropic-version", VERSION),
            ("content-type", "application/json"),
            ("accept", "text/event-stream"),
        ]

    async def check(self, first_s: float) -> None:
        url = self._base + "/models"
        with closing(await self._send("GET", url, self._headers, b"", first_s)) as reply:
            await require_known(reply)

    async def complete(
        self, wish: CloudWish, first_s: float
    ) -> AsyncGenerator[Event | Counted, None]:
        try:
            body = msgspec.json.encode(_body(self._model.model, wish))
        except (KeyError, TypeError, AttributeError, msgspec.DecodeError):
            why = "the messages or tools are not in OpenAI's shape"
            raise ProviderError("refused", why) from None
        with closing(
            await self._send("POST", self._base + "/messages", self._headers, body, first_s)
        ) as reply:
            await require_ok(reply)
            reading = _Reading(has_schema=wish.schema is not None)
            async for _, data in server_sent(reply):
                events = reading.taken(data)
                if reading.is_over:
                    await reply.finish()
                for event in events:
                    yield event
                if reading.is_over:
                    return
            raise ProviderError("bad_answer", "the provider's answer was cut off")


class _Reading:
    """What has been heard of one answer."""

    def __init__(self, *, has_schema: bool) -> None:
        self._has_schema = has_schema
        self._tools: dict[int, int] = {}
        self._prompt = 0
        self._completion = 0
        self._finish: Finish = "stop"
        self.is_over = False

    def taken(self, data: bytes) -> list[Event | Counted]:
        try:
            event = msgspec.json.decode(data)
            return self._taken(event)
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            raise ProviderError("bad_answer", "the provider's answer can't be read") from None

    def _taken(self, event: dict[str, Any]) -> list[Event | Counted]:
        kind = event["type"]
        if kind == "message_start":
            return [self._counted(event["message"]["usage"])]
        if kind == "content_block_start":
            return self._begun(event["index"], event["content_block"])
        if kind == "content_block_delta":
            return self._gone_on(event["index"], event["delta"])
        if kind == "message_delta":
            self._finish = _FINISH.get(event["delta"].get("stop_reason"), "stop")
            return [self._counted(event["usage"])]
        if kind == "message_stop":
            self.is_over = True
            finish = self._finish
            if self._has_schema and finish == "tool_calls":
                finish = "stop"
            return [Ended(finish, self._prompt, 0, self._completion, 0)]
        if kind == "error":
            is_overloaded = "overloaded" in str(event["error"].get("type"))
            kind = "overloaded" if is_overloaded else "failed"
            raise ProviderError(kind, "the provider's answer ended with an error")
        return []

    def _counted(self, usage: dict[str, Any]) -> Counted:
        """Usage so far; the counts are cumulative, and those of the prompt may come once."""
        counted = [usage.get(name) for name in _PROMPT_TOKENS]
        self._prompt = max(self._prompt, sum(one or 0 for one in counted))
        self._completion = usage["output_tokens"]
        return Counted(self._prompt, self._completion)

    def _begun(self, index: int, block: dict[str, Any]) -> list[Event | Counted]:
        if block["type"] != "tool_use" or self._has_schema:
            return [Piece(block["text"])] if block.get("text") and not self._has_schema else []
        number = self._tools[index] = len(self._tools)
        return [Piece("", tool=ToolPiece(number, block["id"], block["name"]))]

    def _gone_on(self, index: int, delta: dict[str, Any]) -> list[Event | Counted]:
        if delta["type"] == "text_delta":
            # Beside the tool that has the answer, a text is no part of it.
            return [] if self._has_schema else [Piece(delta["text"])]
        if delta["type"] != "input_json_delta":
            return []
        if self._has_schema:
            return [Piece(delta["partial_json"])]
        tool = ToolPiece(self._tools[index], arguments=delta["partial_json"])
        return [Piece("", tool=tool)]


def _body(model: str, wish: CloudWish) -> dict[str, Any]:
    """A request. This version of the API takes neither a temperature nor a seed: they stay here."""
    system, messages = _messages(wish.messages)
    if wish.is_json_object:
        system.append("Answer with one JSON object and nothing else.")
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": wish.max_tokens,
        "messages": messages,
        "stream": True,
    }
    optional = {
        "system": "\n\n".join(system) or None,
        # A sequence of blanks alone is refused there.
        "stop_sequences": [one for one in wish.stops if one.strip()] or None,
        "tools": [_tool(one) for one in wish.tools] or None,
        "tool_choice": _choice(wish.tool_choice) if wish.tools else None,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    if wish.schema is not None:
        schema = wish.schema if isinstance(wish.schema, Mapping) else {}
        described = "Gives the answer in the form that was asked for."
        tool = {"name": ANSWER_TOOL, "description": described, "input_schema": schema}
        body["tools"] = [tool]
        body["tool_choice"] = {"type": "tool", "name": ANSWER_TOOL}
    return body


def _messages(given: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, Any]]]:
    """System texts, and turns; neighbours of one role become one turn, as is asked there."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in given:
        if message["role"] in ("system", "developer"):
            system.append("".join(b["text"] for b in _blocks(message) if b["type"] == "text"))
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        blocks = _blocks(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return system, turns


def _blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        blocks = [{"type": "text", "text": content}] if content else []
    else:
        blocks = [_block(part) for part in content or ()]
    if message["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": message.get("tool_call_id") or ""}
        return [{**result, "content": blocks}]
    for call in message.get("tool_calls") or ():
        function = call["function"]
        used = {"type": "tool_use", "id": call["id"], "name": function["name"]}
        blocks.append({**used, "input": msgspec.json.decode(function["arguments"] or "{}")})
    return blocks


def _block(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") != "image_url":
        return {"type": "text", "text": part.get("text", "")}
    url: str = part["image_url"]["url"]
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    head, _, data = url.removeprefix("data:").partition(",")
    media = head.removesuffix(";base64")
    return {"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}


def _tool(given: Mapping[str, Any]) -> dict[str, Any]:
    function = given["function"]
    tool = {
        "name": function["name"],
        "input_schema": function.get("parameters") or {"type": "object"},
    }
    if function.get("description"):
        tool["description"] = function["description"]
    return tool


def _choice(given: str | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None:
        return None
    if isinstance(given, str):
        return {"type": {"required": "any", "none": "none"}.get(given, "auto")}
    return {"type": "tool", "name": given["function"]["name"]}
