"""Grammars and schemas made ready for one model's vocabulary, and kept while they are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from monolite.inference.grammar import compiled, gbnf, schema, vocabulary_trie
from monolite.inference.grammar.constraint import GrammarConstraint

if TYPE_CHECKING:
    from monolite.inference.chat import Form
    from monolite.inference.grammar.expression import Grammar
    from monolite.inference.grammar.masks import Masks
    from monolite.inference.grammar.trie import Trie
    from monolite.models.decoder import Vocabulary

KEPT_MAX = 32

JSON_OBJECT = r"""
root   ::= object
value  ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (string ws ":" ws value ws ("," ws string ws ":" ws value ws)*)? "}"
array  ::= "[" ws (value ws ("," ws value ws)*)? "]"
string ::= "\"" ([^"\\\x00-\x1f] | "\\" escape)* "\""
escape ::= ["\\/bfnrt] | "u" ([0-9a-cA-Ce-fE-F] hex{3} | [dD] [0-7] hex{2} | pair)
pair   ::= [dD] [89abAB] hex{2} "\\u" [dD] [c-fC-F] hex{2}
hex    ::= [0-9a-fA-F]
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
ws     ::= | " " | "\n" [ \t]{0,20}
"""
"""RFC 8259's objects, with numbers that a double holds and white space that has bounds."""


class Forms:
    """Of one model. Methods may be called from any thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._trie: Trie | None = None
        self._kept: OrderedDict[Form, Masks] = OrderedDict()
        self._lock = threading.Lock()

    def masks(self, form: Form) -> Masks:
        """A form's masks over the vocabulary; a new one takes milliseconds, the first 100 more.

        Raises:
            NotEnforceable: decoding can't be kept to it; names the construct and its place.
        """
        with self._lock:
            found = self._kept.get(form)
            if found is not None:
                self._kept.move_to_end(form)
                return found
            if self._trie is None:
                words = self._vocabulary
                tokens = [words.token_bytes(token) for token in range(words.size)]
                self._trie = vocabulary_trie(tokens, words.ending)
            made = compiled(_grammar(form), self._trie)
            self._kept[form] = made
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
            return made

    def constraint(self, masks: Masks) -> GrammarConstraint:
        """The state of one answer."""
        return GrammarConstraint(masks, self._vocabulary.encode)


def _grammar(form: Form) -> Grammar:
    if form.kind == "json_schema":
        return schema.parse(form.source)
    return gbnf.parse(JSON_OBJECT if form.kind == "json_object" else form.source)
