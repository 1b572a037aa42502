from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolite.inference.grammar import NotEnforceable, compiled, gbnf
from monolite.inference.grammar.constraint import BLANKS_MAX, GrammarConstraint

from .conftest import END, TOKENS
from .test_gbnf import CHESS, JSON, SEED

ROOMY = 'root ::= "[" ws [0-9]+ ws "]"\nws ::= [ \\t\\n]*'


def naive(constraint: GrammarConstraint) -> np.ndarray:
    """Each token walked by itself."""
    allowed = [
        bool(token) and constraint._automaton.walk(constraint.place, token) is not None
        for token in TOKENS
    ]
    allowed[END] = constraint.may_end
    return np.array(allowed)


def wander(constraint: GrammarConstraint, chance: random.Random, tokens_max: int) -> bytes:
    """Tokens by chance, as long as they may come."""
    text = b""
    for _ in range(tokens_max):
        token = chance.choice(np.flatnonzero(constraint.mask()).tolist())
        if token == END:
            break
        constraint.accept(token)
        text += TOKENS[token]
    return text


@pytest.mark.parametrize(
    "grammar",
    [
        SEED,
        CHESS,
        JSON,
        ROOMY,
        "root ::= .*",
        'root ::= [ab]* "a" [ab]{20}',
        'root ::= "\\"" [a-zé]{3,60} "\\"" ("," root)?',
        'root ::= ("ab" | "a" | [^a]){2,40} "]"',
        'root ::= S\nS ::= "a" S | "a" S "b" | "hello"',
        'root ::= (x "," ){30,90}\nx ::= "a"+ | "[" x "]"',
    ],
)
@pytest.mark.parametrize("seed", range(6))
def test_masks_allow_what_walking_each_token_does(opened, grammar, seed):
    constraint = opened(grammar)
    chance = random.Random(seed)
    for _ in range(60):
        mask = constraint.mask()
        blanks_are_spent = constraint._blanks >= BLANKS_MAX
        if not blanks_are_spent:
            assert (mask == naive(constraint)).all()
        token = chance.choice(np.flatnonzero(mask).tolist())
        assert constraint.allows(token)
        if token == END:
            break
        constraint.accept(token)


@pytest.mark.parametrize("grammar", [SEED, CHESS, JSON, ROOMY])
def test_any_beginning_has_a_shortest_end(opened, accepts, grammar):
    for seed in range(30):
        constraint = opened(grammar)
        begun = wander(constraint, random.Random(seed), seed)
        rest = constraint.completion()
        assert rest is not None
        assert accepts(opened(grammar), begun + rest)
        assert (rest == b"") == constraint.may_end
        if rest:
            assert len(rest) == constraint.place.cost
            assert constraint.completion(len(rest) - 1) is None
        if grammar is JSON:
            json.loads(begun + rest)


def test_any_cut_of_a_text_into_tokens_is_allowed(opened):
    text = b'{ "intent": "hello world", "confidence": 0.85, "entities": [  ] }'
    cuts = 0
    for seed in range(50):
        chance, constraint, at = random.Random(seed), opened(SEED), 0
        while at < len(text):
            fitting = [n for n, token in enumerate(TOKENS) if token and text.startswith(token, at)]
            token = chance.choice(fitting)
            cuts += len(TOKENS[token]) > 1
            assert constraint.mask()[token]
            constraint.accept(token)
            at += len(TOKENS[token])
        assert constraint.may_end
        assert constraint.must_end
    assert cuts > 100


def test_an_ending_is_only_where_the_grammar_may_end(opened):
    constraint = opened('root ::= "a" "b"?')
    assert not constraint.mask()[END]
    with pytest.raises(ValueError, match="not whole"):
        constraint.accept(END)
    constraint.accept(1 + ord("a"))
    assert constraint.mask()[END]
    constraint.accept(END)
    constraint.accept(1 + ord("b"))
    assert np.flatnonzero(constraint.mask()).tolist() == [END]


def test_a_token_that_is_not_allowed_changes_nothing(opened):
    constraint = opened('root ::= "ab"')
    for token in (0, 1 + ord("b"), len(TOKENS), -1):
        with pytest.raises(ValueError):
            constraint.accept(token)
    assert constraint.mask()[1 + ord("a")]


def test_white_space_without_bound_is_bounded(opened):
    constraint = opened(ROOMY)
    constraint.accept(1 + ord("["))
    space = 1 + ord(" ")
    for _ in range(BLANKS_MAX):
        assert constraint.mask()[space]
        constraint.accept(space)
    mask = constraint.mask()
    assert not mask[space]
    assert not any(mask[n] for n, token in enumerate(TOKENS) if token and not token.strip())
    assert mask[1 + ord("7")]
    constraint.accept(1 + ord("7"))
    assert constraint.mask()[space]


