"""Answers that are decoded together: continuous batching on one thread.

    submit ─► waiting ─a place, room─► prefill, a chunk a pass ─► decode, a token a pass ─► ended
                 │                          │                           │
                 └─ queue full: 429         └── cancelled: gone within a pass

Each pass over the weights takes one token of every answer that decodes and a chunk of prompts that
wait to be read (Yu et al. 2022, Orca; Agrawal et al. 2023, Sarathi), so a long prompt slows others
but never stops them. All of a model's state is touched by its thread alone; what is made goes to
the loop that asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from monolite.errors import DomainError, RateLimited, Unavailable
from monolite.inference.chat import WAITING_MAX
from monolite.inference.drafts import PromptLookup
from monolite.inference.headroom import Pace
from monolite.inference.request import Ended, Event, Finish, Logprob, Piece, Wish
from monolite.inference.sampling import Sampler, logprob
from monolite.inference.text import TextStream
from monolite.models.decoder import CacheFull, Decoder, Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("monolite.inference")

SLOTS = 8
"""Answers decoded together."""

NICE = 10
"""Decoding can wait: whatever else the server does comes before it, where cores are short."""

FORCED_AT_ONCE = 64
"""Tokens that a grammar left no choice of, read together with the one before them."""

PASS_TOKENS = 128
"""Tokens of prompts in one pass while others decode; alone a prompt takes four times as many."""


class Generation:
    """One answer on its way; an iterator of Pieces, and an Ended at last."""

    def __init__(self, wish: Wish, loop: asyncio.AbstractEventLoop) -> None:
        self.wish = wish
        self.cancelled = False
        self._loop = loop
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()

    def cancel(self) -> None:
        """Nobody waits any more: the next pass goes without it."""
        self.cancelled = True

    async def events(self) -> AsyncIterator[Event]:
        """Raises what decoding failed with."""
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Ended):
                    return
        finally:
            self.cancel()

    def push(self, event: Event | Exception) -> None:
        """Called on the scheduler's thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            self.cancelled = True  # the loop is closed


