"""A vocabulary as a tree of bytes, in arrays."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

TOKEN_BYTES_MAX = 512
_BLANK = frozenset(b" \t\r\n")


class Trie:
    """The tokens' bytes. Nodes are numbered level by level, children side by side.

    node 0 is the root; node n is entered by byte[n], its children are the nodes from child[n] up to
    child[n + 1]. `node` [vocabulary] is where each token ends, and `count` (no node) for those
    without bytes, which are never allowed: special ones, and any over 512 bytes. `ending` are the
    tokens that end an answer.
    """

    def __init__(self, tokens: Sequence[bytes], ending: Collection[int]) -> None:
        self.tokens = tokens
        self.size = len(tokens)
        self.ending = np.array(sorted(ending), np.int64)
        usable = [
            number
            for number, token in enumerate(tokens)
            if 0 < len(token) <= TOKEN_BYTES_MAX and number not in ending
        ]
        usable.sort(key=tokens.__getitem__)
        lengths = np.array([len(tokens[number]) for number in usable], np.int64)
        self.longest = int(lengths.max(initial=0))
        # rows [tokens, longest]: the bytes, sorted, 0 behind them.
        rows = np.zeros((len(usable), self.longest), np.uint8)
        inside = np.arange(self.longest) < lengths[:, None]
        rows[inside] = np.frombuffer(b"".join(tokens[number] for number in usable), np.uint8)
        # alike: the leading bytes that a token has in common with the one before it.
        alike = np.zeros(len(usable), np.int64)
        if len(usable) > 1:
            differ = (rows[1:] != rows[:-1]) | ~(inside[1:] & inside[:-1])
            alike[1:] = np.where(differ.any(1), differ.argmax(1), self.longest)
        byte, parents = [np.zeros(1, np.uint8)], [np.zeros(1, np.int64)]
        self.node = np.zeros(self.size, np.int64)
        count = 1
        above = np.zeros(len(usable), np.int64)
        which = np.array(usable, np.int64)
        for level in range(self.longest):
            here = inside[:, level]
            begins = here & (alike <= level)
            number = np.cumsum(begins) + (count - 1)
            byte.append(rows[begins, level])
            parents.append(above[begins])
            above = np.where(here, number, 0)
            last = lengths == level + 1
            self.node[which[last]] = above[last]
            count += int(begins.sum())
        self.count = count
        self.node[self.node == 0] = count
        self.byte = np.concatenate(byte)
        parent = np.concatenate(parents)[1:]
        self.child = np.searchsorted(parent, np.arange(count + 1)) + 1
        self.has_token = np.zeros(count + 1, bool)
        self.has_token[self.node] = True
        self.has_token[count] = False
        self.single_bytes = frozenset(
            int(self.byte[node]) for node in range(1, int(self.child[1])) if self.has_token[node]
        )
        self.blank = np.packbits(
            [bool(token) and _BLANK.issuperset(token) for token in tokens], bitorder="little"
        )
        # The tokens that end in each node, side by side.
        self._ordered = np.argsort(self.node, kind="stable")
        self._first = np.searchsorted(self.node[self._ordered], np.arange(count + 1))
        # For walks of a few nodes, where a list is faster than an array.
        self.byte_list: list[int] = self.byte.tolist()
        self.child_list: list[int] = self.child.tolist()

    def bits(self, nodes: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The tokens that end in these nodes, as bits: token t is bit t % 8 of byte t // 8."""
        if len(nodes) > 256:
            alive = np.zeros(self.count + 1, bool)
            alive[nodes] = True
            return np.packbits(alive[self.node], bitorder="little")
        found = np.zeros(self.size, bool)
        for node in nodes.tolist():
            found[self._ordered[self._first[node] : self._first[node + 1]]] = True
        return np.packbits(found, bitorder="little")

    def find(self, text: bytes) -> int | None:
        """The node of a text, where some token begins with it."""
        node = 0
        for byte in text:
            first, last = self.child_list[node], self.child_list[node + 1]
            for child in range(first, last):
                if self.byte_list[child] == byte:
                    node = child
                    break
            else:
                return None
        return node
