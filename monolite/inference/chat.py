"""The rules of chat and completion: what may be asked, what of it is decoded, and by whom."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from monolite.errors import FieldError, Invalid, RateLimited, Unenforceable
from monolite.inference.request import Fitted, Sampling, Wish
from monolite.models.decoder import CacheType
from monolite.models.language_models import LanguageModels

if TYPE_CHECKING:
    from monolite.inference.chat_template import ChatTemplate
    from monolite.inference.forms import Forms
    from monolite.inference.headroom import Pace
    from monolite.inference.scheduler import Generation, Scheduler
    from monolite.inference.template_child import TemplateChild
    from monolite.models.decoder import Decoder, Vocabulary

MESSAGES_MAX = 4096
STOPS_MAX = 16
STOP_CHARACTERS_MAX = 1000
CHOICES_MAX = 8
OPEN_MAX = 2
TOP_LOGPROBS_MAX = 20
WAITING_MAX = 64
"""Answers that may wait for a place."""


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer is kept to: a grammar in GBNF, any JSON object, or a JSON Schema."""

    kind: Literal["grammar", "json_object", "json_schema"]
    source: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a caller asks of a model, checked but for what only the model can tell."""

    sampling: Sampling
    tokens_max: int | None
    stops: Sequence[str]
    choices: int
    top_logprobs: int | None
    cache: CacheType
    form: Form | None = None
    speculates: bool = True
    adapter: str | msgspec.UnsetType | None = None


class AdapterSource(Protocol):
    """Where a tenant's adapters come from."""

    async def wanted(
        self, tenant_id: int, decoder: Decoder, name: str | msgspec.UnsetType | None
    ) -> Fitted | None:
        """The one that is named; unset, the active one; None, none. Raises Invalid."""
        ...


class Chat:
    """The installed language models, each opened when it is first asked for; as many as
    OPEN_MAX stay open.
    """

    def __init__(
        self,
        models: LanguageModels,
        cache: CacheType,
        random_seed: Callable[[], int],
        pace: Pace | None = None,
    ) -> None:
        self.models = models
        self.cache = cache
        self.adapters: AdapterSource | None = None
        self._random_seed = random_seed
        self._pace = pace
        self._opening: asyncio.Lock | None = None
        self._open: OrderedDict[str, _Open] = OrderedDict()

    @property
    def running_count(self) -> int:
        """Answers being decoded."""
        return sum(one.scheduler.running_count for one in self._open.values())

    @property
    def waiting_count(self) -> int:
        """Answers that wait for a place."""
        return sum(one.scheduler.waiting_count for one in self._open.values())

    @property
    def decoded_total(self) -> int:
        """Tokens of answers, of the models that are open."""
        return sum(one.scheduler.decoded_total for one in self._open.values())

    async def close(self) -> None:
        """End what is decoded."""
        for one in self._open.values():
            await one.close()

    async def decoder(self, model: str) -> Decoder:
        """An open model. Raises NoSuchModel and BadModelFile as `read` does."""
        return (await self._opened(model)).decoder

    async def read(self, model: str, messages: Sequence[Mapping[str, Any]]) -> Read:
        """Messages as a model reads them.

        Raises:
            NoSuchModel: the model is not installed.
            BadModelFile: it can't be used.
            Invalid: the messages don't fit the model's template.
        """
        opened = await self._opened(model)
        text = await asyncio.to_thread(opened.template.render, messages)
        return Read(opened, await asyncio.to_thread(opened.decoder.vocabulary.encode, text))

    async def answer(
        self, tenant_id: int, read: Read, ask: Ask
    ) -> tuple[str, list[Generation], Vocabulary]:
        """Begin answers to messages; returns the model's name and a Generation a choice.

        Raises:
            Invalid: the messages don't fit the model's context, or the wish not the model.
        """
        return await self._begin(read.opened, tenant_id, list(read.tokens), ask, "#/messages")

    async def complete(
        self, tenant_id: int, model: str, prompt: str | Sequence[int], ask: Ask
    ) -> tuple[str, list[Generation], Vocabulary]:
        """Begin to go on with a text, or token ids; returns and raises as `read` and `answer`
        do.
        """
        opened = await self._opened(model)
        vocabulary = opened.decoder.vocabulary
        if isinstance(prompt, str):
            tokens = await asyncio.to_thread(vocabulary.encode, prompt)
        else:
            tokens = list(prompt)
            if any(not 0 <= one < vocabulary.size for one in tokens):
                raise bad("#/prompt", f"token ids are from 0 to {vocabulary.size - 1}")
        return await self._begin(opened, tenant_id, tokens, ask, "#/prompt")

    async def _begin(
        self, opened: _Open, tenant_id: int, tokens: list[int], ask: Ask, pointer: str
    ) -> tuple[str, list[Generation], Vocabulary]:
        decoder = opened.decoder
        room = decoder.context_tokens - len(tokens)
        if not tokens:
            raise bad(pointer, "there is nothing in it")
        if room < 1:
            why = f"{len(tokens)} tokens; {decoder.name} takes {decoder.context_tokens - 1} here"
            raise Invalid(
                f"{pointer[2:]}: {why}.",
                [FieldError(pointer, why)],
                code="context_length_exceeded",
            )
        for token in ask.sampling.logit_bias:
            if not 0 <= token < decoder.vocabulary.size:
                raise bad("#/logit_bias", f"{token} is no token of {decoder.name}")
        tokens_max = room if ask.tokens_max is None else min(room, ask.tokens_max)
        masks = None if ask.form is None else await asyncio.to_thread(opened.forms.masks, ask.form)
        adapter = None
        if self.adapters is not None:
            adapter = await self.adapters.wanted(tenant_id, decoder, ask.adapter)
        own = f"{tenant_id}\0{decoder.name}\0{'' if adapter is None else adapter.digest}"
        scope = hashlib.sha256(own.encode()).digest()
        generations = []
        try:
            for number in range(ask.choices):
                sampling = ask.sampling
                if sampling.seed is not None and number:
                    sampling = _reseeded(sampling, number)
                wish = Wish(
                    tokens,
                    tokens_max,
                    sampling,
                    ask.stops,
                    ask.cache,
                    scope,
                    constraint=None if masks is None else opened.forms.constraint(masks),
                    top_logprobs=ask.top_logprobs,
                    speculates=ask.speculates,
                    adapter=adapter,
                )
                generations.append(opened.scheduler.submit(wish))
        except BaseException:
            for one in generations:
                one.cancel()
            raise
        return decoder.name, generations, decoder.vocabulary

    async def _opened(self, model: str) -> _Open:
        name = await asyncio.to_thread(self.models.resolve, model)
        found = self._open.get(name)
        if found is None:
            if self._opening is None:
                self._opening = asyncio.Lock()
            async with self._opening:
                found = self._open.get(name)
                if found is None:
                    await self._make_room(name)
                    found = self._open[name] = await asyncio.to_thread(self._open_model, name)
        self._open.move_to_end(name)
        return found

    async def _make_room(self, name: str) -> None:
        """Close the model that was asked longest ago, of those that nobody waits for."""
        while len(self._open) >= OPEN_MAX:
            idle = next((one for one, open_ in self._open.items() if open_.is_idle), None)
            if idle is None:
                others = ", ".join(self._open)
                raise RateLimited(
                    f"{name} has no room beside {others}, which are busy: try again in seconds.",
                    5.0,
                    code="inference_queue_full",
                )
            await self._open.pop(idle).close()

    def _open_model(self, name: str) -> _Open:
        from monolite.inference.chat_template import ChatTemplate
        from monolite.inference.forms import Forms
        from monolite.inference.scheduler import Scheduler
        from monolite.inference.template_child import TemplateChild

        decoder = self.models.open(name)
        vocabulary = decoder.vocabulary
        make = ChatTemplate if self.models.is_shipped(name) else TemplateChild
        template = make(
            vocabulary.chat_template,
            bos_token=vocabulary.bos_token,
            eos_token=vocabulary.eos_token,
        )
        scheduler = Scheduler(lambda: decoder, self._random_seed, self._pace)
        return _Open(decoder, template, scheduler, Forms(vocabulary))


