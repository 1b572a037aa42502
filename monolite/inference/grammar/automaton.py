"""Where a text stands in a grammar: every reading of it at once, one byte at a time.

A reading is a state and what to return to when its rule ends. Readings share what they return to
(Tomita's graph-structured stack, 1985), and equal ones are one object, so that an ambiguous grammar
costs as many places as it has states and not as it has readings:

    Place   entries: state ──► Returns      is_whole: a reading is at its end
    Returns          state ──► Returns      bottom: nothing to return to, the root's end

Places are made when they are first stood in, and kept: a byte's way from a known one is a look into
a dictionary. What has no end that the alphabet can write is never entered, so a place that exists
leads to an end.
"""

from __future__ import annotations

import threading

from monolite.inference.grammar.errors import NotEnforceable
from monolite.inference.grammar.machine import ALPHABET, INFINITE, Machine

DEPTH_MAX = 384
"""Rules within rules; deeper ones are not entered."""

SHORTEST_MAX = 65_536
"""Bytes of the shortest text."""

ENTRIES_MAX = 2_000
PLACES_MAX = 20_000
"""Places kept; beyond, all are forgotten and made anew as needed."""


class Returns:
    """What to return to: states by what lies below each. Equal ones are the same object."""

    __slots__ = ("bottom", "cost", "depth", "entries", "number", "popped")

    def __init__(
        self, number: int, entries: dict[int, Returns], bottom: bool, depth: int, cost: int
    ) -> None:
        self.number = number
        self.entries = entries
        self.bottom = bottom
        self.depth = depth
        self.cost = cost
        self.popped: tuple[list[tuple[int, Returns]], bool] | None = None


class Place:
    """Where a text stands. `following` is by byte, None where there is no way."""

    __slots__ = ("cost", "depth", "entries", "following", "is_whole", "row")

    def __init__(self, entries: tuple[tuple[int, Returns], ...], is_whole: bool, cost: int) -> None:
        self.entries = entries
        self.is_whole = is_whole
        self.cost = cost
        self.following: dict[int, Place | None] = {}
        self.depth = max((below.depth for _, below in entries), default=0)
        self.row = -1


