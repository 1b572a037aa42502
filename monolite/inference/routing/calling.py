"""One call to a provider: its time-outs, one repeat, the circuit breaker, and what it took."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import suppress
from typing import NamedTuple

from monolite.errors import Unavailable
from monolite.inference.request import Ended, Event, Piece
from monolite.inference.routing.breaker import Breaker, State
from monolite.inference.routing.budget import CALL_S_MAX, Outcome, Settle
from monolite.inference.routing.provider import (
    CloudModel,
    CloudWish,
    Counted,
    Provider,
    ProviderError,
)

REPEAT_AFTER_S_MAX = 2.0
"""A `Retry-After` that is waited for; a longer one opens the circuit for its time."""

log = logging.getLogger("monolite.inference")


class Patience(NamedTuple):
    """How long the first token is waited for, and each one after it."""

    first_s: float
    between_s: float


class Cloud:
    """The configured provider."""

    def __init__(
        self,
        model: CloudModel,
        provider: Provider,
        patience: Patience,
        monotonic: Callable[[], float],
    ) -> None:
        self.model = model
        self.last_error: str | None = None
        self._provider = provider
        self._patience = patience
        self._monotonic = monotonic
        self._breaker = Breaker()

    @property
    def is_healthy(self) -> bool:
        """Whether a call would be tried."""
        return self._breaker.may_call(self._monotonic())

    @property
    def circuit(self) -> State:
        """The breaker's state."""
        return self._breaker.state(self._monotonic())

    async def check(self) -> None:
        """Ask for what costs nothing; raises ProviderError where address or key don't do."""
        await self._provider.check(self._patience.first_s)

    async def begin(self, wish: CloudWish, settle: Settle) -> CloudAnswer:
        """An answer whose first event has come. Where that fails, `settle` was called.

        Raises:
            ProviderError: nothing was streamed.
        """
        if not self._breaker.begin(self._monotonic(), self._patience.first_s * 2):
            await settle("failed", 0, 0)
            raise ProviderError("unavailable", "the provider's circuit is open")
        counted: list[Counted] = []
        try:
            events, first = await self._first(wish, counted)
        except ProviderError as error:
            self._note(error)
            await settle("failed", counted[-1].prompt_tokens if counted else 0, 0)
            raise
        except BaseException:
            await settle("cut_off", counted[-1].prompt_tokens if counted else 0, 0)
            raise
        self._breaker.succeeded()
        self.last_error = None
        return CloudAnswer(events, first, counted, wish.max_tokens, self._patience, settle)

    async def _first(
        self, wish: CloudWish, counted: list[Counted]
    ) -> tuple[AsyncGenerator[Event | Counted, None], Event]:
        may_repeat = True
        while True:
            events = self._provider.complete(wish, self._patience.first_s)
            try:
                return events, await self._opening(events, counted)
            except ProviderError as error:
                pause = error.retry_after_s
                if not may_repeat or pause is None or pause > REPEAT_AFTER_S_MAX:
                    raise
                may_repeat = False
                await asyncio.sleep(pause)

    async def _opening(
        self, events: AsyncGenerator[Event | Counted, None], counted: list[Counted]
    ) -> Event:
        try:
            async with asyncio.timeout(self._patience.first_s):
                async for event in events:
                    if not isinstance(event, Counted):
                        return event
                    counted.append(event)
        except TimeoutError:
            waited = self._patience.first_s
            raise ProviderError("timed_out", f"no token within {waited:g} s") from None
        raise ProviderError("bad_answer", "the provider answered nothing")

    def _note(self, error: ProviderError) -> None:
        if error.code == "refused":
            self._breaker.succeeded()  # it is the request that is refused
            return
        if str(error) != self.last_error:
            log.warning("%s: %s", self.model.provider, error.detail)
        self.last_error = error.detail
        self._breaker.failed(
            self._monotonic(), is_certain=error.is_certain, retry_after_s=error.retry_after_s
        )


class CloudAnswer:
    """An Answering from a provider."""

    def __init__(
        self,
        events: AsyncGenerator[Event | Counted, None],
        first: Event,
        counted: list[Counted],
        tokens_max: int,
        patience: Patience,
        settle: Settle,
    ) -> None:
        self._events = events
        self._first = first
        self._counted = counted
        self._tokens_max = tokens_max
        self._patience = patience
        self._settle: Settle | None = settle
        self._seen = 0
        self._closing: asyncio.Task[None] | None = None

    async def events(self) -> AsyncIterator[Event]:
        """Raises Unavailable (`provider_failed`) where the answer breaks off."""
        try:
            async with asyncio.timeout(CALL_S_MAX):
                async for event in self._all():
                    if isinstance(event, Counted):
                        self._counted.append(event)
                        continue
                    if isinstance(event, Ended):
                        await self._done("answered", event.prompt_tokens, event.completion_tokens)
                    else:
                        self._seen += _size(event)
                    yield event
        except (ProviderError, TimeoutError) as error:
            why = error.detail if isinstance(error, ProviderError) else "the provider fell silent"
            raise Unavailable(
                f"The answer broke off: {why}. What came before stands.", code="provider_failed"
            ) from None
        finally:
            await self._cut_off()

    def cancel(self) -> None:
        """End the call; what it took so far is settled."""
        if self._settle is not None and self._closing is None:
            self._closing = asyncio.ensure_future(self._cut_off())

    async def _all(self) -> AsyncIterator[Event | Counted]:
        yield self._first
        while True:
            try:
                async with asyncio.timeout(self._patience.between_s):
                    event = await anext(self._events, None)
            except TimeoutError:
                waited = self._patience.between_s
                raise ProviderError("timed_out", f"no token within {waited:g} s") from None
            if event is None:
                return
            yield event

    async def _cut_off(self) -> None:
        """A token is at least a byte, so no more of them were made than bytes were seen."""
        made = min(self._tokens_max, self._seen)
        last = self._counted[-1] if self._counted else Counted(0)
        await self._done("cut_off", last.prompt_tokens, max(made, last.completion_tokens))

    async def _done(self, outcome: Outcome, prompt_tokens: int, completion_tokens: int) -> None:
        settle, self._settle = self._settle, None
        if settle is None:
            return
        await asyncio.shield(settle(outcome, prompt_tokens, completion_tokens))
        with suppress(RuntimeError):  # it is in the middle of a step: its task closes it
            await self._events.aclose()


def _size(piece: Piece) -> int:
    tool = "" if piece.tool is None else piece.tool.name + piece.tool.arguments
    return len((piece.text + tool).encode())
