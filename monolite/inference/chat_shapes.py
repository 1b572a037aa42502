"""How answers of chat and completion are written: OpenAI's shapes, whole and as chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from monolite.inference.request import Ended, Logprob, Piece, ToolPiece
from monolite.inference.routing.router import Answers

if TYPE_CHECKING:
    from monolite.models.decoder import Vocabulary


class CachedTokens(msgspec.Struct):
    """How many of the prompt's tokens were known from a turn before."""

    cached_tokens: int


class Usage(msgspec.Struct):
    """Tokens of the prompt, and of all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Particulars(msgspec.Struct):
    """What OpenAI's shape has no place for: who answered and why, and what it took."""

    provider: str
    route_reason: str
    adapter: str | None
    draft_accepted: int
    draft_proposed: int
    kv_bytes: int


class ChatMessage(msgspec.Struct):
    """The assistant's turn."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    tool_calls: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: str


class ChatShown(msgspec.Struct):
    """OpenAI's chat completion."""

    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    monolite: Particulars
    object: Literal["chat.completion"] = "chat.completion"


class TextChoice(msgspec.Struct):
    """One continuation."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: str


class CompletionShown(msgspec.Struct):
    """OpenAI's completion."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    monolite: Particulars
    object: Literal["text_completion"] = "text_completion"


class Collected(msgspec.Struct):
    """One answer, whole."""

    text: str
    logprobs: list[Logprob]
    tools: list[ToolPiece]
    ended: Ended


class Shape:
    """How answers are written; `created` is Unix seconds."""

    chunk_object = ""

    def __init__(self, id: str, answers: Answers) -> None:
        self.id = id
        self.model = answers.model
        self.created = int(time.time())
        self._answers = answers

    @property
    def vocabulary(self) -> Vocabulary:
        """Of the local model: only its tokens are ever shown."""
        assert self._answers.vocabulary is not None
        return self._answers.vocabulary

    def particulars(self, ended: Sequence[Ended]) -> Particulars:
        """Who answered and why, and what it took."""
        return Particulars(
            provider=self._answers.provider,
            route_reason=self._answers.reason,
            adapter=ended[0].adapter if ended else None,
            draft_accepted=sum(one.draft_accepted for one in ended),
            draft_proposed=sum(one.draft_proposed for one in ended),
            kv_bytes=sum(one.kv_bytes for one in ended),
        )

    def whole(self, collected: Sequence[Collected]) -> msgspec.Struct:
        raise NotImplementedError

    def choice(
        self, index: int, text: str | None, logprobs: Sequence[Logprob], finish: str | None
    ) -> dict[str, Any]:
        raise NotImplementedError

    def opening(self, index: int) -> bytes:
        """The first chunk of a choice."""
        return self._chunk([self.choice(index, "", (), None)])

    def piece(self, index: int, piece: Piece) -> bytes:
        """A chunk with text."""
        return self._chunk([self.choice(index, piece.text, piece.logprobs, None)])

    def closing(self, index: int, ended: Ended, every: Sequence[Ended] | None) -> bytes:
        """The last chunk of a choice; that of the last choice says what all of them took."""
        more = {} if every is None else {"monolite": self.particulars(every)}
        return self._chunk([self.choice(index, None, (), ended.reason)], **more)

    def usage(self, ended: Sequence[Ended]) -> bytes:
        """The chunk behind the last, where it is asked for."""
        return self._chunk([], usage=usage_of(ended), monolite=self.particulars(ended))

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return msgspec.json.encode(
            {
                "id": self.id,
                "object": self.chunk_object,
                "created": self.created,
                "model": self.model,
                "choices": choices,
                **more,
            }
        )

    def token_text(self, token: int) -> str:
        return self.vocabulary.token_bytes(token).decode(errors="replace")


