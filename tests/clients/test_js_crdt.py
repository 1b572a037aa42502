"""The replicated types of the TypeScript client beside the Python library: byte for byte."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from monolite.crdt import (
    CrdtError,
    GCounter,
    HybridClock,
    LwwMap,
    LwwRegister,
    OrSet,
    PnCounter,
    Rga,
    Stability,
    State,
    decode,
    encode,
)
from tests.clients.node import CLIENT, Program, run, script
from tests.server_process import ROOT

NOW = 1_700_000_000_000
REPLICAS = ("a", "b", "replica-3")
VALUES: tuple[Any, ...] = (None, True, 1, -7, 0.5, "x", "å𝄞", [1, ["y"]], {"k": {"": 2**53 - 1}})


def test_the_test_vectors() -> None:
    said = run(CLIENT / "test/crdt-vectors.ts", ROOT / "tests/crdt/vectors.json")
    assert all(int(count) > 10 for count in said.split())


class Peer:
    """The other library: what a verb does there must be what it does here."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.refusals: set[str] = set()

    def agrees(self, state: State, verb: str, *arguments: Any) -> State:
        """Call a verb on both sides, compare states and deltas, and return the delta."""
        before = encode(state).hex()
        told = [_told(one) for one in arguments]
        asked = {"state": before, "verb": verb, "arguments": told, "now_ms": NOW}
        answer = json.loads(self._program.ask(json.dumps(asked)))
        given = [HybridClock(one[1], lambda: NOW) if _is_clock(one) else one for one in arguments]
        extra = [NOW] if verb == "merge" else []
        refusal = ""
        try:
            delta = getattr(state, verb)(*given, *extra)
        except CrdtError as error:
            refusal = type(error).__name__
        if refusal:
            self.refusals.add(refusal)
            assert answer == {"error": refusal}
            return type(state)()
        made = "" if delta is None else encode(delta).hex()
        assert answer == {"state": encode(state).hex(), "delta": made}, (verb, arguments)
        return type(state)() if delta is None else delta


def _is_clock(one: Any) -> bool:
    return isinstance(one, tuple)


def _told(one: Any) -> Any:
    if _is_clock(one):
        return {"clock": one[1]}
    return {"state": encode(one).hex()} if hasattr(one, "KIND") else one


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with script(CLIENT / "test/crdt-peer.ts") as program:
        yield Peer(program)


def change(peer: Peer, chance: random.Random, state: State, replica: str) -> State:
    """One verb by chance, on both sides; returns the delta."""
    value = chance.choice(VALUES)
    clock = ("clock", replica)
    if isinstance(state, LwwRegister):
        return peer.agrees(state, "assign", value, clock)
    if isinstance(state, GCounter):
        return peer.agrees(state, "increment", replica, chance.choice((1, 127, 1 << 40)))
    if isinstance(state, PnCounter):
        verb = chance.choice(("increment", "decrement"))
        return peer.agrees(state, verb, replica, chance.randint(1, 300))
    if isinstance(state, OrSet):
        if chance.random() < 0.4:
            return peer.agrees(state, "remove", value)
        return peer.agrees(state, "add", value, replica)
    if isinstance(state, Rga):
        length = len(state)
        if length and chance.random() < 0.4:
            at = chance.randrange(length)
            count = chance.randint(1, min(3, length - at))
            return peer.agrees(state, "delete", at, replica, count)
        values = chance.choice(("hello", "å𝄞!", [1, None], ["x", "yz"]))
        return peer.agrees(state, "insert", chance.randint(0, length), values, replica)
    assert isinstance(state, LwwMap)
    key = chance.choice(("k", "å", "𝄞", "\uffee"))
    if chance.random() < 0.3:
        return peer.agrees(state, "remove", key, clock)
    inner = chance.choice((LwwRegister, OrSet, Rga, LwwMap))()
    return peer.agrees(state, "assign", key, inner, clock)


@pytest.mark.parametrize("kind", [LwwRegister, GCounter, PnCounter, OrSet, Rga, LwwMap])
@pytest.mark.parametrize("seed", range(4))
def test_verbs_and_merges_are_the_same_in_both(kind: type[Any], seed: int, peer: Peer) -> None:
    chance = random.Random(seed)
    replicas = {name: kind() for name in REPLICAS}
    deltas: list[State] = []
    for _ in range(60):
        name = chance.choice(REPLICAS)
        if chance.random() < 0.6:
            deltas.append(change(peer, chance, replicas[name], name))
        elif deltas and chance.random() < 0.7:
            # Any delta, in any order, as often as it comes.
            peer.agrees(replicas[name], "merge", chance.choice(deltas))
        else:
            peer.agrees(replicas[name], "merge", replicas[chance.choice(REPLICAS)].copy())


def test_sequences_that_were_collected_merge_the_same(peer: Peer) -> None:
    peer.refusals.clear()
    for seed in range(8):
        _collect_and_merge(random.Random(seed), peer)
    assert peer.refusals == {"StaleError"}


def _collect_and_merge(chance: random.Random, peer: Peer) -> None:
    replicas = {name: Rga() for name in REPLICAS}
    for step in range(80):
        name = chance.choice(REPLICAS)
        if chance.random() < 0.6:
            change(peer, chance, replicas[name], name)
        else:
            peer.agrees(replicas[name], "merge", replicas[chance.choice(REPLICAS)].copy())
        if step % 20 == 19:
            stability = Stability()
            for other, state in replicas.items():
                stability.report(other, state.context, NOW)
            # One collects what all have seen; one that was not waited for may be stale then.
            if chance.random() < 0.5:
                stability.prune(NOW + 1)
                stability.report(name, replicas[name].context, NOW)
            replicas[name].collect(stability.stable(replicas[name].context))
    for one in replicas.values():
        for other in replicas.values():
            peer.agrees(decode(encode(one)), "merge", other.copy())


def test_refusals_are_the_same_in_both(peer: Peer) -> None:
    peer.refusals.clear()
    first, second = LwwRegister(), LwwRegister()
    first.assign(1, HybridClock("a", lambda: NOW))
    second.assign(2, HybridClock("a", lambda: NOW))
    peer.agrees(first, "merge", second)
    ahead = LwwRegister()
    ahead.assign(1, HybridClock("b", lambda: NOW + 301_000))
    peer.agrees(first, "merge", ahead)
    one, other = OrSet(), OrSet()
    one.add("x", "a")
    other.add("y", "a")
    peer.agrees(one, "merge", other)
    peer.agrees(GCounter(), "increment", "no spaces", 1)
    peer.agrees(GCounter(), "increment", "a", 0)
    assert peer.refusals == {"ConflictError", "AheadError", "CrdtError"}
