"""One answer kept to a grammar; what monolite.inference.constraint asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from monolite.inference.grammar.automaton import DEPTH_MAX, Place
from monolite.inference.grammar.errors import NotEnforceable
from monolite.inference.grammar.masks import Bits, Masks

BLANKS_MAX = 16
"""Tokens of nothing but white space in a row, where the grammar allows another."""

FORCED_BYTES_MAX = 512

Encode = Callable[[str], Sequence[int]]


class GrammarConstraint:
    """The state of one answer. Used by one thread at a time; grammars are shared by several.

    `encode` is the model's tokenizer: what the grammar forces is cut into tokens by it, so that the
    model reads what it has learned to. Without one nothing is forced but single tokens.
    """

    def __init__(self, masks: Masks, encode: Encode | None = None) -> None:
        self._masks = masks
        self._automaton = masks.automaton
        self._trie = masks.trie
        self._encode = encode
        self._blanks = 0
        self.place: Place = masks.automaton.start

    @property
    def may_end(self) -> bool:
        """Whether what was decoded is whole."""
        return self.place.is_whole

    @property
    def must_end(self) -> bool:
        """Whether it is whole and nothing may follow."""
        return self.place.is_whole and not self.place.entries

    def bits(self) -> Bits:
        """Which tokens may come next, token t in bit t % 8 of byte t // 8; never an ending one.

        Raises:
            NotEnforceable: the text has too many readings, or stands so deep in rules that no
                token is left.
        """
        with self._automaton.lock:
            bits = self._masks.bits(self.place)
        if not self.place.is_whole and not bits.any():
            raise NotEnforceable("grammar", f"its rules lie over {DEPTH_MAX} deep in each other")
        if self._blanks >= BLANKS_MAX:
            others = bits & ~self._trie.blank
            if self.may_end or others.any():
                return others
        return bits

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may come next, [vocabulary]; the ending ones exactly where it may end."""
        unpacked = np.unpackbits(self.bits(), count=self._trie.size, bitorder="little")
        mask: NDArray[np.bool_] = unpacked.view(np.bool_)
        if self.may_end:
            mask[self._trie.ending] = True
        return mask

    def allows(self, token: int) -> bool:
        """Whether this token may come next."""
        if token in self._trie.ending:
            return self.may_end
        return 0 <= token < self._trie.size and bool(self.bits()[token >> 3] >> (token & 7) & 1)

    def accept(self, token: int) -> None:
        """A token was decoded; ValueError, and nothing has changed, where it was not allowed."""
        if token in self._trie.ending:
            if not self.may_end:
                raise ValueError(f"token {token} ends the answer, which is not whole")
            return
        if not 0 <= token < self._trie.size or self._trie.node[token] == self._trie.count:
            raise ValueError(f"token {token} is none that a grammar allows")
        text = self._trie.tokens[token]
        with self._automaton.lock:
            place = self._automaton.walk(self.place, text)
        if place is None:
            raise ValueError(f"token {token} ({text!r}) is not allowed here")
        self.place = place
        self._blanks = 0 if text.strip(b" \t\r\n") else self._blanks + 1

    def forced(self) -> Sequence[int]:
        """Tokens that must come next, as only they may; they need no decoding. Often none.

        The bytes that the grammar leaves no choice of, as the tokenizer cuts them. Tokens at their
        end that a longer one could cover, together with what may follow, are left to the model.
        """
        with self._automaton.lock:
            if self.place.is_whole:
                return ()
            text, place = self._forced_bytes()
            if not text:
                return ()
            if self._encode is None:
                return self._single()
            try:
                tokens = list(self._encode(text.decode()))
            except UnicodeDecodeError as error:
                tokens = list(self._encode(text[: error.start].decode()))
            return self._settled(tokens, text, place)

    def completion(self, bytes_max: int = 65_536) -> bytes | None:
        """The shortest text that makes the answer whole, b"" where it is; None beyond the bound."""
        with self._automaton.lock:
            return self._automaton.shortest(self.place, bytes_max)

    def copy(self) -> GrammarConstraint:
        """Another answer that stands where this one does, for a draft to run ahead in."""
        other = GrammarConstraint(self._masks, self._encode)
        other.place, other._blanks = self.place, self._blanks
        return other

    def _forced_bytes(self) -> tuple[bytes, Place]:
        found = bytearray()
        place = self.place
        while not place.is_whole and len(found) < FORCED_BYTES_MAX:
            possible = self._automaton.next_bytes(place)
            if len(possible) != 1:
                break
            byte = possible.pop()
            following = self._automaton.step(place, byte)
            if following is None:
                break
            found.append(byte)
            place = following
        return bytes(found), place

    def _single(self) -> Sequence[int]:
        allowed = np.flatnonzero(np.unpackbits(self.bits(), bitorder="little"))
        return [int(allowed[0])] if len(allowed) == 1 else ()

    def _settled(self, tokens: list[int], text: bytes, place: Place) -> Sequence[int]:
        trie = self._trie
        begin = 0
        settled: list[int] = []
        for token in tokens:
            piece = trie.tokens[token]
            if not piece or text[begin : begin + len(piece)] != piece:
                break  # a tokenizer that changes the text, or knows special tokens in it
            if self._may_grow(text[begin:], place):
                break
            settled.append(token)
            begin += len(piece)
        return settled

    def _may_grow(self, rest: bytes, place: Place) -> bool:
        """Whether some token is `rest` and more, as far as the grammar allows."""
        trie = self._trie
        if len(rest) >= trie.longest:
            return False
        node = trie.find(rest)
        if node is None:
            return False
        todo = [(node, place)]
        while todo:
            at, stands = todo.pop()
            for child in range(trie.child_list[at], trie.child_list[at + 1]):
                following = self._automaton.step(stands, trie.byte_list[child])
                if following is not None:
                    if trie.has_token[child]:
                        return True
                    todo.append((child, following))
        return False
