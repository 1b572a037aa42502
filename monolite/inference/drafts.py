"""Drafts by prompt lookup: what followed the last time the same few tokens came.

Speculative decoding (Leviathan et al. 2023) with the text itself as the draft model (Saxena 2023):
summaries, edits and extraction say again what they were given. A draft is verified in one pass over
the weights, and each of its tokens is kept only while the model chooses it too, by the same chances
as without it: greedy answers are the same, and sampled ones of the same distribution, since a draft
that is certain of itself is accepted exactly as often as the model takes its token.
"""

from __future__ import annotations

from collections.abc import Sequence

NGRAM = 3
DEPTH_MAX = 6
REST_TOKENS = 24
"""Tokens without drafts after one of which nothing was taken."""


class PromptLookup:
    """Drafts for one answer. The depth follows what is accepted."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._behind: dict[tuple[int, ...], int] = {}
        self._depth = DEPTH_MAX
        self._rest = 0
        for token in prompt:
            self.add(token)

    def add(self, token: int) -> None:
        """A token of the prompt, or of the answer."""
        if len(self._tokens) >= NGRAM:
            # Noted one token late, so that the end of the text doesn't find itself.
            self._behind[tuple(self._tokens[-NGRAM:])] = len(self._tokens)
        self._tokens.append(token)
        self._rest = max(0, self._rest - 1)

    def propose(self) -> list[int]:
        """Tokens that may come next; none where nothing like it came before."""
        if self._rest or len(self._tokens) < NGRAM:
            return []
        place = self._behind.get(tuple(self._tokens[-NGRAM:]))
        return [] if place is None else self._tokens[place : place + self._depth]

    def judged(self, proposed: int, accepted: int) -> None:
        """How much of the last draft was taken."""
        if accepted == proposed:
            self._depth = min(DEPTH_MAX, self._depth * 2)
        elif accepted:
            self._depth = max(2, accepted + 1)
        else:
            self._depth, self._rest = 2, REST_TOKENS
