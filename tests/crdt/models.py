"""Each type beside a slow and obvious model of it, under one pair of verbs: act and join.

A model is a set of facts; two models join by union. What a replica shows must be what follows from
the facts that reached it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from monolite.crdt import (
    GCounter,
    HybridClock,
    LwwMap,
    LwwRegister,
    OrSet,
    PnCounter,
    Rga,
    VectorClock,
)

Facts = frozenset[Any]
NAMES = ("a", "b", "c", "d", "e", "f", "g")
LETTERS = "xyzuvwå𝄞"


class Subject:
    """One type. `act` does something to a state and says which facts that adds."""

    made: ClassVar[type]

    def act(self, state: Any, facts: Facts, who: str, clock: HybridClock, a: int, b: int) -> Any:
        raise NotImplementedError

    def shown(self, facts: Facts) -> Any:
        raise NotImplementedError


class GCounters(Subject):
    made = GCounter

    def act(self, state, facts, who, clock, a, b):
        total = sum(n for _, name, n in _highest(facts) if name == who) + a + 1
        return state.increment(who, a + 1), {("up", who, total)}

    def shown(self, facts):
        return sum(n for _, _, n in _highest(facts))


class PnCounters(Subject):
    made = PnCounter

    def act(self, state, facts, who, clock, a, b):
        way = "up" if b % 2 else "down"
        total = sum(n for w, name, n in _highest(facts) if (w, name) == (way, who)) + a + 1
        change = state.increment if b % 2 else state.decrement
        return change(who, a + 1), {(way, who, total)}

    def shown(self, facts):
        return sum(n if way == "up" else -n for way, _, n in _highest(facts))


class VectorClocks(Subject):
    made = VectorClock

    def act(self, state, facts, who, clock, a, b):
        return state.increment(who), {("up", who, state[who])}

    def shown(self, facts):
        return VectorClock({name: n for _, name, n in _highest(facts)})


def _highest(facts):
    highest = {}
    for way, name, n in facts:
        highest[way, name] = max(n, highest.get((way, name), 0))
    return [(way, name, n) for (way, name), n in highest.items()]


class Registers(Subject):
    made = LwwRegister

    def act(self, state, facts, who, clock, a, b):
        delta = state.assign([a, b], clock)
        return delta, {(state.stamp, a, b)}

    def shown(self, facts):
        return list(max(facts)[1:]) if facts else None


class OrSets(Subject):
    """Additions with a tag each; a removal names the tags it saw."""

    made = OrSet

    def act(self, state, facts, who, clock, a, b):
        element = LETTERS[a % 4]
        alive = {fact for fact in _alive(facts) if fact[1] == element}
        gone = {("gone", *fact[1:]) for fact in alive}
        if b % 3 == 0:
            return state.remove(element), gone
        tag = (who, sum(fact[0] == "add" and fact[2][0] == who for fact in facts))
        return state.add(element, who), gone | {("add", element, tag)}

    def shown(self, facts):
        return sorted({fact[1] for fact in _alive(facts)}, key=lambda e: (len(e.encode()), e))


def _alive(facts):
    return {fact for fact in facts if fact[0] == "add" and ("gone", *fact[1:]) not in facts}


class Sequences(Subject):
    """Insertions as a tree: children by stamp downwards, read in depth-first order."""

    made = Rga

    def act(self, state, facts, who, clock, a, b):
        alive = [fact for fact in ordered(facts) if ("gone", fact[1]) not in facts]
        assert len(alive) == len(state)
        if b % 3 == 0 and alive:
            at = a % len(alive)
            count = min(1 + b % 2, len(alive) - at)
            delta = state.delete(at, who, count)
            return delta, {("gone", fact[1]) for fact in alive[at : at + count]}
        at = a % (len(alive) + 1)
        stamp = max((fact[1][0] for fact in facts if fact[0] == "put"), default=0)
        parent = alive[at - 1][1] if at else None
        values = [LETTERS[(a + step) % len(LETTERS)] for step in range(1 + b % 3)]
        added = set()
        for value in values:
            stamp += 1
            added.add(("put", (stamp, who), parent, value))
            parent = (stamp, who)
        return state.insert(at, values, who), added

    def shown(self, facts):
        return [fact[3] for fact in ordered(facts) if ("gone", fact[1]) not in facts]


def ordered(facts):
    children = {}
    for fact in facts:
        if fact[0] == "put":
            children.setdefault(fact[2], []).append(fact)
    found, left = [], sorted(children.get(None, ()), key=lambda fact: fact[1])
    while left:
        found.append(left.pop())
        left += sorted(children.get(found[-1][1], ()), key=lambda fact: fact[1])
    return found


class Maps(Subject):
    """Assigned registers, removals, and counters and sets that all replicas ensure."""

    made = LwwMap

    def act(self, state, facts, who, clock, a, b):
        if b % 5 == 0:
            key = "r" + str(a % 2)
            delta = state.remove(key, clock)
            return delta, {("life", key, delta._lives[key][0], None)}
        if b % 5 in (1, 2):
            key = "r" + str(a % 2)
            register = LwwRegister()
            register.assign(a, clock)
            delta = state.assign(key, register, clock)
            return delta, {("life", key, delta._lives[key][0], a)}
        if b % 5 == 3:
            return state.delta("n", state.ensure("n", GCounter, clock).increment(who)), {
                ("up", who, state.get("n")._counts[who])
            }
        return state.delta("s", state.ensure("s", OrSet, clock).add(a % 5, who)), {("in", a % 5)}

    def shown(self, facts):
        shown = {}
        for key in ("r0", "r1"):
            lives = [fact[2:] for fact in facts if fact[:2] == ("life", key)]
            if lives and max(lives, key=lambda life: life[0])[1] is not None:
                shown[key] = max(lives, key=lambda life: life[0])[1]
        counts = [fact for fact in facts if fact[0] == "up"]
        if counts:
            shown["n"] = sum(n for _, _, n in _highest(counts))
        inside = sorted(fact[1] for fact in facts if fact[0] == "in")
        return shown | ({"s": inside} if inside else {})


SUBJECTS = (
    GCounters(), PnCounters(), VectorClocks(), Registers(), OrSets(), Sequences(), Maps(),
)  # fmt: skip


def value_of(state: Any) -> Any:
    return state if isinstance(state, VectorClock) else state.value