class ChatShape(Shape):
    """Of chat."""

    chunk_object = "chat.completion.chunk"

    def whole(self, collected: Sequence[Collected]) -> ChatShown:
        ended = [one.ended for one in collected]
        return ChatShown(
            self.id,
            self.created,
            self.model,
            [
                ChatChoice(at, _message(one), self._shown(one.logprobs), one.ended.reason)
                for at, one in enumerate(collected)
            ],
            usage_of(ended),
            self.particulars(ended),
        )

    def opening(self, index: int) -> bytes:
        choice = self.choice(index, "", (), None)
        choice["delta"] = {"role": "assistant", "content": ""}
        return self._chunk([choice])

    def piece(self, index: int, piece: Piece) -> bytes:
        if piece.tool is None:
            return super().piece(index, piece)
        choice = self.choice(index, None, (), None)
        choice["delta"] = {"tool_calls": [{"index": piece.tool.index, **_tool(piece.tool)}]}
        return self._chunk([choice])

    def choice(
        self, index: int, text: str | None, logprobs: Sequence[Logprob], finish: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": {} if text is None else {"content": text},
            "logprobs": self._shown(logprobs),
            "finish_reason": finish,
        }

    def _shown(self, logprobs: Sequence[Logprob]) -> dict[str, Any] | None:
        if not logprobs:
            return None

        def one(token: int, value: float) -> dict[str, Any]:
            content = self.vocabulary.token_bytes(token)
            text = content.decode(errors="replace")
            return {"token": text, "logprob": value, "bytes": list(content)}

        return {
            "content": [
                {**one(each.token, each.logprob), "top_logprobs": [one(*top) for top in each.top]}
                for each in logprobs
            ],
            "refusal": None,
        }


class TextShape(Shape):
    """Of the continuation of a text."""

    chunk_object = "text_completion"

    def whole(self, collected: Sequence[Collected]) -> CompletionShown:
        ended = [one.ended for one in collected]
        return CompletionShown(
            self.id,
            self.created,
            self.model,
            [
                TextChoice(at, one.text, self._shown(one.logprobs), one.ended.reason)
                for at, one in enumerate(collected)
            ],
            usage_of(ended),
            self.particulars(ended),
        )

    def choice(
        self, index: int, text: str | None, logprobs: Sequence[Logprob], finish: str | None
    ) -> dict[str, Any]:
        return {
            "index": index,
            "text": text or "",
            "logprobs": self._shown(logprobs),
            "finish_reason": finish,
        }

    def _shown(self, logprobs: Sequence[Logprob]) -> dict[str, Any] | None:
        if not logprobs:
            return None
        tokens = [self.token_text(one.token) for one in logprobs]
        offsets = [0]
        for token in tokens:
            offsets.append(offsets[-1] + len(token))
        return {
            "tokens": tokens,
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": [
                {self.token_text(token): value for token, value in one.top} for one in logprobs
            ],
            "text_offset": offsets[:-1],
        }


def usage_of(ended: Sequence[Ended]) -> Usage:
    """The prompt counts once, however many choices it has."""
    prompt = ended[0].prompt_tokens
    completion = sum(one.completion_tokens for one in ended)
    cached = max(one.reused_tokens for one in ended)
    return Usage(prompt, completion, prompt + completion, CachedTokens(cached))


def _message(one: Collected) -> ChatMessage:
    if not one.tools:
        return ChatMessage(one.text)
    calls: dict[int, dict[str, Any]] = {}
    for piece in one.tools:
        call = calls.setdefault(piece.index, _tool(ToolPiece(piece.index)))
        call["id"] = call.get("id") or piece.id
        call["type"] = "function"
        function = call["function"]
        function["name"] = function.get("name", "") + piece.name
        function["arguments"] += piece.arguments
    return ChatMessage(one.text or None, tool_calls=list(calls.values()))


def _tool(piece: ToolPiece) -> dict[str, Any]:
    """A part of a call as OpenAI's clients put it together: what is named comes once."""
    function = {"arguments": piece.arguments}
    if not piece.name:
        return {"function": function}
    return {"id": piece.id, "type": "function", "function": {"name": piece.name, **function}}
