"""Answers from the configured provider: reserved, begun, held to their form, settled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from monolite.errors import Unavailable
from monolite.inference.request import Answering, Ended, Event, Piece
from monolite.inference.routing import messages as said
from monolite.inference.routing.budget import Settle
from monolite.inference.routing.calling import Cloud, CloudAnswer
from monolite.inference.routing.ledger import Asker, Ledger
from monolite.inference.routing.policy import PUBLIC, Policy
from monolite.inference.routing.provider import CloudWish, ProviderError

if TYPE_CHECKING:
    from monolite.inference.routing.decision import Tier
    from monolite.inference.routing.router import RoutedWish

CLOUD_TOKENS_MAX = 1024
"""What an answer may take where the request names no `max_tokens`."""

Check = Callable[[Any], Callable[[Any], str | None]]
"""From a JSON Schema what says why a parsed answer doesn't fit it. Raises Invalid for a bad one."""


class CloudAnswers:
    """Asks `cloud` within the budgets of `ledger`."""

    def __init__(self, cloud: Cloud, ledger: Ledger, check: Check) -> None:
        self.cloud = cloud
        self._ledger = ledger
        self._check = check

    @property
    def model(self) -> str:
        """The provider's model, by its name there."""
        return self.cloud.model.model

    def reserved(self, wish: RoutedWish, counted: int | None) -> int:
        """The tokens that all choices of a request may take, its prompt counted by the local
        vocabulary, where there is one.
        """
        return (self.prompt_tokens(wish, counted) + _tokens_max(wish)) * wish.ask.choices

    def prompt_tokens(self, wish: RoutedWish, counted: int | None) -> int:
        """What is reserved for the prompt of one choice."""
        beside = len(msgspec.json.encode(wish.tools)) if wish.tools else 0
        if wish.ask.form is not None:
            beside += len(wish.ask.form.source)
        return said.tokens_bound(wish.messages, counted, beside)

    async def begin(
        self,
        asker: Asker,
        policy: Policy,
        wish: RoutedWish,
        *,
        tier: Tier,
        reason: str,
        counted: int | None,
    ) -> Sequence[Answering] | str:
        """An answer for each choice; or the word for why there are none."""
        form = wish.ask.form
        schema = msgspec.json.decode(form.source) if form and form.kind == "json_schema" else None
        mismatch = None if schema is None else self._check(schema)
        asked = _asked(wish, schema)
        settles: list[Settle] = []
        for _ in range(wish.ask.choices):
            settle = await self._ledger.reserve(
                asker,
                policy,
                self.cloud.model,
                privacy=wish.privacy or asker.privacy or PUBLIC,
                tier=tier,
                reason=reason,
                prompt=msgspec.json.encode(wish.messages),
                prompt_tokens=self.prompt_tokens(wish, counted),
                tokens_max=asked.max_tokens,
            )
            if settle is None:
                for made in settles:
                    await made("failed", 0, 0)
                return "budget_spent"
            settles.append(settle)
        begun = await asyncio.gather(
            *(self.cloud.begin(asked, settle) for settle in settles), return_exceptions=True
        )
        answers = [one for one in begun if isinstance(one, CloudAnswer)]
        for one in begun:
            if isinstance(one, BaseException):
                _cancel(answers)
                if isinstance(one, ProviderError):
                    return f"provider_{one.code}"
                raise one
        if form is None and wish.is_streamed:
            return answers
        # Nothing has gone to the client: whatever breaks off, the local model can begin.
        try:
            whole = [Whole([event async for event in one.events()]) for one in answers]
        except Unavailable:
            return "provider_broke_off"
        finally:
            _cancel(answers)
        if form is not None and not all(one.fits(mismatch) for one in whole):
            return "cloud_answer_unfit"
        return whole


class Whole:
    """An answer that has ended, as an Answering."""

    def __init__(self, got: Sequence[Event]) -> None:
        self.got = got

    async def events(self) -> AsyncIterator[Event]:
        """All at once."""
        for event in self.got:
            yield event

    def cancel(self) -> None:
        """There is nothing to cancel."""

    def fits(self, mismatch: Callable[[Any], str | None] | None) -> bool:
        """Whether it is JSON, an object without a schema, else one that fits it; an answer that
        ended otherwise than of itself says so.
        """
        ended = self.got[-1]
        if isinstance(ended, Ended) and ended.reason != "stop":
            return True
        text = "".join(event.text for event in self.got if isinstance(event, Piece))
        try:
            parsed = msgspec.json.decode(text)
        except msgspec.DecodeError:
            return False
        return isinstance(parsed, dict) if mismatch is None else mismatch(parsed) is None


def _cancel(answers: Sequence[CloudAnswer]) -> None:
    for answer in answers:
        answer.cancel()


def _tokens_max(wish: RoutedWish) -> int:
    return wish.ask.tokens_max or CLOUD_TOKENS_MAX


def _asked(wish: RoutedWish, schema: Any) -> CloudWish:
    ask, sampling = wish.ask, wish.ask.sampling
    return CloudWish(
        wish.messages,
        _tokens_max(wish),
        sampling.temperature if sampling.temperature != 1 else None,
        sampling.top_p if sampling.top_p < 1 else None,
        ask.stops,
        sampling.seed,
        schema,
        ask.form is not None and ask.form.kind == "json_object",
        wish.tools,
        wish.tool_choice,
    )
