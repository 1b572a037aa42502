"""A grammar as one machine a rule: states, bytes that lead from one to the next, calls of rules.

    state ──bytes low..high──► state
          ──nothing──────────► state
          ──a rule, then─────► state          accepting: the rule is at its end

Woods 1970 calls it a recursive transition network. Which states are stood in, with what to return
to, is automaton.py's.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from monolite.inference.grammar.errors import NotEnforceable
from monolite.inference.grammar.expression import (
    Call,
    Chain,
    Characters,
    Choice,
    Expression,
    Grammar,
    Repeat,
    Text,
)
from monolite.inference.grammar.utf8 import ByteRanges, byte_ranges

STATES_MAX = 50_000
STEPS_MAX = 1_000_000
DEPTH_MAX = 400

INFINITE = 1 << 60
ALPHABET = frozenset(range(256))


@dataclass(frozen=True, slots=True)
class Copies:
    """A part built `count` times, block i in states first + i * size up to the next.

    The state that a block begins with is reached when i + 1 of them are done.
    """

    first: int
    size: int
    count: int
    least: int
    most: int | None


class Machine:
    """The states of a grammar. Lists have an element a state.

    Raises:
        NotEnforceable: left recursion, too many states, or nothing matches.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.edges: list[list[tuple[int, int, int]]] = []
        self.empties: list[list[int]] = []
        self.calls: list[list[tuple[int, int]]] = []
        self.accepting: list[bool] = []
        self.copies: list[Copies] = []
        self._steps = 0
        self._numbers = {name: number for number, name in enumerate(grammar.rules)}
        self.starts = [self._state() for _ in grammar.rules]
        for name, expression in grammar.rules.items():
            end = self._state()
            self.accepting[end] = True
            self._build(expression, self.starts[self._numbers[name]], end, 0)
        self.root = self.starts[self._numbers[grammar.root]]
        self.shortest = self.costs(ALPHABET)
        self._refuse_left_recursion(list(grammar.rules))

    def costs(self, alphabet: frozenset[int]) -> list[int]:
        """The fewest bytes of the alphabet from each state to its rule's end; or INFINITE.

        Dijkstra's algorithm as Knuth 1977 generalized it to grammars.
        """
        count = len(self.edges)
        cost = [INFINITE] * count
        settled = [False] * count
        before: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        waiting: list[list[tuple[int, int, int]]] = [[] for _ in range(count)]
        ordered = sorted(alphabet)
        for state in range(count):
            for low, high, target in self.edges[state]:
                if _any_between(ordered, low, high):
                    before[target].append((state, 1))
            for target in self.empties[state]:
                before[target].append((state, 0))
            for rule, target in self.calls[state]:
                waiting[self.starts[rule]].append((state, self.starts[rule], target))
                if target != self.starts[rule]:
                    waiting[target].append((state, self.starts[rule], target))
        heap = [(0, state) for state in range(count) if self.accepting[state]]
        while heap:
            found, state = heapq.heappop(heap)
            if settled[state]:
                continue
            settled[state] = True
            cost[state] = found
            for source, more in before[state]:
                if not settled[source]:
                    heapq.heappush(heap, (found + more, source))
            for source, start, target in waiting[state]:
                if settled[start] and settled[target] and not settled[source]:
                    heapq.heappush(heap, (cost[start] + cost[target], source))
        return cost

    # ── Building ───────────────────────────────────────────────────────────────────────────────

    def _state(self) -> int:
        if len(self.edges) >= STATES_MAX:
            raise NotEnforceable("grammar", f"it needs more than {STATES_MAX} states")
        self.edges.append([])
        self.empties.append([])
        self.calls.append([])
        self.accepting.append(False)
        return len(self.edges) - 1

    def _step(self, depth: int) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise NotEnforceable("grammar", "its repetitions multiply to more than can be built")
        if depth > DEPTH_MAX:
            raise NotEnforceable("grammar", f"its parts lie in each other over {DEPTH_MAX} deep")

    def _build(self, expression: Expression, start: int, end: int, depth: int) -> None:
        self._step(depth)
        match expression:
            case Text(value):
                self._text(value, start, end)
            case Characters(ranges):
                self._sequences(byte_ranges(ranges), start, end)
            case Call(rule):
                self.calls[start].append((self._numbers[rule], end))
            case Chain(parts):
                for part in parts[:-1]:
                    between = self._state()
                    self._build(part, start, between, depth + 1)
                    start = between
                if parts:
                    self._build(parts[-1], start, end, depth + 1)
                else:
                    self.empties[start].append(end)
            case Choice(options):
                self._texts([one.value for one in options if isinstance(one, Text)], start, end)
                for one in options:
                    if not isinstance(one, Text):
                        self._build(one, start, end, depth + 1)
            case Repeat():
                self._repeat(expression, start, end, depth)

    def _text(self, value: bytes, start: int, end: int) -> None:
        if not value:
            self.empties[start].append(end)
            return
        for byte in value[:-1]:
            following = self._state()
            self.edges[start].append((byte, byte, following))
            start = following
        self.edges[start].append((value[-1], value[-1], end))

    def _texts(self, values: list[bytes], start: int, end: int) -> None:
        """All of them at once, beginnings that are alike shared."""
        known: dict[bytes, int] = {b"": start}
        for value in sorted(set(values)):
            self._step(0)
            at = max(len(value) - 1, 0)
            while value[:at] not in known:
                at -= 1
            place = known[value[:at]]
            for position in range(at, len(value) - 1):
                following = self._state()
                self.edges[place].append((value[position], value[position], following))
                place = known[value[: position + 1]] = following
            if value:
                self.edges[place].append((value[-1], value[-1], end))
            else:
                self.empties[start].append(end)

    def _sequences(self, sequences: Iterable[ByteRanges], start: int, end: int) -> None:
        """Ends that are alike are shared."""
        endings: dict[ByteRanges, int] = {(): end}
        for sequence in sequences:
            self._step(0)
            for at in range(len(sequence) - 1, 0, -1):
                if sequence[at:] not in endings:
                    state = endings[sequence[at:]] = self._state()
                    low, high = sequence[at]
                    self.edges[state].append((low, high, endings[sequence[at + 1 :]]))
            low, high = sequence[0]
            self.edges[start].append((low, high, endings[sequence[1:]]))

    def _repeat(self, repeat: Repeat, start: int, end: int, depth: int) -> None:
        part, least, most = repeat.part, repeat.least, repeat.most
        if _may_be_empty(part):
            least = 0  # the same texts, and no chain of empty ones to follow
        count = least if most is None else most
        first = size = len(self.edges)
        for done in range(count):
            if done >= least:
                self.empties[start].append(end)
            following = self._state()
            self._build(part, start, following, depth + 1)
            if done == 0:
                size = len(self.edges) - first
            start = following
        if count > 1:
            self.copies.append(Copies(first, size, count, least, most))
        if most is None:
            loop = self._state()
            self.empties[start].append(loop)
            self._build(part, loop, loop, depth + 1)
            start = loop
        self.empties[start].append(end)

    # ── Left recursion ─────────────────────────────────────────────────────────────────────────

    def _refuse_left_recursion(self, names: list[str]) -> None:
        nullable = [self.shortest[start] == 0 for start in self.starts]
        first = [self._called_first(start, nullable) for start in self.starts]
        done = [0] * len(names)  # 1: on the path, 2: behind
        for origin in range(len(names)):
            path: list[int] = []
            todo = [(origin, False)]
            while todo:
                rule, is_left = todo.pop()
                if is_left:
                    done[rule] = 2
                    path.pop()
                    continue
                if done[rule] == 1:
                    circle = [*path[path.index(rule) :], rule]
                    shown = " → ".join(names[one] for one in circle[:8])
                    raise NotEnforceable(f"rule {names[rule]}", f"left recursion ({shown})")
                if done[rule] == 2:
                    continue
                done[rule] = 1
                path.append(rule)
                todo.append((rule, True))
                todo.extend((one, False) for one in first[rule])

    def _called_first(self, start: int, nullable: list[bool]) -> set[int]:
        """The rules that may be called before a byte was taken."""
        found: set[int] = set()
        seen, todo = {start}, [start]
        while todo:
            state = todo.pop()
            following = list(self.empties[state])
            for rule, target in self.calls[state]:
                found.add(rule)
                if nullable[rule]:
                    following.append(target)
            for one in following:
                if one not in seen:
                    seen.add(one)
                    todo.append(one)
        return found


def _any_between(ordered: list[int], low: int, high: int) -> bool:
    from bisect import bisect_left

    at = bisect_left(ordered, low)
    return at < len(ordered) and ordered[at] <= high


def _may_be_empty(expression: Expression) -> bool:
    """Whether the empty text is one of it; rules that it calls are taken not to be empty."""
    match expression:
        case Text(value):
            return not value
        case Characters() | Call():
            return False
        case Chain(parts):
            return all(map(_may_be_empty, parts))
        case Choice(options):
            return any(map(_may_be_empty, options))
        case Repeat(part, least, _):
            return least == 0 or _may_be_empty(part)
