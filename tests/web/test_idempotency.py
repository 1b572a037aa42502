"""Idempotency-Key with a clock of the test's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from monolite.errors import Conflict
from monolite.tenancy.principal import Principal
from monolite.tenancy.quotas import RateWindow
from monolite.web.answer import Answer
from monolite.web.call import Call
from monolite.web.idempotency import KEPT_MS, Idempotency, StoredAnswer
from monolite.web.operation import Operation


class FakeClock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000


class InMemory:
    """The engine's contract over a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[tuple[Any, ...], tuple[StoredAnswer, int]] = {}

    async def find(
        self, tenant_id: int, identity: str, operation: str, key: str, now_ms: int
    ) -> StoredAnswer | None:
        found = self.kept.get((tenant_id, identity, operation, key))
        return found[0] if found is not None and found[1] > now_ms else None

    def record(
        self,
        transaction: Any,
        tenant_id: int,
        identity: str,
        operation: str,
        key: str,
        answer: StoredAnswer,
        expires_at_ms: int,
    ) -> None:
        self.kept[tenant_id, identity, operation, key] = (answer, expires_at_ms)

    async def purge(self, now_ms: int, count_max: int) -> int:
        gone = [k for k, (_, expires_at) in self.kept.items() if expires_at <= now_ms][:count_max]
        for key in gone:
            del self.kept[key]
        return len(gone)


async def _unused(call: Call) -> Answer:
    raise AssertionError("the handler is not under test")


OPERATION = Operation(
    "things.make", "POST", "/v1/things", "admin", "Make", _unused, {201: None}, creates=True
)


def call(body: bytes = b"{}") -> Call:
    made = Call(
        OPERATION,
        {"path": "/v1/things", "query_string": b""},
        lambda: asyncio.sleep(0, {}),
        {},
        {},
        "r",
    )
    made.raw = body
    made.principal = Principal(
        tenant_id=1, tenant_name="t", key_id="k", scopes=frozenset(), window=RateWindow(None)
    )
    return made


def run_once(idempotency: Idempotency) -> Call:
    first = call()
    assert asyncio.run(idempotency.replay(first, "key")) is None
    companion = first.companion(lambda _: Answer(201, b"made"))
    assert companion is not None
    companion(None, None)
    idempotency.end(first)
    return first


def test_while_the_first_runs_a_second_is_refused() -> None:
    idempotency = Idempotency(InMemory(), FakeClock())
    first = call()
    assert asyncio.run(idempotency.replay(first, "key")) is None
    with pytest.raises(Conflict) as refused:
        asyncio.run(idempotency.replay(call(), "key"))
    assert refused.value.code == "idempotency_in_progress"
    idempotency.end(first)
    assert asyncio.run(idempotency.replay(call(), "key")) is None


def test_an_answer_is_kept_for_24_hours_and_then_purged() -> None:
    engine, clock = InMemory(), FakeClock()
    idempotency = Idempotency(engine, clock)
    run_once(idempotency)
    assert KEPT_MS == 86_400_000
    clock.ms += KEPT_MS - 1
    replayed = asyncio.run(idempotency.replay(call(), "key"))
    assert replayed is not None
    assert replayed.body == b"made"
    assert asyncio.run(idempotency.purge()) == 0
    clock.ms += 1
    assert asyncio.run(idempotency.replay(call(), "key")) is None
    assert asyncio.run(idempotency.purge()) == 1
    assert not engine.kept
