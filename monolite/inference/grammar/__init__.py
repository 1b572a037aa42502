"""Grammars that an answer is kept to while it is decoded. A library: no HTTP, no model.

    GBNF ────────► gbnf.py ───┐
                              ├─► Grammar ─► Machine ─► Automaton ─► Masks ─► GrammarConstraint
    JSON Schema ─► schema.py ─┘  expression   machine    automaton    masks     constraint
                                                                       ▲
                                                tokens' bytes ─► Trie ─┘  trie.py

    constraint:  accept ─► place ─► mask ─► … ─► may_end ─► an ending token
                   ▲                 │
                   └──── forced ◄────┘  what the grammar leaves no choice of needs no model

A mask allows a token exactly where its bytes lead to a text that can still be brought to an end
with tokens of one byte, so every way of cutting a text into tokens is allowed and no answer is
stuck; an ending token is allowed exactly where the text is whole. What can't be enforced exactly is
refused with NotEnforceable, which names the construct and its place: nothing is left out silently.

Sizes are bounded everywhere: characters of a grammar, states (machine.py), readings of a text at
once, rules within rules (automaton.py), masks kept (masks.py). A compiled grammar is shared by
answers on several threads, under the automaton's lock; a constraint belongs to one answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from monolite.inference.grammar.errors import NotEnforceable as NotEnforceable

if TYPE_CHECKING:
    from monolite.inference.grammar.expression import Grammar
    from monolite.inference.grammar.masks import Masks
    from monolite.inference.grammar.trie import Trie


def vocabulary_trie(tokens: Sequence[bytes], ending: Collection[int]) -> Trie:
    """What masks need to know of a model: made once for each, in some 90 ms for 49 152 tokens.

    `tokens` are the bytes that each token adds to a text, none for a special one; `ending` are the
    tokens that end an answer.
    """
    from monolite.inference.grammar.trie import Trie

    return Trie(tokens, ending)


def compiled(grammar: Grammar, trie: Trie) -> Masks:
    """A grammar made ready for a vocabulary; GrammarConstraint(masks, encode) is one answer's.

    Raises:
        NotEnforceable: left recursion, more states than are built, or a grammar that no text of
            this vocabulary's single bytes matches.
    """
    from monolite.inference.grammar.automaton import Automaton
    from monolite.inference.grammar.machine import Machine
    from monolite.inference.grammar.masks import Masks

    return Masks(Automaton(Machine(grammar), trie.single_bytes), trie)