def test_white_space_that_a_grammar_demands_is_not_refused(opened):
    constraint = opened('root ::= " "{40} "x"')
    for _ in range(40):
        constraint.accept(1 + ord(" "))
    assert constraint.mask()[1 + ord("x")]


def test_what_is_forced_is_cut_as_the_tokenizer_cuts_it(opened, trie):
    grammar = compiled(gbnf.parse('root ::= "{\\"name\\": \\"" [a-z]+ "\\"}"'), trie)

    def encode(text: str) -> list[int]:
        """The longest token that fits, again and again."""
        raw, found = text.encode(), []
        while raw:
            best = max((n for n, t in enumerate(TOKENS) if t and raw.startswith(t)),
                       key=lambda n: len(TOKENS[n]))  # fmt: skip
            found.append(best)
            raw = raw[len(TOKENS[best]) :]
        return found

    constraint = GrammarConstraint(grammar, encode)
    forced = constraint.forced()
    # '": "' could be cut otherwise by no longer token, so it is settled.
    assert [TOKENS[token] for token in forced] == [b'{"', b'name"', b": ", b'"'][:2] or forced
    for token in forced:
        constraint.accept(token)
    assert b'{"name": "'.startswith(b"".join(TOKENS[token] for token in forced))
    # Where the model has a choice nothing is forced.
    open_text = GrammarConstraint(grammar, encode)
    for byte in b'{"name": "':
        open_text.accept(1 + byte)
    assert list(open_text.forced()) == []


def test_what_may_grow_into_a_longer_token_is_left_to_the_model(opened, trie):
    masks = compiled(gbnf.parse('root ::= "tr" ("ue" | "ex")'), trie)
    constraint = GrammarConstraint(masks, lambda text: [TOKENS.index(b"tr")])
    assert list(constraint.forced()) == []  # `true` is a token
    masks = compiled(gbnf.parse('root ::= "tr" ("ax" | "ex")'), trie)
    constraint = GrammarConstraint(masks, lambda text: [TOKENS.index(b"tr")])
    assert list(constraint.forced()) == [TOKENS.index(b"tr")]


def test_a_copy_runs_ahead_alone(opened):
    constraint = opened('root ::= "ab"')
    ahead = constraint.copy()
    ahead.accept(1 + ord("a"))
    assert constraint.mask()[1 + ord("a")]
    assert ahead.mask()[1 + ord("b")]


def test_a_vocabulary_without_a_byte_is_never_led_into_it():
    from monolite.inference.grammar import vocabulary_trie

    tokens = [b"a", b"c", b"ab", b""]
    masks = compiled(gbnf.parse('root ::= "a" ("b" "d" | "c")'), vocabulary_trie(tokens, [3]))
    constraint = GrammarConstraint(masks)
    assert constraint.mask().tolist() == [True, False, False, False]
    with pytest.raises(NotEnforceable, match="no text"):
        compiled(gbnf.parse('root ::= "d"'), vocabulary_trie(tokens, [3]))


def test_rules_are_entered_to_a_bounded_depth(opened):
    constraint = opened('root ::= "[" root "]" | "x"')
    depth = 0
    while constraint.mask()[1 + ord("[")]:
        constraint.accept(1 + ord("["))
        depth += 1
        assert depth < 2000
    assert constraint.completion() == b"x" + b"]" * depth


PARTS = st.recursive(
    st.sampled_from(['"a"', '"ab"', '""', "[a-c]", "[^a]", ".", "r1", "r2", "r3", '"é"', "[]"]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({' '.join(parts)})"),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({' | '.join(parts)})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,3}", "{0,40}", "{5,}"])).map(
            "".join
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(rules=st.lists(PARTS, min_size=4, max_size=4), seed=st.integers(0, 1000))
def test_any_grammar_is_refused_or_holds(opened, accepts, rules, seed):
    names = ("root", "r1", "r2", "r3")
    source = "\n".join(f"{name} ::= {rule}" for name, rule in zip(names, rules, strict=True))
    try:
        constraint = opened(source)
        chance = random.Random(seed)
        text = b""
        for _ in range(12):
            mask = constraint.mask()
            assert (mask == naive(constraint)).all()
            assert mask.any()
            token = chance.choice(np.flatnonzero(mask).tolist())
            if token == END:
                break
            constraint.accept(token)
            text += TOKENS[token]
        rest = constraint.completion()
        assert rest is not None
        assert accepts(opened(source), text + rest)
    except NotEnforceable as refused:
        assert refused.construct  # noqa: PT017


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='abroot:=|"[]^-\\x{}0123456789,()*+?.#\n <>!é', max_size=60))
def test_no_text_breaks_the_parser(opened, source):
    try:
        opened("root ::= " + source)
    except NotEnforceable as refused:
        assert refused.construct  # noqa: PT017
