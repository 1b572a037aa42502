"""Inference over HTTP, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from monolite.inference.core import Embedded, Embeddings, Format
from monolite.models.file import About
from monolite.models.language_models import About as LanguageAbout
from monolite.models.language_models import LanguageModels
from monolite.models.registry import DEFAULT, Installed
from monolite.web.answer import Answer, json_answer
from monolite.web.call import Call
from monolite.web.operation import Operation

LOCAL = "ai:local"
BODY_BYTES_MAX = 8 << 20


class EmbeddingWish(msgspec.Struct):
    """`input`: a text, up to 2 048 texts, a text's token ids, or such lists of several texts.

    `input_type` is not OpenAI's: it puts before each text what the model was trained with, such as
    E5's `query: `. Without it a text is taken as it is.
    """

    input: str | list[str | int | list[int]]
    model: str = DEFAULT
    encoding_format: Format = "float"
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    user: str | None = None
    input_type: Literal["query", "passage"] | None = None


class EmbeddingShown(msgspec.Struct):
    """One vector. `tokens` and `truncated`, which says that the text had more, are not OpenAI's."""

    index: int
    embedding: list[float] | str
    tokens: int
    truncated: bool
    object: Literal["embedding"] = "embedding"


class Usage(msgspec.Struct):
    """Tokens of all texts, special ones included."""

    prompt_tokens: int
    total_tokens: int


class Milliseconds(msgspec.Struct):
    """Where the time went."""

    tokenize: float
    embed: float


class Particulars(msgspec.Struct):
    """What OpenAI's shape has no place for."""

    tokens_max: int
    prefix: str
    took_ms: Milliseconds


class EmbeddingsShown(msgspec.Struct):
    """OpenAI's list of embeddings."""

    data: list[EmbeddingShown]
    model: str
    usage: Usage
    monolite: Particulars
    object: Literal["list"] = "list"


class ModelShown(msgspec.Struct):
    """A model installed, as OpenAI lists it; `created` is when it was, in Unix seconds.

    The members from `kind` on are not OpenAI's.
    """

    id: str
    created: int
    owned_by: str
    kind: str
    tokens_max: int
    licence: str
    dimensions: int | None = None
    query_prefix: str = ""
    passage_prefix: str = ""
    source_sha256: str = ""
    object: Literal["model"] = "model"


class ModelsShown(msgspec.Struct):
    """OpenAI's list of models."""

    data: list[ModelShown]
    object: Literal["list"] = "list"


def operations(embeddings: Embeddings, language: LanguageModels) -> list[Operation]:
    """The route table."""
    e = _Endpoints(embeddings, language)
    return [
        Operation(
            "inference.embeddings",
            "POST",
            "/v1/embeddings",
            LOCAL,
            "Vectors of texts",
            e.embed,
            {200: EmbeddingsShown},
            description="OpenAI's shape: its clients work with `base_url` set to this server.",
            body=EmbeddingWish,
            body_bytes_max=BODY_BYTES_MAX,
            example={"model": "default", "input": ["How do I reset my password?"]},
            writes=False,
            errors="openai",
        ),
        Operation(
            "inference.models",
            "GET",
            "/v1/models",
            LOCAL,
            "The models installed",
            e.models,
            {200: ModelsShown},
            errors="openai",
        ),
        Operation(
            "inference.model",
            "GET",
            "/v1/models/{model}",
            LOCAL,
            "One model installed",
            e.model,
            {200: ModelShown},
            errors="openai",
        ),
    ]


class _Endpoints:
    def __init__(self, embeddings: Embeddings, language: LanguageModels) -> None:
        self._embeddings = embeddings
        self._language = language

    async def embed(self, call: Call) -> Answer:
        wish: EmbeddingWish = call.body
        found = await self._embeddings.embed(
            wish.model, wish.input, wish.input_type, wish.dimensions
        )
        if len(found.tokens) < _MANY:
            return _answer(found, wish.encoding_format)
        return await asyncio.to_thread(_answer, found, wish.encoding_format)

    async def models(self, call: Call) -> Answer:
        encoders = await asyncio.to_thread(self._embeddings.models)
        language = await asyncio.to_thread(self._language.installed)
        shown = [_model(name, one) for name, one in encoders.items()]
        shown += [
            _language_model(name, one.path, one.about)
            for name, one in language.items()
            if isinstance(one.about, LanguageAbout)
        ]
        return json_answer(ModelsShown(shown))

    async def model(self, call: Call) -> Answer:
        wanted = call.params["model"]
        language = await asyncio.to_thread(self._language.installed)
        found = language.get(wanted)
        if found is not None:
            if not isinstance(found.about, LanguageAbout):
                raise found.about
            return json_answer(_language_model(wanted, found.path, found.about))
        name, one = await asyncio.to_thread(self._embeddings.model, wanted)
        return json_answer(_model(name, one))


_MANY = 16
"""Vectors whose text takes longer to write than a thread to ask."""


def _answer(found: Embedded, encoding: Format) -> Answer:
    total = sum(found.tokens)
    facts = zip(found.shown(encoding), found.tokens, found.truncated, strict=True)
    return json_answer(
        EmbeddingsShown(
            [EmbeddingShown(at, vector, n, cut) for at, (vector, n, cut) in enumerate(facts)],
            found.model,
            Usage(total, total),
            Particulars(
                found.tokens_max,
                found.prefix,
                Milliseconds(round(found.tokenize_ms, 3), round(found.embed_ms, 3)),
            ),
        )
    )


def _model(name: str, one: Installed) -> ModelShown:
    assert isinstance(one.about, About)  # the core shows no damaged one
    about = one.about
    return ModelShown(
        id=name,
        created=int(one.place.path.stat().st_mtime),
        owned_by=about.source or "monolite",
        kind=about.kind,
        dimensions=about.dimensions,
        tokens_max=about.tokens_max,
        query_prefix=about.query_prefix,
        passage_prefix=about.passage_prefix,
        licence=about.licence,
        source_sha256=about.source_sha256,
    )


def _language_model(name: str, path: Path, about: LanguageAbout) -> ModelShown:
    return ModelShown(
        id=name,
        created=int(path.stat().st_mtime),
        owned_by="monolite",
        kind="language",
        tokens_max=about.context_tokens,
        licence=about.licence,
    )
