"""Chat and completion over HTTP, in OpenAI's shapes, whole or as a stream of events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from monolite.errors import DomainError
from monolite.inference.chat import (
    CHOICES_MAX,
    LOCAL,
    MESSAGES_MAX,
    ONLY_LOCAL,
    STOP_CHARACTERS_MAX,
    STOPS_MAX,
    TOP_LOGPROBS_MAX,
    Ask,
    Chat,
    Form,
    bad,
    form_of,
)
from monolite.inference.request import Ended, Logprob, Sampling
from monolite.models.registry import DEFAULT
from monolite.web import errors
from monolite.web.answer import Answer, Stream, json_answer
from monolite.web.call import Call
from monolite.web.operation import Operation
from monolite.web.sse import event_stream, frame

if TYPE_CHECKING:
    from monolite.inference.scheduler import Generation
    from monolite.models.decoder import Vocabulary

T = TypeVar("T")

SCOPE = "ai:local"
BODY_BYTES_MAX = 4 << 20
DONE = frame(b"[DONE]")

StopText = Annotated[str, msgspec.Meta(max_length=STOP_CHARACTERS_MAX)]
Stop = StopText | Annotated[list[StopText], msgspec.Meta(max_length=STOPS_MAX)]


class StreamOptions(msgspec.Struct):
    """`include_usage` adds a last chunk with the usage."""

    include_usage: bool = False


class Message(msgspec.Struct):
    """A turn. `content` is a text, or OpenAI's list of parts, of which only texts are taken."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class Common(msgspec.Struct, kw_only=True):
    """What both take. Members of OpenAI's that mean nothing here are passed over."""

    model: str = DEFAULT
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=CHOICES_MAX)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    # Not OpenAI's:
    grammar: str | None = None
    adapter: str | None = None
    privacy: Literal["private", "public"] | None = None
    tier: Literal["basic", "standard", "advanced"] | None = None
    speculate: Literal["auto", "off"] | None = None


