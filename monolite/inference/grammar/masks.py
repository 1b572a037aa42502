"""Which tokens may come next, for each place of an automaton.

For a state, whatever it returns to, the tree of tokens is walked once: the tokens that end inside
of its rule, and the nodes where the rule ends and a token goes on. Of a place only what follows
those nodes is walked anew, so most of a mask is shared by all places that stand in the same state
(the context-independent tokens of Dong et al. 2024, XGrammar).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monolite.inference.grammar.automaton import DEPTH_MAX, Automaton, Place, Returns
from monolite.inference.grammar.machine import Copies, Machine
from monolite.inference.grammar.trie import Trie

Bits = NDArray[np.uint8]

MASKS_MAX = 2_000
"""Masks kept, each an eighth of the vocabulary in bytes; beyond, all are forgotten."""

_ROWS_MAX = 4_096
_FEW = 48
_UNKNOWN, _DEAD = -2, -1


@dataclass(frozen=True, slots=True)
class _Inside:
    """What a state allows inside of its rule, the nodes that lead out, and how deep rules lie."""

    bits: Bits
    leaving: tuple[int, ...]
    depth: int


class Masks:
    """The masks of one automaton over one vocabulary. The automaton's lock is held by who calls."""

    def __init__(self, automaton: Automaton, trie: Trie) -> None:
        self.automaton = automaton
        self.trie = trie
        self.made_count = 0
        self._inside: dict[int, _Inside] = {}
        self._masks: dict[Place, Bits] = {}
        self._alias = _aliases(automaton.machine, trie.longest)
        self._behind: dict[Returns, Place] = {}
        # way [row, byte]: from the place of a row to that of another, or why not.
        self._way = np.full((64, 256), _UNKNOWN, np.int32)
        self._whole = np.zeros(len(self._way), bool)
        self._depth = np.zeros(len(self._way), np.int64)
        self._deepest = 0
        self._places: list[Place] = []

    def bits(self, place: Place) -> Bits:
        """The tokens that may follow, token t in bit t % 8 of byte t // 8; no ending ones."""
        found = self._masks.get(place)
        if found is None:
            if len(self._masks) >= MASKS_MAX:
                self._masks.clear()
                self._behind.clear()
            found = self._masks[place] = self._made(place)
            found.flags.writeable = False
        return found

    def _made(self, place: Place) -> Bits:
        self.made_count += 1
        bits: Bits | None = None
        owned = False
        nodes: list[int] = []
        for state, below in place.entries:
            inside = self._inside_of(state)
            if below.depth + inside.depth > DEPTH_MAX:
                # Some token may enter more rules than are followed: nothing is shared.
                stands = Place(((state, below),), False, 0)
                nodes.extend(self._walk(stands, (0,))[0].tolist())
                continue
            if bits is None:
                bits = inside.bits
            else:
                if not owned:
                    bits, owned = bits.copy(), True
                bits |= inside.bits
            if inside.leaving and below is not self.automaton.bottom:
                behind = self._behind.get(below)
                if behind is None:
                    behind = self._behind[below] = self.automaton.place_behind(below)
                if behind.entries:
                    nodes.extend(self._walk(behind, inside.leaving)[0].tolist())
        if bits is None:
            bits = np.zeros((self.trie.size + 7) // 8, np.uint8)
        if nodes:
            more = self.trie.bits(np.unique(np.array(nodes, np.int64)))
            bits = bits | more
        return bits

    def _inside_of(self, state: int) -> _Inside:
        state = self._alias.get(state, state)
        found = self._inside.get(state)
        if found is None:
            if len(self._inside) >= MASKS_MAX:
                self._inside.clear()
            # Only the bytes of the state itself: what it calls has states of its own.
            place = Place(((state, self.automaton.bottom),), False, 0)
            self._deepest = 0
            alive, leaving = self._walk(place, (0,))
            child = self.trie.child_list
            found = self._inside[state] = _Inside(
                self.trie.bits(alive),
                tuple(node for node in leaving.tolist() if child[node] < child[node + 1]),
                self._deepest,
            )
        return found

    # ── Walking the tree ───────────────────────────────────────────────────────────────────────

    def _walk(
        self, place: Place, nodes: Iterable[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """From nodes where a text stands in `place`: nodes that live, nodes where it is whole."""
        if len(self._places) > _ROWS_MAX:
            self._places.clear()
            self._way.fill(_UNKNOWN)
        alive: list[NDArray[np.int64]] = []
        leaving: list[NDArray[np.int64]] = []
        few_alive: list[int] = []
        few_leaving: list[int] = []
        byte, child, step = self.trie.byte_list, self.trie.child_list, self.automaton.step
        level = [(node, place) for node in nodes]
        while level:
            if sum(child[node + 1] - child[node] for node, _ in level) > _FEW:
                at = np.array([node for node, _ in level], np.int64)
                rows = np.array([self._row(stands) for _, stands in level], np.int64)
                while len(at) > _FEW or level:
                    at, rows = self._level(at, rows)
                    alive.append(at)
                    leaving.append(at[self._whole[rows]])
                    self._deepest = max(self._deepest, int(self._depth[rows].max(initial=0)))
                    level = []
                level = [
                    (node, self._places[row])
                    for node, row in zip(at.tolist(), rows.tolist(), strict=True)
                ]
            else:
                below: list[tuple[int, Place]] = []
                for node, stands in level:
                    for one in range(child[node], child[node + 1]):
                        following = step(stands, byte[one])
                        if following is not None:
                            self._deepest = max(self._deepest, following.depth)
                            few_alive.append(one)
                            if following.is_whole:
                                few_leaving.append(one)
                            if following.entries:
                                below.append((one, following))
                level = below
        alive.append(np.array(few_alive, np.int64))
        leaving.append(np.array(few_leaving, np.int64))
        return np.concatenate(alive), np.concatenate(leaving)

    def _level(
        self, at: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All children of these nodes that live, and the rows of their places."""
        first, last = self.trie.child[at], self.trie.child[at + 1]
        counts = last - first
        rows = np.repeat(rows, counts)
        total = int(counts.sum())
        nodes = np.arange(total) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        byte = self.trie.byte[nodes]
        following = self._way[rows, byte]
        unknown = following == _UNKNOWN
        if unknown.any():
            for key in np.unique(rows[unknown] * 256 + byte[unknown]).tolist():
                place = self.automaton.step(self._places[key >> 8], key & 255)
                number = _DEAD if place is None else self._row(place)
                self._way[key >> 8, key & 255] = number
            following = self._way[rows, byte]
        lives = following >= 0
        return nodes[lives], following[lives].astype(np.int64)

    def _row(self, place: Place) -> int:
        if place.row < 0 or place.row >= len(self._places) or self._places[place.row] is not place:
            place.row = len(self._places)
            self._places.append(place)
            if place.row >= len(self._way):
                self._way = np.concatenate([self._way, np.full_like(self._way, _UNKNOWN)])
                self._whole = np.concatenate([self._whole, np.zeros_like(self._whole)])
                self._depth = np.concatenate([self._depth, np.zeros_like(self._depth)])
            self._whole[place.row] = place.is_whole
            self._depth[place.row] = place.depth
        return place.row


def _aliases(machine: Machine, longest: int) -> dict[int, int]:
    """States of repetitions that no token can tell from another: far from both of their bounds.

    A token has at most `longest` bytes, and so takes at most as many repetitions.
    """
    found: dict[int, int] = {}
    for copies in machine.copies:  # inner ones come first
        for block in range(copies.count):
            twin = _twin(copies, block, longest)
            if twin != block:
                shift = (twin - block) * copies.size
                begin = copies.first + block * copies.size
                for state in range(begin, begin + copies.size):
                    found[state] = found.get(state, state) + shift
    return found


def _twin(copies: Copies, block: int, longest: int) -> int:
    done = block + 1
    if copies.least - done >= longest:
        return 0
    earliest = max(copies.least, 1)
    if copies.most is not None and done >= earliest and copies.most - done >= longest:
        return earliest - 1
    return block
