"""The rules of embeddings: what may be embedded, by which model, and how it is answered."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from monolite.errors import FieldError, Invalid
from monolite.models.file import About
from monolite.models.registry import Installed
from monolite.models.threads import EncoderThreads

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from monolite.models.encoder import Encoder, Kind
    from monolite.models.tokens import Tokens

INPUTS_MAX = 2048
"""As many as OpenAI's API takes at once."""

Inputs = str | list[str | int | list[int]]
Format = Literal["float", "base64"]


@dataclass(frozen=True)
class Embedded:
    """Vectors float32 [N, dimensions] of length 1, and what became of each input."""

    model: str
    prefix: str
    tokens_max: int
    vectors: NDArray[np.float32]
    tokens: Sequence[int]
    truncated: Sequence[bool]
    tokenize_ms: float
    embed_ms: float

    def shown(self, encoding: Format) -> Sequence[list[float] | str]:
        """Each vector as numbers, or as base64 of little-endian float32."""
        if encoding == "float":
            numbers: list[list[float]] = self.vectors.tolist()
            return numbers
        return [base64.b64encode(one).decode() for one in self.vectors.astype("<f4")]


class Embeddings:
    """Texts, or tokens, to vectors."""

    def __init__(self, threads: EncoderThreads) -> None:
        self._threads = threads

    async def embed(
        self, model: str, inputs: Inputs, kind: Kind | None, dimensions: int | None
    ) -> Embedded:
        """One vector an input, in their order.

        With `dimensions`, vectors are cut to so many numbers and brought to length 1 again
        (Matryoshka Representation Learning, Kusupati et al. 2022; a model not trained for it
        loses accuracy). `kind` puts the model's prefix before each text; token ids are taken as
        they are.

        Raises:
            NoSuchModel: the model is not installed.
            BadModelFile: its file is damaged.
            Invalid: an input can't be embedded, or `dimensions` are more than the model's.
        """
        texts, ids = _sorted_out(inputs)
        encoder = await self._threads.encoder(model)
        if dimensions is not None and dimensions > encoder.dimensions:
            raise _bad("#/dimensions", f"{encoder.name} has {encoder.dimensions}")
        if ids:
            _require_vocabulary(encoder, ids, one=not isinstance(_first(inputs), list))
            tokens, tokenize_ms = encoder.wrap(ids), 0.0
        else:
            tokens, tokenize_ms = await self._threads.tokenize(encoder, texts, kind)
        _require_something(tokens, one=isinstance(inputs, str) or len(texts + ids) < len(inputs))
        encoded = await self._threads.embed(encoder, tokens, tokenize_ms)
        return Embedded(
            encoder.name,
            "" if ids else encoder.prefix(kind),
            encoder.tokens_max,
            _shortened(encoded.vectors, dimensions),
            encoded.tokens.tolist(),
            encoded.truncated.tolist(),
            encoded.tokenize_ms,
            encoded.embed_ms,
        )

    def models(self) -> dict[str, Installed]:
        """The models installed that can be used, by name."""
        installed = self._threads.models.installed()
        return {name: one for name, one in installed.items() if isinstance(one.about, About)}

    def model(self, name: str) -> tuple[str, Installed]:
        """One model by its name, or as `default`.

        Raises:
            NoSuchModel: it is not installed.
            BadModelFile: its file is damaged.
        """
        real = self._threads.models.resolve(name)
        found = self._threads.models.installed()[real]
        if not isinstance(found.about, About):
            raise found.about
        return real, found


def _first(inputs: Inputs) -> object:
    return inputs[0] if inputs else None


def _sorted_out(inputs: Inputs) -> tuple[list[str], list[list[int]]]:
    """Texts or token ids; one text, or one text's ids, are a list of one."""
    if isinstance(inputs, str):
        return [inputs], []
    if not inputs:
        raise _bad("#/input", "there is nothing in it")
    texts = [one for one in inputs if isinstance(one, str)]
    ids = [one for one in inputs if isinstance(one, list)]
    numbers = [one for one in inputs if isinstance(one, int)]
    kinds = (texts, ids, numbers)
    if sum(map(bool, kinds)) > 1:
        # The first that is not like the one before it.
        at = next(i for i, one in enumerate(inputs) if type(one) is not type(inputs[0]))
        raise _bad(f"#/input/{at}", "inputs are all texts, or all lists of token ids")
    if numbers:
        return [], [numbers]
    if len(inputs) > INPUTS_MAX:
        raise _bad("#/input", f"{len(inputs)} inputs; at most {INPUTS_MAX} at once")
    return texts, ids


def _require_vocabulary(encoder: Encoder, ids: list[list[int]], *, one: bool) -> None:
    for at, tokens in enumerate(ids):
        if not tokens:
            raise _bad(f"#/input/{at}", "there is nothing in it")
        if min(tokens) >= 0 and max(tokens) < encoder.vocabulary:
            continue
        where = next(i for i, t in enumerate(tokens) if not 0 <= t < encoder.vocabulary)
        raise _bad(
            f"#/input/{where}" if one else f"#/input/{at}/{where}",
            f"{tokens[where]} is no token of {encoder.name}, whose ids are below "
            f"{encoder.vocabulary}. Send the text where the ids are another model's",
        )


def _require_something(tokens: Tokens, *, one: bool) -> None:
    if tokens.blank.any():
        at = int(tokens.blank.argmax())
        raise _bad(
            "#/input" if one else f"#/input/{at}",
            "nothing of it can be embedded: it is empty, or only spaces and control characters",
        )


def _shortened(vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    import numpy as np

    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    short = vectors[:, :dimensions]
    lengths = np.linalg.norm(short, axis=1, keepdims=True)
    normal: NDArray[np.float32] = short / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normal


def _bad(pointer: str, why: str) -> Invalid:
    return Invalid(f"{pointer[2:]}: {why}.", [FieldError(pointer, why)])
