"""Where models lie, and what decodes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from monolite import kernels
from monolite.bundle import bundled_model, is_frozen, resource
from monolite.clock import Clock
from monolite.inference.adapters import endpoints
from monolite.inference.adapters.core import Adapters
from monolite.inference.adapters.engine import AdapterEngine
from monolite.inference.chat import Chat
from monolite.inference.headroom import Pace
from monolite.models.decoder import CacheType
from monolite.models.file import ModelPlace
from monolite.models.language_models import LanguageModels
from monolite.models.memory import free_bytes
from monolite.models.registry import Models
from monolite.settings import Settings
from monolite.storage.data_directory import DataDirectory
from monolite.web.operation import Operation


def models_of(settings: Settings, directory: DataDirectory) -> Models:
    """The operator's own models, then those that came with the program."""
    directories = [settings.models or directory.path / "models"]
    with suppress(FileNotFoundError):
        directories.append(resource("monolite/models"))
    shipped = bundled_model()
    return Models(directories, None if shipped is None else ModelPlace(*shipped))


def language_models_of(settings: Settings, directory: DataDirectory) -> LanguageModels:
    """The operator's own, then those that came with the program, or lie beside it."""
    directories = [settings.models or directory.path / "models"]
    with suppress(FileNotFoundError):
        directories.append(resource("monolite/models"))
    if is_frozen():
        directories.append(Path("/proc/self/exe").resolve().parent)
    return LanguageModels(
        directories,
        context_tokens=settings.context_tokens,
        kv_bytes_max=settings.kv_bytes_max,
        spill=directory.path if settings.kv_spill_bytes_max else None,
        spill_bytes_max=settings.kv_spill_bytes_max,
        memory_bytes=free_bytes,
    )


def adapter_operations(
    chat: Chat, engine: AdapterEngine, clock: Clock, bytes_max: int
) -> list[Operation]:
    """The tenants' adapters, which the chat answers with."""
    chat.adapters = adapters = Adapters(engine, chat, clock)
    return endpoints.operations(adapters, bytes_max)


def chat_of(settings: Settings, directory: DataDirectory, headroom: Callable[[], float]) -> Chat:
    """The installed language models, whose threads follow the headroom."""
    return Chat(
        language_models_of(settings, directory),
        cast("CacheType", settings.kv_cache),
        lambda: int.from_bytes(os.urandom(8)),
        Pace(headroom, kernels.usable_cores(), kernels.use_threads),
    )
