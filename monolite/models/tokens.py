"""Texts to token ids: as many as the model takes, and whether a text had more."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_CHARACTERS_PER_TOKEN = 16
"""Of a long text this many characters per token that the model takes are read first."""

_LAST_WORD_TOKENS_MAX = 100
"""A word that the cut falls into is of at most this many tokens, since a longer one is unknown."""


class Tokens(NamedTuple):
    """`ids` int32 by text, special tokens included; `lengths` int32 [N] of them; `truncated`
    bool [N]: the text had more; `blank` bool [N]: nothing of it became a token.
    """

    ids: list[NDArray[np.int32]]
    lengths: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    blank: NDArray[np.bool_]


class TextTokenizer:
    """A `tokenizer.json`, as the tokenizers library reads it; its ids are below `vocabulary`.

    Methods may run in any thread.
    """

    def __init__(self, content: bytes, tokens_max: int) -> None:
        """Takes some 30 ms. Raises ValueError: the content is none of the library's."""
        # A forward pass has threads of its own. Read at each call by the library.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"the tokenizer can't be read: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokens_max = tokens_max
        self.vocabulary = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        empty = self._ids("")
        self._first, self._last = empty[:1], empty[1:]
        if len(empty) != 2:
            raise ValueError(f"the tokenizer puts {len(empty)} special tokens round a text, not 2")

    def tokenize(self, texts: Sequence[str], prefix: str = "") -> Tokens:
        """The texts' tokens, each after `prefix`. Releases the GIL for nearly all of the time.

        What is cut off a long text is never looked at, so that a text of a million characters
        costs what one of a few thousand does; the tokens kept are those of the whole text.
        """
        found = [self._of_text(prefix + text) for text in texts]
        prefix_length = len(self._ids(prefix)) if prefix else 2
        lengths = [len(ids) for ids in found]
        kept = [self._cut(ids) for ids in found]
        return Tokens(
            kept,
            np.array([len(ids) for ids in kept], np.int32),
            np.array([length > self._tokens_max for length in lengths], np.bool_),
            np.array([length <= prefix_length for length in lengths], np.bool_),
        )

    def wrap(self, ids: Sequence[Sequence[int]]) -> Tokens:
        """Ids that the caller made, with or without the special tokens round them."""
        bare = [self._bare(list(one)) for one in ids]
        kept = [self._cut([*self._first, *one, *self._last]) for one in bare]
        return Tokens(
            kept,
            np.array([len(one) for one in kept], np.int32),
            np.array([len(one) + 2 > self._tokens_max for one in bare], np.bool_),
            np.array([not one for one in bare], np.bool_),
        )

    def _of_text(self, text: str) -> list[int]:
        characters = self._tokens_max * _CHARACTERS_PER_TOKEN
        while True:
            ids = self._ids(text[:characters])
            enough = len(ids) >= self._tokens_max + _LAST_WORD_TOKENS_MAX
            if enough or characters >= len(text):
                return ids
            characters *= 8

    def _ids(self, text: str) -> list[int]:
        # Of the library's calls this alone keeps no offsets and lets go of the GIL.
        ids: list[int] = self._tokenizer.encode_batch_fast([text])[0].ids
        return ids

    def _bare(self, ids: list[int]) -> list[int]:
        if ids[:1] == self._first:
            ids = ids[1:]
        return ids[:-1] if ids[-1:] == self._last else ids

    def _cut(self, ids: list[int]) -> NDArray[np.int32]:
        if len(ids) > self._tokens_max:
            ids = [*ids[: self._tokens_max - 1], *self._last]
        return np.array(ids, np.int32)


def joined(slices: Sequence[Tokens]) -> Tokens:
    """Several slices of one list of texts as one."""
    if len(slices) == 1:
        return slices[0]
    return Tokens(
        [ids for one in slices for ids in one.ids],
        np.concatenate([one.lengths for one in slices]),
        np.concatenate([one.truncated for one in slices]),
        np.concatenate([one.blank for one in slices]),
    )
