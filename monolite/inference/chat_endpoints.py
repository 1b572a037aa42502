"""Chat and completion over HTTP, in OpenAI's shapes, whole or as a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from monolite.errors import DomainError, Malformed
from monolite.inference.chat import (
    CHOICES_MAX,
    MESSAGES_MAX,
    STOP_CHARACTERS_MAX,
    STOPS_MAX,
    TOP_LOGPROBS_MAX,
    Ask,
    Chat,
    Form,
    bad,
    form_of,
)
from monolite.inference.chat_shapes import (
    ChatShape,
    ChatShown,
    Collected,
    CompletionShown,
    Shape,
    TextShape,
)
from monolite.inference.request import Answering, Ended, Logprob, Sampling, ToolPiece
from monolite.inference.routing.ledger import Asker
from monolite.inference.routing.router import LOCAL, Answers, RoutedWish, Router
from monolite.models.registry import DEFAULT
from monolite.web import errors
from monolite.web.answer import Answer, Stream, json_answer
from monolite.web.call import Call
from monolite.web.operation import Operation
from monolite.web.sse import event_stream, frame

if TYPE_CHECKING:
    pass

T = TypeVar("T")

SCOPE = "ai:local"
CLOUD_SCOPE = "ai:cloud"
BODY_BYTES_MAX = 4 << 20
TOOLS_MAX = 128
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
    adapter: str | msgspec.UnsetType | None = msgspec.UNSET
    privacy: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    tier: Literal["basic", "standard", "advanced"] | None = None
    speculate: Literal["auto", "off"] | None = None


class ChatWish(Common, kw_only=True):
    """OpenAI's chat completion."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=MESSAGES_MAX)]
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    response_format: dict[str, Any] | None = None
    tools: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=TOOLS_MAX)] | None = None
    tool_choice: str | dict[str, Any] | None = None


class CompletionWish(Common, kw_only=True):
    """OpenAI's completion of one text, or of one text's token ids."""

    prompt: str | list[str | int]
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=TOP_LOGPROBS_MAX)] | None = None
    echo: bool | None = None


def operations(chat: Chat, router: Router, new_id: Callable[[], str]) -> list[Operation]:
    """The route table."""
    e = _Endpoints(chat, router, new_id)
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
    def __init__(self, chat: Chat, router: Router, new_id: Callable[[], str]) -> None:
        self._chat = chat
        self._router = router
        self._new_id = new_id

    async def chat(self, call: Call) -> Answer | Stream:
        wish: ChatWish = call.body
        form = form_of(wish.response_format, wish.grammar)
        wanted = wish.max_completion_tokens or wish.max_tokens
        if wish.top_logprobs is not None and not wish.logprobs:
            raise bad("#/top_logprobs", "it goes with logprobs")
        ask = self._ask(wish, wanted, (wish.top_logprobs or 0) if wish.logprobs else None, form)
        routed = RoutedWish(
            wish.model,
            [msgspec.to_builtins(one) for one in wish.messages],
            ask,
            wish.privacy,
            wish.tier,
            wish.tools or (),
            wish.tool_choice,
            _needs_local(wish, ask),
            bool(wish.stream),
        )
        answers = await _while_connected(call, self._router.chat(_asker(call), routed))
        shape = ChatShape(f"chatcmpl-{self._new_id()}", answers)
        return await self._answer(call, wish, shape, answers.choices)

    async def complete(self, call: Call) -> Answer | Stream:
        wish: CompletionWish = call.body
        if wish.echo:
            raise bad("#/echo", "it is not offered")
        ask = self._ask(wish, wish.max_tokens or 16, wish.logprobs, form_of(None, wish.grammar))
        model, generations, vocabulary = await self._chat.complete(
            call.tenant_id, wish.model, _prompt(wish.prompt), ask
        )
        answers = Answers(model, generations, vocabulary, LOCAL, "completion")
        shape = TextShape(f"cmpl-{self._new_id()}", answers)
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
            wish.adapter,
        )

    @staticmethod
    async def _answer(
        call: Call, wish: Common, shape: Shape, generations: Sequence[Answering]
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


async def _collected(generation: Answering) -> Collected:
    texts: list[str] = []
    logprobs: list[Logprob] = []
    tools: list[ToolPiece] = []
    async for event in generation.events():
        if isinstance(event, Ended):
            return Collected("".join(texts), logprobs, tools, event)
        texts.append(event.text)
        logprobs.extend(event.logprobs)
        if event.tool is not None:
            tools.append(event.tool)
    raise AssertionError("an answer ends with an Ended")


async def _streamed(
    shape: Shape, generations: Sequence[Answering], usage: bool
) -> AsyncGenerator[bytes, None]:
    """Chunks of all choices as they come; an error is a last event, since the head has gone."""
    merged: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()

    async def follow(index: int, generation: Answering) -> None:
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
                yield frame(shape.piece(index, event))
        if usage:
            yield frame(shape.usage(ended))
        yield DONE
    finally:
        for task in tasks:
            task.cancel()
        for one in generations:
            one.cancel()


async def _while_connected(call: Call, work: Awaitable[T]) -> T:
    """What `work` gives; it is cancelled where the client hangs up, for whom nothing is left."""
    working = asyncio.ensure_future(work)
    try:
        await asyncio.wait({call.gone(), working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Malformed("The client hung up.")
        return await working
    finally:
        working.cancel()


def _asker(call: Call) -> Asker:
    who = call.principal
    return Asker(
        who.tenant_id, who.key_id, who.subject, CLOUD_SCOPE in who.scopes, who.privacy, who.tier
    )


def _needs_local(wish: ChatWish, ask: Ask) -> str | None:
    """What of a wish only the model on this machine does."""
    if wish.grammar is not None:
        return "grammar"
    if isinstance(wish.adapter, str):
        return "adapter"
    return "token_detail" if wish.logprobs or ask.sampling.logit_bias else None


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