class _Running:
    """One answer while it has a place."""

    def __init__(self, generation: Generation, decoder: Decoder, random_seed: int) -> None:
        wish = generation.wish
        self.generation = generation
        self.wish = wish
        self.decoder = decoder
        opened = decoder.open_sequence(wish.prompt, cache=wish.cache, scope=wish.scope)
        self.sequence = opened.sequence
        self.reused = opened.reused
        self.to_read = deque(wish.prompt[opened.reused :])
        self.sampler = Sampler(wish.sampling, wish.prompt, random_seed)
        self.text = TextStream(wish.stops)
        self.count = 0
        self.forced_count = 0
        self.logprobs: list[Logprob] = []
        # A grammar has its own way ahead: what it leaves no choice of.
        speculates = wish.speculates and wish.constraint is None
        self.adapter = None if wish.adapter is None else wish.adapter.weights
        self.lookup = PromptLookup(wish.prompt) if speculates else None
        self.drafts: list[int] = []
        self.draft_proposed = 0
        self.draft_accepted = 0

    @property
    def decodes(self) -> bool:
        return self.count > 0 or len(self.to_read) == 1

    def take(self, count: int) -> Span:
        """The next tokens to append, `count` at most; logits are wanted behind the last one."""
        tokens = [self.to_read.popleft() for _ in range(min(count, len(self.to_read)))]
        if self.to_read:
            return Span(self.sequence, tokens, "none", self.adapter)
        self.drafts = self._drafted() if self.decodes else []
        if self.drafts:
            return Span(self.sequence, [*tokens, *self.drafts], "all", self.adapter)
        return Span(self.sequence, tokens, "last", self.adapter)

    def _drafted(self) -> list[int]:
        if self.lookup is None or self.count == 0:
            return []
        room = self.decoder.context_tokens - self.decoder.length(self.sequence) - 2
        left = self.wish.tokens_max - self.count - 1
        return self.lookup.propose()[: max(0, min(room, left))]

    def untaken(self, span: Span) -> None:
        """The pass of a span was not made: its tokens are still to be read."""
        tokens = span.tokens[: len(span.tokens) - len(self.drafts)]
        self.to_read.extendleft(reversed(tokens))
        self.drafts = []

    def verified(self, logits: NDArray[np.float32]) -> Finish | None:
        """Choose tokens as long as they are those of the draft; how the answer ends, if it does."""
        drafts, self.drafts = self.drafts, []
        if not drafts:
            return self.told(logits[-1])
        certain = self.decoder.length(self.sequence) - len(drafts)
        accepted, finish = 0, None
        for row in logits:
            finish = self.told(row)
            taken = finish is None and accepted < len(drafts)
            if not taken or self.to_read[-1] != drafts[accepted]:
                break
            self.to_read.clear()  # it was read with the draft
            accepted += 1
        self.decoder.rollback(self.sequence, certain + accepted)
        self.draft_proposed += len(drafts)
        self.draft_accepted += accepted
        if self.lookup is not None:
            self.lookup.judged(len(drafts), accepted)
        return finish

    def told(self, logits: NDArray[np.float32]) -> Finish | None:
        """Choose the next token; how the answer ends with it, if it does."""
        wish, vocabulary = self.wish, self.decoder.vocabulary
        constraint = wish.constraint
        mask = None if constraint is None else constraint.mask()
        token = self.sampler.choose(logits, mask)
        self.count += 1
        if token in vocabulary.ending:
            return "stop"
        if constraint is not None:
            constraint.accept(token)
        self.sampler.say(token)
        if wish.top_logprobs is not None:
            self.logprobs.append(logprob(logits, token, wish.top_logprobs))
        finish = self._added(token)
        if constraint is None or finish is not None:
            return finish
        for forced in constraint.forced():
            constraint.accept(forced)
            self.count += 1
            self.forced_count += 1
            self.sampler.say(forced)
            finish = self._added(forced)
            if finish is not None:
                return finish
        return "stop" if constraint.must_end else None

    def _added(self, token: int) -> Finish | None:
        """A token is part of the answer, and is to be read."""
        text = self.text.push(self.decoder.vocabulary.token_bytes(token))
        if text:
            self.send(text)
        if self.text.stopped:
            return "stop"
        self.to_read.append(token)
        if self.lookup is not None:
            self.lookup.add(token)
        if self.count >= self.wish.tokens_max:
            return "length"
        held = self.decoder.length(self.sequence) + len(self.to_read)
        return "length" if held >= self.decoder.context_tokens else None

    def send(self, text: str) -> None:
        self.generation.push(Piece(text, tuple(self.logprobs)))
        self.logprobs.clear()

    def end(self, reason: Finish) -> None:
        rest = self.text.end()
        if rest or self.logprobs:
            self.send(rest)
        decoder = self.decoder
        self.generation.push(
            Ended(
                reason,
                len(self.wish.prompt),
                self.reused,
                self.count,
                decoder.kv_bytes(self.sequence),
                self.draft_proposed,
                self.draft_accepted,
                None if self.wish.adapter is None else self.wish.adapter.name,
            )
        )
        decoder.close(self.sequence, keep=True)