class Automaton:
    """A machine, walked lazily. `alphabet` is the bytes that can be written.

    Not for two threads at once: `lock` is taken by who calls.

    Raises:
        NotEnforceable: no text of the alphabet matches, or there are too many readings.
    """

    def __init__(self, machine: Machine, alphabet: frozenset[int]) -> None:
        self.machine = machine
        self.alphabet = alphabet
        self.lock = threading.RLock()
        self.costs = machine.shortest if alphabet == ALPHABET else machine.costs(alphabet)
        if self.costs[machine.root] >= INFINITE:
            raise NotEnforceable("root", "no text matches it")
        self._closures: dict[int, tuple[list[tuple[int, tuple[int, ...]]], bool]] = {}
        self._is_tail = [
            accepting and not (edges or empties or calls)
            for accepting, edges, empties, calls in zip(
                machine.accepting, machine.edges, machine.empties, machine.calls, strict=True
            )
        ]
        self._number = 0
        self._returns: dict[tuple[bool, tuple[tuple[int, int], ...]], Returns] = {}
        self._unions: dict[tuple[int, int], Returns] = {}
        self._places: dict[tuple[bool, tuple[tuple[int, int], ...]], Place] = {}
        self.bottom = self._interned({}, True)
        self.start = self.place_at(machine.root, self.bottom)
        if self.start.cost and self.shortest(self.start, SHORTEST_MAX) is None:
            raise NotEnforceable(
                "root",
                f"its shortest text has over {SHORTEST_MAX} bytes, or rules over {DEPTH_MAX} deep",
            )

    def step(self, place: Place, byte: int) -> Place | None:
        """The place behind one more byte, None where the grammar has no such text."""
        try:
            return place.following[byte]
        except KeyError:
            found = place.following[byte] = self._step(place, byte)
            return found

    def walk(self, place: Place, text: bytes) -> Place | None:
        """The place behind more bytes."""
        for byte in text:
            following = self.step(place, byte)
            if following is None:
                return None
            place = following
        return place

    def place_at(self, state: int, below: Returns) -> Place:
        """The place of one state, whatever it returns to."""
        return self._place(*self._expanded([(state, below)]))

    def place_behind(self, below: Returns) -> Place:
        """The place after the rule above these has ended."""
        return self._place(*self._popped(below))

    def next_bytes(self, place: Place) -> set[int]:
        """The bytes that may follow."""
        machine = self.machine
        return {
            byte
            for state, _ in place.entries
            for low, high, target in machine.edges[state]
            if self.costs[target] < INFINITE
            for byte in range(low, high + 1)
            if byte in self.alphabet
        }

    def shortest(self, place: Place, bytes_max: int) -> bytes | None:
        """The fewest bytes to an end, the lowest of several; None where it takes more."""
        if place.cost > bytes_max:
            return None
        found = bytearray()
        while place.cost:
            for byte in sorted(self.next_bytes(place)):
                following = self.step(place, byte)
                if following is not None and following.cost < place.cost:
                    found.append(byte)
                    place = following
                    break
            else:
                return None  # deeper than DEPTH_MAX
        return bytes(found)

    # ── Making places ──────────────────────────────────────────────────────────────────────────

    def _step(self, place: Place, byte: int) -> Place | None:
        if byte not in self.alphabet:
            return None
        edges = self.machine.edges
        reached = [
            (target, below)
            for state, below in place.entries
            for low, high, target in edges[state]
            if low <= byte <= high and self.costs[target] < INFINITE
        ]
        if not reached:
            return None
        entries, is_whole = self._expanded(reached)
        if not entries and not is_whole:
            return None
        return self._place(entries, is_whole)

    def _place(self, entries: list[tuple[int, Returns]], is_whole: bool) -> Place:
        merged: dict[int, Returns] = {}
        for state, below in entries:
            known = merged.get(state)
            merged[state] = below if known is None else self._union(known, below)
        if len(merged) > ENTRIES_MAX:
            raise NotEnforceable("grammar", "a text of it has too many readings")
        ordered = tuple(sorted(merged.items()))
        key = (is_whole, tuple((state, below.number) for state, below in ordered))
        found = self._places.get(key)
        if found is None:
            if len(self._places) >= PLACES_MAX:
                self._forget()
            cost = min((self.costs[state] + below.cost for state, below in ordered), default=0)
            found = self._places[key] = Place(ordered, is_whole, 0 if is_whole else cost)
        return found

    def _forget(self) -> None:
        """What is in use stays alive through its users; the rest goes."""
        for place in self._places.values():
            place.following = {}
        self._places = {}
        self._returns = {}
        self._unions = {}

    def _expanded(
        self, reached: list[tuple[int, Returns]]
    ) -> tuple[list[tuple[int, Returns]], bool]:
        """The states with bytes to wait for, behind calls and returns; and whether it may end."""
        found: list[tuple[int, Returns]] = []
        is_whole = False
        for state, below in reached:
            inside, pops = self._closure(state)
            for inner, path in inside:
                onto: Returns | None = below
                for one in path:
                    onto = self._pushed(one, onto) if onto is not None else None
                if onto is not None:
                    found.append((inner, onto))
            if pops:
                behind, may_end = self._popped(below)
                found.extend(behind)
                is_whole = is_whole or may_end
        if len(found) > 20 * ENTRIES_MAX:
            raise NotEnforceable("grammar", "a text of it has too many readings")
        return found, is_whole

    def _popped(self, below: Returns) -> tuple[list[tuple[int, Returns]], bool]:
        todo = [below]
        while below.popped is None:
            one = todo[-1]
            # What is popped in turn comes first, so that no recursion is deep.
            inner = [
                further
                for state, further in one.entries.items()
                if further.popped is None and self._closure(state)[1]
            ]
            if inner:
                todo.extend(inner)
                continue
            todo.pop()
            entries, is_whole = self._expanded(list(one.entries.items()))
            one.popped = list(dict.fromkeys(entries)), is_whole or one.bottom
        return below.popped

    def _closure(self, state: int) -> tuple[list[tuple[int, tuple[int, ...]]], bool]:
        """What is reached without a byte: states with what they push, and the rule's end."""
        known = self._closures.get(state)
        if known is not None:
            return known
        machine, costs = self.machine, self.costs
        found: list[tuple[int, tuple[int, ...]]] = []
        pops = False
        seen: set[tuple[int, tuple[int, ...]]] = {(state, ())}
        todo: list[tuple[int, tuple[int, ...]]] = [(state, ())]
        while todo:
            at, path = todo.pop()
            if costs[at] >= INFINITE:
                continue
            if machine.edges[at]:
                found.append((at, path))
            following: list[tuple[int, tuple[int, ...]]] = []
            if machine.accepting[at]:
                if path:
                    following.append((path[-1], path[:-1]))
                else:
                    pops = True
            following.extend((one, path) for one in machine.empties[at])
            for rule, target in machine.calls[at]:
                if costs[target] < INFINITE:
                    # A call that is the last of its rule returns to where that would.
                    onto = path if self._is_tail[target] else (*path, target)
                    following.append((machine.starts[rule], onto))
            for one in following:
                if one not in seen:
                    seen.add(one)
                    todo.append(one)
            if len(seen) > 10 * ENTRIES_MAX:
                raise NotEnforceable("grammar", "a text of it has too many readings")
        self._closures[state] = found, pops
        return found, pops

    # ── What to return to ──────────────────────────────────────────────────────────────────────

    def _pushed(self, state: int, below: Returns) -> Returns | None:
        if below.depth >= DEPTH_MAX:
            return None
        return self._interned({state: below}, False)

    def _union(self, left: Returns, right: Returns) -> Returns:
        if left is right:
            return left
        key = (min(left.number, right.number), max(left.number, right.number))
        found = self._unions.get(key)
        if found is None:
            entries = dict(left.entries)
            for state, below in right.entries.items():
                known = entries.get(state)
                entries[state] = below if known is None else self._union(known, below)
            found = self._interned(entries, left.bottom or right.bottom)
            self._unions[key] = found
        return found

    def _interned(self, entries: dict[int, Returns], bottom: bool) -> Returns:
        key = (bottom, tuple(sorted((state, one.number) for state, one in entries.items())))
        found = self._returns.get(key)
        if found is None:
            self._number += 1
            depth = 1 + max((one.depth for one in entries.values()), default=0)
            costs = [self.costs[state] + one.cost for state, one in entries.items()]
            cost = 0 if bottom else min(costs)
            found = self._returns[key] = Returns(self._number, entries, bottom, depth, cost)
        return found
