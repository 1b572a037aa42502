"""From logits to the next token.

In this order: penalties of what was said, biases, the constraint, temperature, then what is left
out: all but the `top_k` likeliest, all but the fewest that hold `top_p` of the probability (nucleus
sampling, Holtzman et al. 2020), what is less likely than `min_p` of the likeliest.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monolite.inference.request import Logprob, Sampling

F32 = NDArray[np.float32]
CANDIDATES_MAX = 4096
"""Nucleus and min-p are looked for among so many likeliest; what lies behind has no weight."""


class Sampler:
    """Chooses the tokens of one answer. `random` gives its chances, the same for the same seed."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], random_seed: int) -> None:
        self.sampling = sampling
        seed = sampling.seed if sampling.seed is not None else random_seed
        # Neither numpy's random numbers nor its sets: the executable has neither part of it.
        self.random = random.Random(seed)  # noqa: S311  # chances, and no secrets
        self._prompt = frozenset(prompt)
        self._said: Counter[int] = Counter()

    def choose(self, logits: F32, mask: NDArray[np.bool_] | None = None) -> int:
        """The next token by logits [vocabulary], which are not changed."""
        tokens, chances = self.distribution(logits, mask)
        if len(tokens) == 1:
            return int(tokens[0])
        place = np.searchsorted(np.cumsum(chances), self.random.random() * chances.sum(), "right")
        return int(tokens[min(int(place), len(tokens) - 1)])

    def distribution(
        self, logits: F32, mask: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The tokens that may come next and their probabilities, the likeliest first."""
        sampling = self.sampling
        logits = self._penalized(logits)
        if mask is not None:
            logits = np.where(mask, logits, -np.inf)
        if sampling.temperature <= 0:
            return np.array([logits.argmax()], np.int64), np.ones(1)
        count = CANDIDATES_MAX if sampling.top_k <= 0 else sampling.top_k
        is_whole = sampling.top_k <= 0 and sampling.top_p >= 1 and sampling.min_p <= 0
        if is_whole or count >= len(logits):
            tokens = np.arange(len(logits))
        else:
            tokens = np.argpartition(logits, -count)[-count:]
        if not is_whole:
            tokens = tokens[np.argsort(-logits[tokens], kind="stable")]
        scaled = logits[tokens].astype(np.float64) / sampling.temperature
        chances = np.exp(scaled - scaled.max())
        chances /= chances.sum()
        if not is_whole:
            left = np.cumsum(chances) - chances < sampling.top_p
            left &= chances >= sampling.min_p * chances[0]
            left[0] = True
            tokens, chances = tokens[left], chances[left]
            chances = chances / chances.sum()
        return tokens, chances

    def say(self, token: int) -> None:
        """A token was added to the answer."""
        self._said[token] += 1

    def _penalized(self, logits: F32) -> F32:
        sampling = self.sampling
        penalizes = sampling.presence_penalty or sampling.frequency_penalty
        if sampling.repetition_penalty == 1 and not penalizes and not sampling.logit_bias:
            return logits
        logits = logits.copy()
        said = np.fromiter(self._said, np.int64, len(self._said))
        if sampling.repetition_penalty != 1:
            # Keskar et al. 2019 (CTRL): what is negative already is made more so.
            known = np.array(sorted(self._prompt.union(self._said)), np.int64)
            found = logits[known]
            penalty = np.float32(sampling.repetition_penalty)
            logits[known] = np.where(found > 0, found / penalty, found * penalty)
        if penalizes and len(said):
            counts = np.fromiter(self._said.values(), np.float32, len(said))
            logits[said] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        for token, bias in sampling.logit_bias.items():
            logits[token] += np.float32(bias)
        return logits


def logprob(logits: F32, token: int, top_count: int) -> Logprob:
    """What the model itself gave a token, and the likeliest tokens with theirs."""
    wide = logits.astype(np.float64)
    wide -= wide.max()
    wide -= np.log(np.exp(wide).sum())
    top: list[tuple[int, float]] = []
    if top_count:
        likeliest = np.argpartition(wide, -top_count)[-top_count:]
        likeliest = likeliest[np.argsort(-wide[likeliest])]
        top = [(int(one), float(wide[one])) for one in likeliest]
    return Logprob(token, float(wide[token]), top)
