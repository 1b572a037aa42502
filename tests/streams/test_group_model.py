"""Groups against a model: every interleaving of consumers, time, trims and restarts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from monolite.errors import Conflict
from monolite.streams import tokens
from monolite.streams.event import NewEvent, piece
from monolite.streams.event_id import LAST, ZERO, EventId, Wish
from monolite.streams.group import GroupSettings, Read
from monolite.streams.stream import Trim
from tests.streams.stores import FakeClock, OpenStore, SqliteStore, ValkeyStore
from tests.valkey_server import ValkeyServer

TENANT, STREAM, GROUP = 3, "orders", "billing"
CONSUMERS = st.sampled_from(["ann", "bob", "cid"])
SETTINGS = GroupSettings(max_deliveries=2, claim_idle_ms=1000, max_pending=12)


@dataclass
class Held:
    """A pending event: who holds it, since or until when, and under which token."""

    consumer: str | None
    at_us: int
    deliveries: int
    token: str | None


class GroupMachine(RuleBasedStateMachine):
    """One group of one stream."""

    folder: Path | None = None

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store = self.open_store()
        self.ids: list[EventId] = []
        self.first = 0  # the index of the earliest event that is not trimmed
        self.position = 0
        self.pending: dict[int, Held] = {}
        self.ghosts: set[int] = set()  # trimmed while pending; the store may know of them still
        self.dead: dict[int, int] = {}
        self.deaths = 0
        self.handed_out: dict[str, int] = {}

    def open_store(self) -> OpenStore:
        self.folder = folder = Path(tempfile.mkdtemp())
        return SqliteStore(folder / "monolite.db", self.clock)

    def teardown(self) -> None:
        self.store.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @initialize()
    def make(self) -> None:
        group, is_new = self.run(self.store.groups.put_group(TENANT, STREAM, GROUP, ZERO, SETTINGS))
        assert is_new
        assert group.lag == 0

    def run(self, awaitable: Any) -> Any:
        return self.store.run(awaitable)

    # ── What callers do ────────────────────────────────────────────────────────────────────────

    @rule(count=st.integers(1, 7))
    def append(self, count: int) -> None:
        ids = self.append_events([None] * count)
        assert len(ids) == count
        assert ids == sorted(set(ids))
        assert not self.ids or ids[0] > self.ids[-1]
        assert all(id.ms >= self.clock.wall_ms for id in ids)
        self.ids += ids

    @rule(ahead=st.integers(-3, 3), n=st.one_of(st.none(), st.integers(0, 3)))
    def append_under_an_id(self, ahead: int, n: int | None) -> None:
        last = self.ids[-1] if self.ids else ZERO
        wish = Wish(max(0, last.ms + ahead), n)
        if wish == (0, 0):
            return
        try:
            (id,) = self.append_events([wish])
        except Conflict:
            assert wish.ms < last.ms or (wish.ms == last.ms and n is not None and n <= last.n)
            return
        assert id > last
        assert id.ms == wish.ms
        assert n is None or id.n == n
        self.ids.append(id)

    def append_events(self, wishes: Sequence[Wish | None]) -> list[EventId]:
        number = len(self.ids)
        events = [
            NewEvent(piece("t", b"%d" % (number + at)), wish) for at, wish in enumerate(wishes)
        ]

        async def append() -> Any:
            return await self.store.log.append(TENANT, STREAM, events)

        runs = self.run(append())
        return [EventId(first.ms, first.n + at) for first, count in runs for at in range(count)]

    @rule(consumer=CONSUMERS, count=st.integers(1, 9), data=st.data())
    def read(self, consumer: str, count: int, data: st.DataObject) -> None:
        acks = self.draw_tokens(data, 4, "acks")
        marked = tokens.by_fence(acks)[0] if acks else None

        async def call() -> Read:
            return await self.store.groups.read(TENANT, STREAM, GROUP, consumer, count, ack=marked)

        got = self.run(call())
        if acks:
            self.acknowledged(acks, got.acked, got.stale)
        before = len(self.pending) + len(self.ghosts)
        again = self.take_deliveries(got, consumer, SETTINGS.claim_idle_ms)
        fresh = sum(len(run.pieces) for run in got.runs) - again
        waiting = len(self.ids) - self.position + fresh
        held = len(self.pending) - fresh
        least = min(count - again, waiting, SETTINGS.max_pending - held - len(self.ghosts))
        most = min(count - again, waiting, SETTINGS.max_pending - held)
        assert max(0, least) <= fresh <= max(0, most)
        if got.backpressure:
            assert not got.runs
            assert before >= SETTINGS.max_pending
        if again < count:
            assert not self.deliverable(SETTINGS.claim_idle_ms)

    @rule(consumer=CONSUMERS, count=st.integers(1, 9), idle_ms=st.sampled_from([0, 300, 1000]))
    def claim(self, consumer: str, count: int, idle_ms: int) -> None:
        async def call() -> Read:
            return await self.store.groups.claim(TENANT, STREAM, GROUP, consumer, idle_ms, count)

        due = len(self.deliverable(idle_ms))
        got = self.run(call())
        again = self.take_deliveries(got, consumer, idle_ms)
        assert sum(len(run.pieces) for run in got.runs) == again
        assert again == min(count, due)

    @rule(data=st.data(), delay_ms=st.sampled_from([0, 0, 700, 5000]), counts=st.booleans())
    def nack(self, data: st.DataObject, delay_ms: int, counts: bool) -> None:
        texts = self.draw_tokens(data, 4, "tokens")
        if not texts:
            return
        marked, _ = tokens.by_fence(texts)
        good = {text for text in texts if self.is_held(text)}
        done = self.run(
            self.store.groups.nack(
                *(TENANT, STREAM, GROUP, marked),
                delay_ms=delay_ms,
                reason="no",
                counts=counts,
            )
        )
        ghostly = {text for text in texts if self.handed_out[text] in self.ghosts}
        assert len(good) <= done.changed <= len(good) + len(ghostly)
        assert set(texts) - good - ghostly <= set(done.stale) <= set(texts) - good
        dying = 0
        for text in good:
            at = self.handed_out[text]
            held = self.pending[at]
            if counts and held.deliveries >= SETTINGS.max_deliveries:
                self.die(at)
                dying += 1
            else:
                due = self.clock.steady_us + 1000 * delay_ms
                left = held.deliveries - (not counts)
                self.pending[at] = Held(None, due, left, None)
        assert done.dead == dying

    @rule(data=st.data())
    def ack(self, data: st.DataObject) -> None:
        texts = self.draw_tokens(data, 6, "tokens")
        if not texts:
            return

        async def call() -> Any:
            marked, _ = tokens.by_fence(texts)
            return await self.store.groups.ack(TENANT, STREAM, GROUP, marked)

        done = self.run(call())
        self.acknowledged(texts, done.changed, done.stale)

    @rule(data=st.data())
    def ack_by_id(self, data: st.DataObject) -> None:
        if not self.ids:
            return
        chosen = data.draw(
            st.lists(st.integers(0, len(self.ids) - 1), min_size=1, max_size=4, unique=True)
        )

        async def call() -> Any:
            ids = [self.ids[at] for at in chosen]
            return await self.store.groups.ack(TENANT, STREAM, GROUP, {}, ids)

        done = self.run(call())
        good = [at for at in chosen if at in self.pending]
        assert done.changed == len(good)
        assert sorted(done.stale) == sorted(str(self.ids[at]) for at in chosen if at not in good)
        for at in good:
            del self.pending[at]

    @rule(consumer=CONSUMERS)
    def forget_consumer(self, consumer: str) -> None:
        held = [at for at, one in self.pending.items() if one.consumer == consumer]
        released = self.run(self.store.groups.delete_consumer(TENANT, STREAM, GROUP, consumer))
        assert len(held) <= (released or 0) <= len(held) + len(self.ghosts)
        for at in held:
            one = self.pending[at]
            if one.deliveries >= SETTINGS.max_deliveries:
                self.die(at)
                continue
            self.pending[at] = Held(None, self.clock.steady_us, one.deliveries, None)

    @precondition(lambda self: self.dead)
    @rule(data=st.data(), all_of_them=st.booleans())
    def redrive(self, data: st.DataObject, all_of_them: bool) -> None:
        chosen = sorted(self.dead)
        if not all_of_them:
            chosen = data.draw(st.lists(st.sampled_from(chosen), min_size=1, unique=True))
        ids = None if all_of_them else [self.ids[at] for at in chosen]
        done = self.run(self.store.groups.redrive(TENANT, STREAM, GROUP, ids, 100))
        there = [at for at in chosen if at >= self.first]
        assert done.changed == len(there)
        assert sorted(done.stale) == sorted(str(self.ids[at]) for at in chosen if at < self.first)
        for at in there:
            del self.dead[at]
            self.pending[at] = Held(None, self.clock.steady_us, 0, None)

    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        if not self.ids:
            return
        begin = data.draw(st.integers(0, len(self.ids) - 1))
        end = data.draw(st.integers(begin, len(self.ids) - 1))
        count = self.run(
            self.store.groups.redeliver(TENANT, STREAM, GROUP, self.ids[begin], self.ids[end], 1000)
        )
        chosen = range(max(begin, self.first), min(end + 1, self.position))
        fresh = [at for at in chosen if at not in self.pending]
        assert count == len(fresh)
        for at in fresh:
            self.pending[at] = Held(None, self.clock.steady_us, 0, None)
        for at in chosen:
            self.dead.pop(at, None)

    @rule(keep=st.integers(0, 30))
    def trim(self, keep: int) -> None:
        dropped = self.run(self.store.log.trim(TENANT, STREAM, Trim(maxlen=keep)))
        first = max(self.first, len(self.ids) - keep)
        assert dropped == first - self.first
        self.first = first
        self.position = max(self.position, first)
        for at in [at for at in self.pending if at < first]:
            del self.pending[at]
            self.ghosts.add(at)

    @rule(ms=st.sampled_from([1, 400, 999, 1000, 1001, 6000]))
    def pass_time(self, ms: int) -> None:
        self.clock.pass_ms(ms)

    @rule(ms=st.integers(-5000, 5000))
    def set_the_wall_clock(self, ms: int) -> None:
        self.clock.wall_ms += ms

    @rule()
    def sweep(self) -> None:
        self.store.sweep()
        self.look_for_deaths(SETTINGS.claim_idle_ms)
        exhausted = [
            at
            for at, held in self.pending.items()
            if held.deliveries >= SETTINGS.max_deliveries and self.is_due(held, 1000)
        ]
        assert not exhausted

    @rule()
    def restart(self) -> None:
        self.store.restart()

    @rule()
    def clean(self) -> None:
        self.store.clean()

    # ── What is always true ────────────────────────────────────────────────────────────────────

    @invariant()
    def the_store_shows_what_the_model_knows(self) -> None:
        group = self.run(self.store.groups.group(TENANT, STREAM, GROUP))
        if group is None:
            return  # before it was made
        assert group.lag == len(self.ids) - self.position
        live = len(self.pending)
        assert live <= group.pending <= live + len(self.ghosts)
        assert group.dead == len(self.dead)
        listed = self.run(self.store.groups.pending(TENANT, STREAM, GROUP, ZERO, LAST, 10_000))
        assert [(one.id, one.consumer, one.deliveries) for one in listed] == [
            (self.ids[at], self.pending[at].consumer, self.pending[at].deliveries)
            for at in sorted(self.pending)
        ]
        runs = self.run(self.store.log.range(TENANT, STREAM, ZERO, LAST, 10_000))
        events = [event for run in runs for event in run]
        assert [event.id for event in events] == [str(id) for id in self.ids[self.first :]]
        assert [int(event.data) for event in events] == list(range(self.first, len(self.ids)))
        graves = self.run(self.store.log.range(TENANT, f"{STREAM}:dlq", ZERO, LAST, 10_000))
        assert sum(len(run.pieces) for run in graves or ()) == self.deaths

    # ── The model ──────────────────────────────────────────────────────────────────────────────

    def draw_tokens(self, data: st.DataObject, most: int, label: str) -> list[str]:
        if not self.handed_out:
            return []
        # The newest are the likeliest to be good.
        known = list(reversed(self.handed_out))
        chosen: list[str] = data.draw(st.lists(st.sampled_from(known), max_size=most), label)
        return chosen

    def is_held(self, text: str) -> bool:
        held = self.pending.get(self.handed_out[text])
        return held is not None and held.token == text

    def is_due(self, held: Held, idle_ms: int) -> bool:
        if held.consumer is None:
            return held.at_us <= self.clock.steady_us
        return held.at_us <= self.clock.steady_us - 1000 * idle_ms

    def deliverable(self, idle_ms: int) -> list[int]:
        return [
            at
            for at, held in self.pending.items()
            if self.is_due(held, idle_ms) and held.deliveries < SETTINGS.max_deliveries
        ]

    def acknowledged(self, texts: list[str], count: int, stale: Sequence[str]) -> None:
        good = {text for text in texts if self.is_held(text)}
        ghostly = {text for text in texts if self.handed_out[text] in self.ghosts}
        assert len(good) <= count <= len(good) + len(ghostly)
        assert set(texts) - good - ghostly <= set(stale) <= set(texts) - good
        for text in good:
            del self.pending[self.handed_out[text]]

    def take_deliveries(self, got: Read, consumer: str, idle_ms: int) -> int:
        """Check what was delivered; returns how many of it were not new."""
        again = 0
        number = {id: at for at, id in enumerate(self.ids)}
        for run in got.runs:
            for delivery in run.deliveries():
                ms, _, n = delivery.id.partition("-")
                at = number[EventId(int(ms), int(n))]
                assert int(delivery.data) == at
                assert delivery.token not in self.handed_out
                held = self.pending.get(at)
                if held is None:
                    assert at == self.position, "new events come in order, none left out"
                    assert delivery.delivery == 1
                    self.position += 1
                else:
                    assert self.is_due(held, idle_ms), "nobody else holds it"
                    assert delivery.delivery == held.deliveries + 1 <= SETTINGS.max_deliveries
                    assert again == len(self.handed_out) - self._before(got, delivery.token)
                    again += 1
                self.handed_out[delivery.token] = at
                self.pending[at] = Held(
                    consumer,
                    int(delivery.token.partition(".")[0]),
                    delivery.delivery,
                    delivery.token,
                )
        self.look_for_deaths(idle_ms)
        return again

    def _before(self, got: Read, token: str) -> int:
        """How many tokens there were before this call."""
        fence = token.partition(".")[0]
        return sum(text.partition(".")[0] != fence for text in self.handed_out)

    def look_for_deaths(self, idle_ms: int) -> None:
        """Events that were exhausted may be dead now."""
        letters = self.run(self.store.groups.dead(TENANT, STREAM, GROUP, ZERO, 10_000))
        number = {id: at for at, id in enumerate(self.ids)}
        for letter in letters:
            at = number[letter.id]
            if at in self.dead and at not in self.pending:
                continue
            held = self.pending[at]
            assert held.deliveries >= SETTINGS.max_deliveries
            assert letter.deliveries == held.deliveries
            assert self.is_due(held, idle_ms)
            assert int(letter.data) == at
            self.die(at)

    def die(self, at: int) -> None:
        self.dead[at] = self.pending.pop(at).deliveries
        self.deaths += 1


SETTINGS_OF_RUNS = settings(
    max_examples=80,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_groups_in_sqlite() -> None:
    run_state_machine_as_test(GroupMachine, settings=SETTINGS_OF_RUNS)


def test_groups_in_valkey(valkey: ValkeyServer) -> None:
    url = valkey.new_url()

    class ValkeyMachine(GroupMachine):
        def open_store(self) -> OpenStore:
            return ValkeyStore(url, self.clock)

    run_state_machine_as_test(ValkeyMachine, settings=SETTINGS_OF_RUNS)