class ChatWish(Common, kw_only=True):
    """OpenAI's chat completion."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    response_format: dict[str, Any] | None = None


class CompletionWish(Common, kw_only=True):
    """OpenAI's completion of one text, or of one text's token ids."""

    prompt: str | list[str | int]
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    echo: bool | None = None


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

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


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


def operations(chat: Chat, new_id: Callable[[], str]) -> list[Operation]:
    """The route table."""
    e = _Endpoints(chat, new_id)
    return [
        Operation(
            "inference.chat",
            "POST",
            "/v1/chat/completions",
            SCOPE,
            "Answer messages",
            e.chat,
            {200: ChatShown},
            description="OpenAI's shape: its clients work with `base_url` set to this server."
            " With `stream` the answer comes as server-sent events.",
            body=ChatWish,
            body_bytes_max=BODY_BYTES_MAX,
            example={
                "model": "default",
                "messages": [{"role": "user", "content": "What is the capital of France?"}],
                "max_tokens": 16,
            },
            writes=False,
            errors="openai",
        ),
        Operation(
            "inference.complete",
            "POST",
            "/v1/completions",
            SCOPE,
            "Go on with a text",
            e.complete,
            {200: CompletionShown},
            description="The text as it is, without the model's chat template.",
            body=CompletionWish,
            body_bytes_max=BODY_BYTES_MAX,
            example={"model": "default", "prompt": "The capital of France is", "max_tokens": 8},
            writes=False,
            errors="openai",
        ),
    ]


class _Endpoints:
    def __init__(self, chat: Chat, new_id: Callable[[], str]) -> None:
        self._chat = chat
        self._new_id = new_id

    async def chat(self, call: Call) -> Answer | Stream:
        wish: ChatWish = call.body
        form = form_of(wish.response_format, wish.grammar)
        _require_adapter(wish)
        messages = [_plain(at, message) for at, message in enumerate(wish.messages)]
        wanted = wish.max_completion_tokens or wish.max_tokens
        if wish.top_logprobs is not None and not wish.logprobs:
            raise bad("#/top_logprobs", "it goes with logprobs")
        ask = self._ask(wish, wanted, (wish.top_logprobs or 0) if wish.logprobs else None, form)
        model, generations, vocabulary = await self._chat.chat(
            call.tenant_id, wish.model, messages, ask
        )
        shape = _ChatShape(f"chatcmpl-{self._new_id()}", model, vocabulary)
        return await self._answer(call, wish, shape, generations)

    async def complete(self, call: Call) -> Answer | Stream:
        wish: CompletionWish = call.body
        _require_adapter(wish)
        if wish.echo:
            raise bad("#/echo", "it is not offered")
        ask = self._ask(wish, wish.max_tokens or 16, wish.logprobs, form_of(None, wish.grammar))
        model, generations, vocabulary = await self._chat.complete(
            call.tenant_id, wish.model, _prompt(wish.prompt), ask
        )
        shape = _TextShape(f"cmpl-{self._new_id()}", model, vocabulary)
        return await self._answer(call, wish, shape, generations)

    def _ask(
        self, wish: Common, tokens_max: int | None, top_logprobs: int | None, form: Form | None
    ) -> Ask:
        stops = [wish.stop] if isinstance(wish.stop, str) else wish.stop or []
        sampling = Sampling(
            temperature=1.0 if wish.temperature is None else wish.temperature,
            top_k=wish.top_k or 0,
            top_p=1.0 if wish.top_p is None else wish.top_p,
            min_p=wish.min_p or 0.0,
            repetition_penalty=wish.repetition_penalty or 1.0,
            presence_penalty=wish.presence_penalty or 0.0,
            frequency_penalty=wish.frequency_penalty or 0.0,
            logit_bias=_biases(wish.logit_bias or {}),
            seed=wish.seed,
        )
        return Ask(
            sampling,
            tokens_max,
            stops,
            wish.n or 1,
            top_logprobs,
            self._chat.cache,
            form,
            wish.speculate != "off",
        )

    @staticmethod
    async def _answer(
        call: Call, wish: Common, shape: _Shape, generations: Sequence[Generation]
    ) -> Answer | Stream:
        if wish.stream:
            usage = wish.stream_options is not None and wish.stream_options.include_usage
            return event_stream(_streamed(shape, generations, usage))
        try:
            whole = await _while_connected(
                call, asyncio.gather(*(_collected(one) for one in generations))
            )
        finally:
            for one in generations:
                one.cancel()
        return json_answer(shape.whole(whole))


class _Collected(msgspec.Struct):
    text: str
    logprobs: list[Logprob]
    ended: Ended


async def _collected(generation: Generation) -> _Collected:
    texts: list[str] = []
    logprobs: list[Logprob] = []
    async for event in generation.events():
        if isinstance(event, Ended):
            return _Collected("".join(texts), logprobs, event)
        texts.append(event.text)
        logprobs.extend(event.logprobs)
    raise AssertionError("an answer ends with an Ended")


async def _streamed(
    shape: _Shape, generations: Sequence[Generation], usage: bool
) -> AsyncGenerator[bytes, None]:
    """Chunks of all choices as they come; an error is a last event, since the head has gone."""
    merged: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()

    async def follow(index: int, generation: Generation) -> None:
        try:
            async for event in generation.events():
                merged.put_nowait((index, event))
        except DomainError as error:
            merged.put_nowait((index, error))

    tasks = [asyncio.create_task(follow(*one)) for one in enumerate(generations)]
    ended: list[Ended] = []
    try:
        for index in range(len(generations)):
            yield frame(shape.opening(index))
        while len(ended) < len(generations):
            index, event = await merged.get()
            if isinstance(event, DomainError):
                yield frame(errors.openai(event).body)
                return
            if isinstance(event, Ended):
                ended.append(event)
                is_last = len(ended) == len(generations)
                yield frame(shape.closing(index, event, ended if is_last else None))
            else:
                yield frame(shape.piece(index, event.text, event.logprobs))
        if usage:
            yield frame(shape.usage(ended))
        yield DONE
    finally:
        for task in tasks:
            task.cancel()
        for one in generations:
            one.cancel()


class _Shape:
    """How answers are written; `created` is Unix seconds."""

    chunk_object = ""

    def __init__(self, id: str, model: str, vocabulary: Vocabulary) -> None:
        self.id = id
        self.model = model
        self.created = int(time.time())
        self.vocabulary = vocabulary

    def whole(self, collected: Sequence[_Collected]) -> msgspec.Struct:
        raise NotImplementedError

    def choice(
        self, index: int, text: str | None, logprobs: Sequence[Logprob], finish: str | None
    ) -> dict[str, Any]:
        raise NotImplementedError

    def opening(self, index: int) -> bytes:
        """The first chunk of a choice."""
        return self._chunk([self.choice(index, "", (), None)])

    def piece(self, index: int, text: str, logprobs: Sequence[Logprob]) -> bytes:
        """A chunk with text."""
        return self._chunk([self.choice(index, text, logprobs, None)])

    def closing(self, index: int, ended: Ended, every: Sequence[Ended] | None) -> bytes:
        """The last chunk of a choice; that of the last choice says what all of them took."""
        more = {} if every is None else {"monolite": particulars(every)}
        return self._chunk([self.choice(index, None, (), ended.reason)], **more)

    def usage(self, ended: Sequence[Ended]) -> bytes:
        """The chunk behind the last, where it is asked for."""
        return self._chunk([], usage=usage_of(ended), monolite=particulars(ended))

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


class _ChatShape(_Shape):
    chunk_object = "chat.completion.chunk"

    def whole(self, collected: Sequence[_Collected]) -> ChatShown:
        ended = [one.ended for one in collected]
        return ChatShown(
            self.id,
            self.created,
            self.model,
            [
                ChatChoice(at, ChatMessage(one.text), self._shown(one.logprobs), one.ended.reason)
                for at, one in enumerate(collected)
            ],
            usage_of(ended),
            particulars(ended),
        )

    def opening(self, index: int) -> bytes:
        choice = self.choice(index, "", (), None)
        choice["delta"] = {"role": "assistant", "content": ""}
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


class _TextShape(_Shape):
    chunk_object = "text_completion"

    def whole(self, collected: Sequence[_Collected]) -> CompletionShown:
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
            particulars(ended),
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


def particulars(ended: Sequence[Ended]) -> Particulars:
    """Who answered, and what it took."""
    return Particulars(
        provider=LOCAL,
        route_reason=ONLY_LOCAL,
        adapter=None,
        draft_accepted=sum(one.draft_accepted for one in ended),
        draft_proposed=sum(one.draft_proposed for one in ended),
        kv_bytes=sum(one.kv_bytes for one in ended),
    )


async def _while_connected(call: Call, work: Awaitable[T]) -> T:
    """What `work` gives; it is cancelled where the client hangs up, for whom nothing is left."""

    async def gone() -> None:
        while (await call.receive())["type"] != "http.disconnect":
            pass

    watched = asyncio.ensure_future(gone())
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait({watched, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
        return await working
    finally:
        watched.cancel()
        working.cancel()


def _require_adapter(wish: Common) -> None:
    if wish.adapter is not None:
        raise bad("#/adapter", f"there is no adapter {wish.adapter}")


def _plain(at: int, message: Message) -> dict[str, Any]:
    """A message as templates read it."""
    content = message.content
    if isinstance(content, list):
        texts = []
        for place, part in enumerate(content):
            if part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise bad(
                    f"#/messages/{at}/content/{place}",
                    f"a part of the type {part.get('type')} can't be read: this model takes text",
                )
            texts.append(part["text"])
        content = "".join(texts)
    if content is None:
        if message.tool_calls is None:
            raise bad(f"#/messages/{at}/content", "there is nothing in it")
        content = ""
    role = "system" if message.role == "developer" else message.role
    return {"role": role, "content": content}


def _prompt(prompt: str | list[str | int]) -> str | list[int]:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    tokens = [one for one in prompt if isinstance(one, int)]
    if len(tokens) != len(prompt):
        raise bad("#/prompt", "it is one text, or one text's token ids")
    return tokens


def _biases(given: dict[str, float]) -> dict[int, float]:
    made = {}
    for token, bias in given.items():
        if not token.isdecimal() or len(token) > 9:
            raise bad("#/logit_bias", f"{token!r} is no token id")
        made[int(token)] = bias
    return made
