"""Drafts by prompt lookup."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monolite.inference.drafts import DEPTH_MAX, NGRAM, PromptLookup


def test_what_followed_the_last_time_is_the_draft() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2, 3])
    assert lookup.propose() == [4, 5, 6, 7, 8, 9]
    lookup.add(4)
    assert lookup.propose()[0] == 5
    lookup.add(99)
    assert lookup.propose() == []


def test_the_latest_of_several_places_counts() -> None:
    assert PromptLookup([1, 2, 3, 7, 0, 1, 2, 3, 8, 0, 1, 2, 3]).propose()[0] == 8


def test_a_draft_that_is_not_taken_is_followed_by_a_rest() -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 1, 2, 3])
    lookup.judged(3, 0)
    assert lookup.propose() == []


@given(tokens=st.lists(st.integers(0, 3), max_size=60), more=st.lists(st.integers(0, 3)))
def test_a_draft_is_always_what_followed_the_same_tokens(
    tokens: list[int], more: list[int]
) -> None:
    lookup = PromptLookup(tokens)
    for token in more:
        lookup.add(token)
        tokens = [*tokens, token]
        draft = lookup.propose()
        assert len(draft) <= DEPTH_MAX
        if draft:
            wanted = tokens[-NGRAM:]
            places = [at for at in range(NGRAM, len(tokens)) if tokens[at - NGRAM : at] == wanted]
            assert tokens[places[-1] : places[-1] + len(draft)] == draft
