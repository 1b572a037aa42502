"""Which language models are installed: GGUF files, and the one that is open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from monolite.errors import Conflict, Invalid, Unavailable
from monolite.models.file import BadModelFile
from monolite.models.registry import DEFAULT, SHIPPED, NoSuchModel
from monolite.names import NAME_PATTERN, is_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from monolite.models.llama import Llama

SUFFIX = ".gguf"
TIER_SUFFIX = ".tier"
Tier = Literal["basic", "standard", "advanced"]
DEFAULT_NAME = "SmolLM2-135M-Instruct"
_CHUNK_BYTES = 4 << 20


PASS_BYTES = 64 << 20
"""What a pass over the weights takes besides them."""


class TooLarge(Unavailable):
    """A model that would not fit into the memory that is left."""

    code = "model_too_large"


class LanguageModel(NamedTuple):
    """An installed file, and what it says of itself, or why it can't be used."""

    path: Path
    about: About | BadModelFile


class About(NamedTuple):
    """What a GGUF says it is."""

    architecture: str
    title: str
    context_tokens: int
    licence: str


class LanguageModels:
    """The GGUF files in a list of directories; an earlier one hides its namesakes in later ones.

    `default` is the shipped model where it is there, else the first by name. One is open at a time:
    they are large. Methods may be called from any thread.
    """

    def __init__(
        self,
        directories: Sequence[Path],
        *,
        context_tokens: int,
        kv_bytes_max: int,
        spill: Path | None = None,
        spill_bytes_max: int = 0,
        memory_bytes: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.directories = tuple(directories)
        self._context_tokens = context_tokens
        self._kv_bytes_max = kv_bytes_max
        self._spill = spill
        self._spill_bytes_max = spill_bytes_max
        self._memory_bytes = memory_bytes

    def names(self) -> list[str]:
        """The names of those installed, whether or not they can be used."""
        return sorted(self._all())

    def resolve(self, name: str | None) -> str:
        """The installed model that a name means, `default` and None included.

        Raises:
            NoSuchModel: none is installed by that name.
        """
        found = self._all()
        if name in (None, DEFAULT):
            name = DEFAULT_NAME if DEFAULT_NAME in found else min(found, default=None)
        if name is None or name not in found:
            known = ", ".join(sorted(found)) or "none"
            raise NoSuchModel(
                f"no language model {name or DEFAULT} is installed (installed: {known}): "
                "monolite model add FILE.gguf"
            )
        return name

    def is_shipped(self, name: str) -> bool:
        """Whether a model came with the program.

        Raises NoSuchModel.
        """
        return self._all()[self.resolve(name)].parent not in self.directories[:1]

    def tier(self, name: str) -> Tier:
        """What an installed model is good for; `basic` unless it was added as more."""
        path = self._all().get(name)
        try:
            said = "" if path is None else path.with_suffix(TIER_SUFFIX).read_text().strip()
        except OSError:
            return "basic"
        return "advanced" if said == "advanced" else "standard" if said == "standard" else "basic"

    def open(self, name: str | None = None) -> Llama:
        """Open a model: a second for one of 100 MB.

        Raises:
            NoSuchModel: none is installed by that name.
            BadGguf: its file can't be used.
            TooLarge: the machine has no memory for it now.
            OSError: it can't be read.
        """
        from monolite.models.llama import Llama

        real = self.resolve(name)
        path = self._all()[real]
        self._require_memory(real, path)
        return Llama.open(
            path,
            real,
            context_tokens=self._context_tokens,
            kv_bytes_max=self._kv_bytes_max,
            spill=self._spill,
            spill_bytes_max=self._spill_bytes_max,
        )

    def installed(self) -> dict[str, LanguageModel]:
        """What each model says of itself, by name; tensors are not looked at."""
        return {name: LanguageModel(path, _about(path)) for name, path in self._all().items()}

    def add(
        self,
        source: Path,
        name: str | None = None,
        progress: Callable[[int, int], None] | None = None,
        *,
        tier: Tier = "basic",
    ) -> LanguageModel:
        """Install a file; it is opened first, so that one that can't be used is refused. `tier` is
        what requests it is enough for, of those that may go to a cloud.

        Raises:
            BadGguf: it can't be used.
            Conflict: a model of that name is installed.
            Invalid: the name is none that a model may have.
            OSError: it can't be read, or the models' directory not be written.
        """
        from monolite.models.llama import Llama

        wanted = name or source.name.removesuffix(SUFFIX)
        if not is_name(wanted) or wanted == DEFAULT:
            raise Invalid(f"{wanted!r} can't be a model's name (--name): {NAME_PATTERN}")
        if wanted in self._all():
            raise Conflict(f"a model {wanted} is installed: `model remove {wanted}` removes it")
        Llama.open(source, wanted, context_tokens=16, kv_bytes_max=0)
        directory = self.directories[0]
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / f"{wanted}{SUFFIX}"
        made = directory / f".{target.name}"
        try:
            _copy(source, made, progress)
            target.with_suffix(TIER_SUFFIX).write_text(tier + "\n")
            made.replace(target)
        finally:
            made.unlink(missing_ok=True)
        return LanguageModel(target, _about(target))

    def remove(self, name: str) -> Path:
        """Remove a model's file.

        Raises:
            NoSuchModel: none is installed by that name.
            Conflict: it came with the program.
        """
        path = self._all()[self.resolve(name)]
        if path.parent == SHIPPED or path.parent not in self.directories[:1]:
            raise Conflict(f"{name} comes with the program and stays")
        path.unlink()
        path.with_suffix(TIER_SUFFIX).unlink(missing_ok=True)
        return path

    def _require_memory(self, name: str, path: Path) -> None:
        """Weights are as large as the file, up to a tenth; keys and values come when needed."""
        free = self._memory_bytes()
        wanted = path.stat().st_size * 11 // 10 + PASS_BYTES
        if free is not None and wanted > free:
            raise TooLarge(
                f"{name} wants {wanted >> 20} MiB of memory for its weights, and {free >> 20} MiB"
                " are free: use a smaller file or a larger machine"
            )

    def _all(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for directory in self.directories:
            for path in sorted(directory.glob(f"[!.]*{SUFFIX}")) if directory.is_dir() else ():
                name = path.name.removesuffix(SUFFIX)
                if is_name(name):
                    found.setdefault(name, path)
        return found


def _about(path: Path) -> About | BadModelFile:
    from monolite.models.gguf import Gguf

    try:
        gguf = Gguf.open(path)
        architecture = gguf.get("general.architecture", str)
        return About(
            architecture,
            gguf.get("general.name", str, path.stem),
            gguf.get(f"{architecture}.context_length", int),
            gguf.get("general.license", str, ""),
        )
    except BadModelFile as error:
        return error


def _copy(source: Path, target: Path, progress: Callable[[int, int], None] | None) -> None:
    size, done = source.stat().st_size, 0
    with source.open("rb") as read, target.open("wb") as write:
        while piece := read.read(_CHUNK_BYTES):
            write.write(piece)
            done += len(piece)
            if progress is not None:
                progress(done, size)
        write.flush()