class Scheduler:
    """Decodes for one model. `random_seed` gives a seed to an answer that names none; `pace` may
    take threads away between passes, and rest.
    """

    def __init__(
        self,
        open_decoder: Callable[[], Decoder],
        random_seed: Callable[[], int],
        pace: Pace | None = None,
        *,
        slots: int = SLOTS,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        self._open_decoder = open_decoder
        self._random_seed = random_seed
        self._pace = pace
        self._slots = self._places = slots
        self._waiting_max = waiting_max
        self._waiting: deque[Generation] = deque()
        self._running: list[_Running] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.decoded_total = 0
        self.prompt_total = 0

    @property
    def waiting_count(self) -> int:
        """Answers that have no place yet."""
        return len(self._waiting)

    @property
    def running_count(self) -> int:
        """Answers being decoded."""
        return len(self._running)

    def submit(self, wish: Wish) -> Generation:
        """Queue an answer; called on the loop that reads its events.

        Raises:
            RateLimited: too many wait already.
            Unavailable: the server is stopping.
        """
        generation = Generation(wish, asyncio.get_running_loop())
        with self._wake:
            if self._closing:
                raise Unavailable("The server is stopping.", code="stopping")
            if len(self._waiting) >= self._waiting_max:
                raise RateLimited(
                    f"{len(self._waiting)} answers wait to be decoded: try again in some seconds.",
                    5.0,
                    code="inference_queue_full",
                )
            self._waiting.append(generation)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
                self._thread.start()
            self._wake.notify()
        return generation

    async def close(self) -> None:
        """End what is decoded, and the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    # ── On the thread ──────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        if sys.platform == "linux":  # where threads have priorities of their own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        decoder: Decoder | None = None
        while True:
            with self._wake:
                while not (self._waiting or self._running or self._closing):
                    if self._pace is not None:
                        self._pace.idle()
                    self._wake.wait()
                if self._closing:
                    break
            try:
                if decoder is None:
                    decoder = self._open_decoder()
                self._admit(decoder)
                if self._running:
                    started_s = time.perf_counter()
                    self._pass(decoder)
                    if self._pace is not None:
                        self._pace.passed(time.perf_counter() - started_s)
            except Exception as error:
                self._fail(decoder, error)
        self._fail(decoder, Unavailable("The server is stopping.", code="stopping"))

    def _admit(self, decoder: Decoder) -> None:
        for one in [one for one in self._running if one.generation.cancelled]:
            self._leave(one)
        while len(self._running) < self._places:
            with self._wake:
                if not self._waiting:
                    return
                generation = self._waiting.popleft()
            if generation.cancelled:
                continue
            try:
                self._running.append(_Running(generation, decoder, self._random_seed()))
            except Exception as error:
                generation.push(_told(error))

    def _pass(self, decoder: Decoder) -> None:
        chosen: list[_Running] = []
        spans: list[Span] = []
        # Who decodes comes first; prompts share what is left of the pass.
        decoding = [one for one in self._running if one.decodes]
        left = PASS_TOKENS if decoding else 4 * PASS_TOKENS
        for one in decoding:
            chosen.append(one)
            spans.append(one.take(FORCED_AT_ONCE))
        for one in self._running:
            if left > 0 and not one.decodes and one not in chosen:
                span = one.take(left)
                left -= len(span.tokens)
                chosen.append(one)
                spans.append(span)
        try:
            made = decoder.forward(spans)
        except CacheFull as error:
            self._make_room(chosen, spans, error)
            return
        self.prompt_total += sum(len(span.tokens) for span in spans[len(decoding) :])
        for one, span, logits in zip(chosen, spans, made, strict=True):
            if span.want != "none":
                before = one.count
                try:
                    finish = one.verified(logits)
                except DomainError as error:  # its grammar's; the others go on
                    self._leave(one)
                    one.generation.push(error)
                    continue
                self.decoded_total += one.count - before
                if finish is not None:
                    self._running.remove(one)
                    one.end(finish)
                    self._places = min(self._slots, self._places + 1)

    def _make_room(
        self, chosen: Sequence[_Running], spans: Sequence[Span], error: CacheFull
    ) -> None:
        """The newest answer goes back to wait, or where it is alone, fails."""
        for one, span in zip(chosen, spans, strict=True):
            one.untaken(span)
        newest = chosen[-1]
        self._running.remove(newest)
        newest.decoder.close(newest.sequence, keep=False)
        if newest.count == 0 and self._running:
            with self._wake:
                self._waiting.appendleft(newest.generation)
            self._places = len(self._running)  # until one of them has ended
        else:
            newest.generation.push(error)

    def _leave(self, one: _Running) -> None:
        self._running.remove(one)
        self._places = min(self._slots, self._places + 1)
        one.decoder.close(one.sequence, keep=False)

    def _fail(self, decoder: Decoder | None, error: Exception) -> None:
        """Tell everybody; a model that failed once may work for the next."""
        error = _told(error)
        for one in list(self._running):
            self._leave(one)
            one.generation.push(error)
        with self._wake:
            waiting = list(self._waiting)
            self._waiting.clear()
        for generation in waiting:
            generation.push(error)


def _told(error: Exception) -> Exception:
    """What a caller hears of a failure; the log has one of ours whole."""
    if isinstance(error, DomainError):
        return error
    log.error("decoding failed", exc_info=error)
    return Unavailable("Decoding failed; the log says why.", code="inference_failed")
