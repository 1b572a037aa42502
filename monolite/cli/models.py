"""`monolite model …`: what lies in the models' directory, and how fast it is here."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from monolite.models.file import About
from monolite.models.language_models import SUFFIX as GGUF_SUFFIX
from monolite.models.language_models import About as LanguageAbout
from monolite.models.language_models import LanguageModels, Tier
from monolite.models.registry import Installed, Models
from monolite.settings import Settings

Row = tuple[str, ...]

BENCH_S = 1.0
"""How long each piece of work is repeated."""


def models_of(settings: Settings) -> Models:
    """The models that a server with these settings would find."""
    from monolite import assembly_models
    from monolite.storage.data_directory import DataDirectory

    return assembly_models.models_of(settings, DataDirectory(settings.data))


def language_models_of(settings: Settings) -> LanguageModels:
    """The language models that a server with these settings would find."""
    from monolite import assembly_models
    from monolite.storage.data_directory import DataDirectory

    return assembly_models.language_models_of(settings, DataDirectory(settings.data))


def _add_language(settings: Settings, source: Path, name: str | None, tier: Tier) -> str:
    shown = sys.stderr.isatty()

    def progress(done: int, of: int) -> None:
        if shown:
            print(f"\r{done >> 20} of {of >> 20} MiB", end="", file=sys.stderr, flush=True)

    try:
        made = language_models_of(settings).add(source, name, progress, tier=tier)
    finally:
        if shown:
            print(file=sys.stderr)
    about = made.about
    assert isinstance(about, LanguageAbout)  # it was just opened
    name = made.path.name.removesuffix(GGUF_SUFFIX)
    facts = f"{about.title}, {about.architecture}, {about.context_tokens} tokens"
    return f"{name}: {facts}, in {made.path}"


def add(
    settings: Settings,
    source: Path,
    name: str | None,
    query_prefix: str | None,
    passage_prefix: str | None,
    licence: str,
    tier: Tier = "basic",
) -> str:
    """Install a model; says what was made of it. Progress goes to stderr where that is a terminal.

    Raises as Models.add does.
    """
    from monolite.storage.data_directory import DataDirectory

    if settings.models is None:
        DataDirectory(settings.data).prepare()
    if source.suffix == GGUF_SUFFIX:
        return _add_language(settings, source, name, tier)
    shown = sys.stderr.isatty()

    def progress(done: int, of: int) -> None:
        if shown:
            print(f"\rlayer {done} of {of} is quantized", end="", file=sys.stderr, flush=True)

    try:
        made = models_of(settings).add(
            source,
            name,
            query_prefix=query_prefix,
            passage_prefix=passage_prefix,
            licence=licence,
            progress=progress,
        )
    finally:
        if shown:
            print(file=sys.stderr)
    about = made.about
    assert isinstance(about, About)  # it was just written
    prefixes = [repr(one) for one in (about.query_prefix, about.passage_prefix) if one]
    facts = [
        f"{about.dimensions} dimensions",
        f"{about.tokens_max} tokens",
        f"{about.pooling} pooling",
        f"prefixes {' and '.join(prefixes)}" if prefixes else "no prefixes",
        f"{made.place.bytes / 1e6:.1f} MB",
    ]
    return f"{about.name}: {', '.join(facts)}, in {made.place.path}"


def listed(settings: Settings) -> Iterator[Row]:
    """A row for each model installed."""
    for name, one in models_of(settings).installed().items():
        yield (name, *_facts(one))
    for name, model in language_models_of(settings).installed().items():
        megabytes = f"{model.path.stat().st_size / 1e6:.1f}"
        about = model.about
        if isinstance(about, LanguageAbout):
            context = str(about.context_tokens)
            yield name, "", context, about.licence or "?", megabytes, str(model.path)
        else:
            yield name, "", "", "", megabytes, f"unusable: {about}"


def _facts(one: Installed) -> Row:
    megabytes = f"{one.place.bytes / 1e6:.1f}"
    if not isinstance(one.about, About):
        return "", "", "", megabytes, f"unusable: {one.about}"
    about = one.about
    return (
        str(about.dimensions),
        str(about.tokens_max),
        about.licence or "?",
        megabytes,
        str(one.place.path),
    )


def remove(settings: Settings, name: str) -> None:
    """Remove a model's file. Raises as Models.remove does."""
    models, language_models = models_of(settings), language_models_of(settings)
    if name in language_models.names() and name not in models.installed():
        language_models.remove(name)
    else:
        models.remove(name)