@dataclass(frozen=True, slots=True)
class Read:
    """Messages as one model reads them: tokens of its vocabulary."""

    opened: _Open
    tokens: Sequence[int]

    @property
    def is_queue_full(self) -> bool:
        """Whether an answer would be refused for those that wait already."""
        return self.opened.scheduler.waiting_count >= WAITING_MAX

    @property
    def model(self) -> str:
        """Its name."""
        return self.opened.decoder.name


@dataclass(frozen=True, slots=True)
class _Open:
    decoder: Decoder
    template: ChatTemplate | TemplateChild
    scheduler: Scheduler
    forms: Forms

    async def close(self) -> None:
        """End what is decoded, and the template's process."""
        await self.scheduler.close()
        await asyncio.to_thread(self.template.close)

    @property
    def is_idle(self) -> bool:
        return not self.scheduler.running_count and not self.scheduler.waiting_count


def form_of(response_format: Mapping[str, Any] | None, grammar: str | None) -> Form | None:
    """What an answer is to be kept to; None where it is free.

    Raises:
        Unenforceable: a kind that isn't known: never an unconstrained answer.
        Invalid: both are given, or a schema is missing.
    """
    kind = None if response_format is None else response_format.get("type")
    if grammar is not None:
        if kind not in (None, "text"):
            raise bad("#/grammar", "it doesn't go with a response_format")
        return Form("grammar", grammar)
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return Form("json_object")
    if kind != "json_schema":
        why = f"{kind!r} is none of text, json_object, json_schema"
        field = FieldError("#/response_format/type", why)
        raise Unenforceable(f"response_format.type: {why}.", [field])
    assert response_format is not None  # it has a type
    given = response_format.get("json_schema")
    schema = given.get("schema") if isinstance(given, dict) else None
    if not isinstance(schema, (dict, bool)):
        raise bad("#/response_format/json_schema/schema", "a schema is missing")
    return Form("json_schema", msgspec.json.encode(schema).decode())


def bad(pointer: str, why: str) -> Invalid:
    """The refusal of one field."""
    return Invalid(f"{pointer[2:].replace('/', '.')}: {why}.", [FieldError(pointer, why)])


def _reseeded(sampling: Sampling, number: int) -> Sampling:
    from dataclasses import replace

    assert sampling.seed is not None
    return replace(sampling, seed=sampling.seed + number)
