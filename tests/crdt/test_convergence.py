"""Any interleaving, duplication, loss, delay: what a replica shows follows from what reached it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from monolite.crdt import HybridClock, Rga, Stability, decode, encode
from tests.crdt.models import NAMES, SUBJECTS, Facts, Subject, value_of

who = st.integers(0, len(NAMES) - 1)
some = st.integers(0, 11)


class Replica:
    """A state, the facts it should show, and what it knows of the others."""

    def __init__(self, subject: Subject, name: str, wall: list[int]) -> None:
        self.name = name
        self.state: Any = subject.made()
        self.facts: Facts = frozenset()
        self.clock = HybridClock(name, lambda: wall[0])
        self.stability = Stability()
        for other in NAMES:
            self.stability.report(other, Rga().context, 0)


class Machine(RuleBasedStateMachine):
    """Replicas and every message that was ever sent: one is lost that no rule chooses again."""

    subject: Subject

    @initialize(count=st.integers(2, len(NAMES)))
    def begin(self, count: int) -> None:
        self.wall = [1_000_000]
        self.replicas = [Replica(self.subject, name, self.wall) for name in NAMES[:count]]
        for one in self.replicas:
            one.stability._reports = {
                name: seen for name, seen in one.stability._reports.items() if name in NAMES[:count]
            }
        self.sent: list[tuple[str | None, bytes, Facts]] = []

    def one(self, number: int) -> Replica:
        return self.replicas[number % len(self.replicas)]

    @rule(number=who, a=some, b=some, sent=st.booleans())
    def act(self, number: int, a: int, b: int, sent: bool) -> None:
        one = self.one(number)
        one.facts, delta, added = self._acted(one, a, b)
        if sent:
            self.sent.append((None, encode(delta), frozenset(added)))
        self.check(one)

    def _acted(self, one: Replica, a: int, b: int) -> tuple[Facts, Any, Any]:
        delta, added = self.subject.act(one.state, one.facts, one.name, one.clock, a, b)
        return one.facts | added, delta, added

    @rule(number=who)
    def send_state(self, number: int) -> None:
        one = self.one(number)
        self.sent.append((one.name, encode(one.state), one.facts))

    @rule(number=who, which=st.integers(0, 10_000))
    def deliver(self, number: int, which: int) -> None:
        if self.sent:
            self.receive(self.one(number), self.sent[which % len(self.sent)])

    @rule(number=who, which=st.integers(0, 10_000), more=st.integers(0, 10_000))
    def deliver_joined(self, number: int, which: int, more: int) -> None:
        """Two messages are joined on the way: merging is associative."""
        if self.sent:
            _, first, facts = self.sent[which % len(self.sent)]
            _, second, more_facts = self.sent[more % len(self.sent)]
            joined: Any = decode(first)
            joined.merge(decode(second), self.wall[0])
            self.receive(self.one(number), (None, encode(joined), facts | more_facts))

    @rule(number=who)
    def restart(self, number: int) -> None:
        one = self.one(number)
        data = encode(one.state)
        one.state = decode(data)
        assert encode(one.state) == data
        self.check(one)

    @rule(ms=st.integers(0, 400_000))
    def time_passes(self, ms: int) -> None:
        self.wall[0] += ms

    @rule(number=who)
    def collect(self, number: int) -> None:
        one = self.one(number)
        if isinstance(one.state, Rga):
            one.state.collect(one.stability.stable(one.state.context))
            self.check(one)

    @rule()
    def everyone_hears_everyone(self) -> None:
        for _ in range(2):
            for one in self.replicas:
                for other in self.replicas:
                    self.receive(one, (other.name, encode(other.state), other.facts))

    def receive(self, one: Replica, message: tuple[str | None, bytes, Facts]) -> None:
        sender, data, facts = message
        heard: Any = decode(data)
        before = one.state.copy()
        one.state.merge(heard, self.wall[0])
        one.facts |= facts
        self.check(one)
        merged = encode(one.state)
        one.state.merge(heard, self.wall[0])
        assert encode(one.state) == merged, "merging is idempotent"
        heard.merge(before, self.wall[0])
        assert encode(heard) == merged, "merging is commutative"
        if sender is not None and isinstance(heard, Rga):
            one.stability.report(sender, decode(data).context, 0)  # type: ignore[attr-defined]

    def check(self, one: Replica) -> None:
        assert value_of(one.state) == self.subject.shown(one.facts)

    def teardown(self) -> None:
        if not hasattr(self, "replicas"):
            return
        self.everyone_hears_everyone()
        assert len({encode(one.state) for one in self.replicas}) == 1
        if isinstance(self.replicas[0].state, Rga):
            # One hears that everyone has seen everything; then no tombstone is left.
            for one in self.replicas:
                self.everyone_hears_everyone()
                one.state.collect(one.stability.stable(one.state.context))
                assert one.state.tombstone_count == 0
            self.everyone_hears_everyone()
            assert len({encode(one.state) for one in self.replicas}) == 1


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.made.__name__)
def test_replicas_converge_to_the_model(subject: Subject) -> None:
    machine = type("M", (Machine,), {"subject": subject})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60 if subject.made is Rga else 30,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