def bench(settings: Settings, name: str) -> Iterator[Row]:
    """A row for each piece of work: threads, the median and 99th percentile in ms, tokens/s."""
    from monolite import kernels

    if name in language_models_of(settings).names() and name not in models_of(settings).installed():
        yield from _bench_language(settings, name)
        return
    started = time.perf_counter()
    encoder = models_of(settings).encoder(name)
    encoder.encode(["warm"])
    opening_ms = (time.perf_counter() - started) * 1000
    yield "open, first use", "", f"{opening_ms:.1f}", "", ""
    work = {
        "query of 13 tokens": [" ".join(["word"] * 11)],
        "passage of 128 tokens": [" ".join(["word"] * 126)],
        "32 passages of 64 tokens": [" ".join(["word"] * 62)] * 32,
    }
    for threads in sorted({kernels.usable_cores(), 1}, reverse=True):
        computing = kernels.configure(settings.kernels, threads=threads)
        for title, texts in work.items():
            tokens = int(encoder.tokenize(texts, None).lengths.sum())
            spent_ms = _repeated(lambda: encoder.encode(texts, None))  # noqa: B023  # called here
            median = statistics.median(spent_ms)
            yield (
                title,
                f"{computing.threads} ({computing.variant})",
                f"{median:.2f}",
                f"{sorted(spent_ms)[len(spent_ms) * 99 // 100]:.2f}",
                f"{tokens / median * 1000:.0f}",
            )


def _bench_language(settings: Settings, name: str) -> Iterator[Row]:
    from monolite import kernels
    from monolite.models.decoder import Span

    started = time.perf_counter()
    model = language_models_of(settings).open(name)
    yield "open", "", f"{(time.perf_counter() - started) * 1000:.1f}", "", ""
    prompt = [at % model.vocabulary.size for at in range(min(128, model.context_tokens - 1))]

    def read(ahead: list[int], before: list[int]) -> Callable[[], object]:
        """What reads `ahead` behind `before`, each time anew."""
        opened = model.open_sequence([*before, *ahead], cache="int8", scope=b"bench")
        if before:
            model.forward([Span(opened.sequence, before)])

        def once() -> None:
            model.rollback(opened.sequence, len(before))
            model.forward([Span(opened.sequence, ahead)])

        return once

    work = {
        f"prompt of {len(prompt)} tokens": (prompt, []),
        f"a token behind {len(prompt)}": (prompt[:1], prompt),
    }
    for threads in sorted({kernels.usable_cores(), 1}, reverse=True):
        computing = kernels.configure(settings.kernels, threads=threads)
        for title, (ahead, before) in work.items():
            spent_ms = _repeated(read(ahead, before))
            median = statistics.median(spent_ms)
            yield (
                title,
                f"{computing.threads} ({computing.variant})",
                f"{median:.2f}",
                f"{sorted(spent_ms)[len(spent_ms) * 99 // 100]:.2f}",
                f"{len(ahead) / median * 1000:.0f}",
            )


def _repeated(work: Callable[[], object]) -> list[float]:
    work()
    spent_ms: list[float] = []
    ends_at = time.perf_counter() + BENCH_S
    while (now := time.perf_counter()) < ends_at or not spent_ms:
        work()
        spent_ms.append((time.perf_counter() - now) * 1000)
    return spent_ms
