"""Texts to tokens: what is cut is said, and what is kept is what the whole text begins with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from monolite.models.file import ModelFile
from monolite.models.registry import DEFAULT_NAME, SHIPPED
from monolite.models.tokens import TextTokenizer

CONTENT = ModelFile.open(SHIPPED / f"{DEFAULT_NAME}.model").arrays["tokenizer"].tobytes()
ORACLE = Tokenizer.from_buffer(CONTENT)
ORACLE.no_padding()
TOKENIZER = TextTokenizer(CONTENT, 32)


def whole(text: str, tokens_max: int) -> list[int]:
    """What the library gives when it cuts the whole text itself."""
    ORACLE.enable_truncation(tokens_max)
    ids: list[int] = ORACLE.encode(text).ids
    return ids


words = st.sampled_from(["a", "word", "unbelievably", "文", "é", ".", "x" * 99, "y" * 120, "\x07"])
texts = st.lists(words, max_size=300).flatmap(
    lambda some: st.sampled_from([" ", "", "\n  "]).map(lambda between: between.join(some))
)


@given(texts)
def test_kept_tokens_are_those_of_the_whole_text(text: str) -> None:
    tokens = TOKENIZER.tokenize([text])
    assert tokens.ids[0].tolist() == whole(text, 32)
    ORACLE.no_truncation()
    assert tokens.truncated[0] == (len(ORACLE.encode(text).ids) > 32)
    assert tokens.lengths[0] == len(tokens.ids[0]) <= 32


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "文" * 1_000_000, " " * 999_990 + "the end", "word " * 200_000]
)
def test_a_million_characters_are_cut_as_any_text(text: str) -> None:
    tokens = TOKENIZER.tokenize([text])
    assert tokens.ids[0].tolist() == whole(text, 32)


def test_nothing_but_space_and_control_characters_is_blank() -> None:
    tokens = TOKENIZER.tokenize(["", " \n\t", "\x00\x01", "\u200b", "a", "?"], "query: ")
    assert tokens.blank.tolist() == [True, True, True, True, False, False]
    assert tokens.truncated.tolist() == [False] * 6


@given(st.lists(st.integers(1000, 30521), max_size=60))
def test_ids_are_taken_with_or_without_the_tokens_round_them(ids: list[int]) -> None:
    bare, wrapped = TOKENIZER.wrap([ids]), TOKENIZER.wrap([[101, *ids, 102]])
    assert bare.ids[0].tolist() == wrapped.ids[0].tolist() == [101, *ids[:30], 102]
    assert bare.truncated[0] == wrapped.truncated[0] == (len(ids) > 30)
    assert bare.blank[0] == (not ids)


def test_a_tokenizer_that_is_none_is_refused() -> None:
    for content in (b"", b"{}", b"\xff"):
        with pytest.raises(ValueError, match="tokenizer"):
            TextTokenizer(content, 32)
