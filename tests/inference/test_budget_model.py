"""Budgets on SQLite against a model, with a clock of its own: concurrency, crashes, leases."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from monolite.inference.routing.budget import (
    INSTALLATION,
    CloudCall,
    Limits,
    Outcome,
    Reserved,
    Spent,
    date_of,
)
from monolite.inference.routing.sqlite import SqliteBudgetEngine
from monolite.storage.sqlite.connection import open_reader, open_writer
from monolite.storage.sqlite.migrate import create_database
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.schema import shipped_schema
from monolite.storage.sqlite.writer import Writer

TENANTS = (1, 2)
LIMITS, TOTAL = Limits(1000, 500), Limits(1500, None)
LEASE_MS = 60_000
KEPT_MS = 3 * 86_400_000
AMOUNTS = strategies.integers(1, 400)


@dataclass
class Open:
    """A call under way, with what it reserved."""

    tenant: int
    day: str
    tokens: int
    micros: int
    lease_until: int


class BudgetMachine(RuleBasedStateMachine):
    """Calls reserve, settle, or are forgotten by a server that dies."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "monolite.db"
        create_database(self.path, schema=shipped_schema(), now_ms=1)
        self.loop = asyncio.new_event_loop()
        self.now = 10 * 86_400_000
        self.numbers = itertools.count(1)
        self.open_calls: dict[str, Open] = {}
        self.spent_tokens: Counter[tuple[int, str]] = Counter()
        self.spent_micros: Counter[tuple[int, str]] = Counter()
        self.warned: set[tuple[int, str]] = set()
        self.open()

    def open(self) -> None:
        async def opened() -> None:
            self.writer = Writer(
                lambda: open_writer(self.path, synchronous="normal", autocheckpoint=True),
                loop=self.loop,
                commit_on_loop=True,
            )
            self.writer.start()
            self.readers = Readers(lambda: open_reader(self.path), loop=self.loop)
            self.engine = SqliteBudgetEngine(self.writer, self.readers)

        self.loop.run_until_complete(opened())

    def close(self) -> None:
        self.loop.run_until_complete(self.writer.close())
        self.loop.run_until_complete(self.readers.close())

    def teardown(self) -> None:
        self.close()
        self.loop.close()
        self.folder.cleanup()

    def run(self, *awaitables: Any) -> list[Any]:
        async def gathered() -> list[Any]:
            return list(await asyncio.gather(*awaitables))

        return self.loop.run_until_complete(gathered())

    @property
    def day(self) -> str:
        return date_of(self.now)

    def call(self, tokens: int, micros: int) -> CloudCall:
        return CloudCall(
            id=f"{next(self.numbers):08}",
            at=self.now,
            day=self.day,
            total_day=self.day,
            key_id="k",
            subject=None,
            privacy="public",
            tier="basic",
            reason="tier_above_local",
            provider="openai",
            model="m",
            prompt_hash=b"h",
            reserved_tokens=tokens,
            reserved_micros=micros,
            lease_until=self.now + LEASE_MS,
        )

    def reserved(self, tenant: int | None, of: str) -> int:
        return sum(
            getattr(one, of)
            for one in self.open_calls.values()
            if one.day == self.day and tenant in (None, one.tenant)
        )

    def spend(self, tenant: int, day: str, tokens: int, micros: int) -> None:
        for number in (tenant, INSTALLATION):
            self.spent_tokens[number, day] += tokens
            self.spent_micros[number, day] += micros

    # ── Rules ──────────────────────────────────────────────────────────────────────────────────

    @rule(wanted=strategies.lists(strategies.tuples(strategies.sampled_from(TENANTS), AMOUNTS,
          strategies.integers(0, 200)), min_size=1, max_size=12))  # fmt: skip
    def reserve_at_once(self, wanted: list[tuple[int, int, int]]) -> None:
        calls = [(tenant, self.call(tokens, micros)) for tenant, tokens, micros in wanted]
        answers = self.run(
            *(self.engine.reserve(tenant, call, LIMITS, TOTAL) for tenant, call in calls)
        )
        for (tenant, call), answer in zip(calls, answers, strict=True):
            tokens, micros, where = call.reserved_tokens, call.reserved_micros, (tenant, self.day)
            taken = self.spent_tokens[where] + self.reserved(tenant, "tokens")
            cost = self.spent_micros[where] + self.reserved(tenant, "micros")
            total = self.spent_tokens[INSTALLATION, self.day] + self.reserved(None, "tokens")
            if taken + tokens > 1000 or cost + micros > 500:
                assert answer == Spent("tenant")
            elif total + tokens > 1500:
                assert answer == Spent("installation")
            else:
                is_near = taken + tokens >= 800 or cost + micros >= 400
                assert answer == Reserved(is_warning=is_near and where not in self.warned)
                if is_near:
                    self.warned.add(where)
                made = Open(tenant, self.day, tokens, micros, call.lease_until)
                self.open_calls[call.id] = made

    @precondition(lambda self: self.open_calls)
    @rule(
        data=strategies.data(),
        outcome=strategies.sampled_from(["answered", "cut_off", "failed"]),
        twice=strategies.booleans(),
    )
    def settle(self, data: Any, outcome: Outcome, twice: bool) -> None:
        id = data.draw(strategies.sampled_from(sorted(self.open_calls)))
        one = self.open_calls.pop(id)
        tokens = data.draw(strategies.integers(0, one.tokens))
        micros = data.draw(strategies.integers(0, one.micros))
        for _ in range(1 + twice):
            self.run(self.engine.settle(one.tenant, id, outcome, tokens, 0, micros))
        self.spend(one.tenant, one.day, tokens, micros)

    @rule(milliseconds=strategies.sampled_from([1000, LEASE_MS // 2, LEASE_MS, 86_400_000]))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds

    @rule()
    def sweep(self) -> None:
        self.run(self.engine.sweep(self.now, KEPT_MS))
        for id, one in list(self.open_calls.items()):
            if one.lease_until <= self.now:
                del self.open_calls[id]
                self.spend(one.tenant, one.day, one.tokens, one.micros)

    @rule()
    def crash_and_restart(self) -> None:
        """What is under way is never settled by who began it; the rest is as it was."""
        self.close()
        self.open()

    # ── Invariants ─────────────────────────────────────────────────────────────────────────────

    @invariant()
    def days_are_as_modelled(self) -> None:
        for tenant in (*TENANTS, INSTALLATION):
            (balance,) = self.run(self.engine.balance(tenant, self.day, self.now))
            own = None if tenant == INSTALLATION else tenant
            assert balance.tokens == self.spent_tokens[tenant, self.day]
            assert balance.micros == self.spent_micros[tenant, self.day]
            assert balance.reserved_tokens == self.reserved(own, "tokens")
            assert balance.reserved_micros == self.reserved(own, "micros")
            limits = TOTAL if tenant == INSTALLATION else LIMITS
            assert balance.tokens + balance.reserved_tokens <= (limits.tokens or 0)


BudgetMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestBudgets = BudgetMachine.TestCase
