"""A small vocabulary: every byte, and pieces that cross what grammars cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from monolite.inference.grammar import compiled, gbnf, vocabulary_trie
from monolite.inference.grammar.constraint import GrammarConstraint
from monolite.inference.grammar.expression import Grammar
from monolite.inference.grammar.trie import Trie

PIECES = [
    '{"', '":', '": "', '", "', '"}', '"]', "},", '":"', "true", "false", "null", "tr", "ue",
    "0.", ".85", "85", "10", "00", "12", "  ", "\n  ", " \n", "\n\n", "hello", " world", "ell",
    "name", '"name', "name\"", "é", "日本", "😀", "\\n", "\\u00", '\\"', "aaaa", "aaaaaaaa", "abab",
    "[[", "]]", "[]", "{}", "-1", "e+", "a b", " a", "a ", "int", "intent", "conf", "idence",
]  # fmt: skip
TOKENS = [
    b"",
    *(bytes([byte]) for byte in range(256)),
    *(piece.encode() for piece in PIECES),
    "日".encode()[:2],
    "😀".encode()[1:],
    b'\xa9"',
    b"",
]
END = len(TOKENS) - 1

Opened = Callable[[str | Grammar], GrammarConstraint]


@pytest.fixture(scope="session")
def trie() -> Trie:
    return vocabulary_trie(TOKENS, [END])


@pytest.fixture(scope="session")
def opened(trie: Trie) -> Opened:
    """A constraint by GBNF or grammar."""

    def open_grammar(grammar: str | Grammar) -> GrammarConstraint:
        made = gbnf.parse(grammar) if isinstance(grammar, str) else grammar
        return GrammarConstraint(compiled(made, trie))

    return open_grammar


def accepts(constraint: GrammarConstraint, text: bytes | str) -> bool:
    """Whether the whole text matches, byte for byte."""
    raw = text.encode() if isinstance(text, str) else text
    automaton = constraint._automaton
    place = automaton.walk(constraint.place, raw)
    return place is not None and place.is_whole


@pytest.fixture(name="accepts", scope="session")
def _accepts() -> Callable[[GrammarConstraint, bytes | str], bool]:
    return accepts
