"""Which models are installed, and those that are open."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from monolite.errors import Conflict, Invalid, NotFound
from monolite.models.file import SUFFIX, About, BadModelFile, describe
from monolite.names import NAME_PATTERN, is_name

if TYPE_CHECKING:
    from monolite.models.encoder import Encoder

DEFAULT = "default"
DEFAULT_NAME = "all-MiniLM-L6-v2"
SHIPPED = Path(__file__).resolve().parent
"""Where `make setup` puts the default model."""


class NoSuchModel(NotFound):
    """No model of that name is installed; the message says which are."""

    code = "model_not_found"


class Installed(NamedTuple):
    """A model's file, and what it says it is, or why it can't be used."""

    path: Path
    about: About | BadModelFile


class _Open(NamedTuple):
    # Inode, size and time: a file that was replaced is another model, of which an open mapping of
    # the old one tells nothing.
    version: tuple[int, int, int]
    encoder: Encoder


class Models:
    """The models in a list of directories; an earlier one hides its namesakes in later ones.

    A model is opened when it is first asked for, and stays open until its file is removed or
    replaced; all tenants share it. Models are added to the first directory. Methods may be called
    from any thread. `shipped` brings the default model's file where it lies in none of them.
    """

    def __init__(
        self, directories: Sequence[Path], shipped: Callable[[], Path | None] | None = None
    ) -> None:
        self.directories = tuple(directories)
        self._shipped = shipped
        self._open: dict[Path, _Open] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """The names of the models installed, whether or not they can be used."""
        return sorted(self._files())

    def resolve(self, name: str | None) -> str:
        """The installed model that a name means, `default` and None included.

        Raises:
            NoSuchModel: none is installed by that name.
        """
        return self._path(name).name.removesuffix(SUFFIX)

    def opened(self, name: str | None = None) -> Encoder | None:
        """The model if it is open already, and its file is still the one that was opened.

        Raises:
            NoSuchModel: none is installed by that name.
        """
        path = self._path(name)
        found = self._open.get(path)
        return found.encoder if found is not None and found.version == _version(path) else None

    def encoder(self, name: str | None = None) -> Encoder:
        """An open model; opening one takes some 100 ms, asking again some 10 µs.

        Raises:
            NoSuchModel: none is installed by that name.
            BadModelFile: its file is damaged, or holds a model of another name.
        """
        path = self._path(name)
        if (found := self.opened(name)) is not None:
            return found
        from monolite.models.encoder import Encoder

        with self._lock:
            if (found := self.opened(name)) is not None:
                return found
            version = _version(path)
            encoder = Encoder.open(path)
            _require_name(path, encoder.about)
            self._open[path] = _Open(version, encoder)
        return encoder

    def installed(self) -> dict[str, Installed]:
        """What each model is, or why it can't be used, by name; their arrays are not looked at."""
        return {name: Installed(path, _about(path)) for name, path in self._files().items()}

    def add(
        self,
        source: Path,
        name: str | None = None,
        *,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        licence: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> Installed:
        """Install a checkpoint's directory, the weights' file in one, or a model file.

        A checkpoint is quantized; see conversion.convert for the prefixes. The name is the
        source's own where none is given.

        Raises:
            BadCheckpoint: no encoder can be made of it.
            BadModelFile: a model file that is damaged.
            Conflict: a model of that name is installed, and an index may be of its vectors.
            Invalid: the name is none that a model may have.
            OSError: it can't be read, or the models' directory not be written.
        """
        source = source.resolve()
        is_model = source.suffix == SUFFIX
        if not is_model and source.is_file():
            source = source.parent
        wanted = name or source.name.removesuffix(SUFFIX)
        if not is_name(wanted) or wanted == DEFAULT:
            raise Invalid(f"{wanted!r} can't be a model's name (--name): {NAME_PATTERN}")
        if wanted in self._files():
            raise Conflict(
                f"a model {wanted} is installed: vectors of two models can't be compared, so a new "
                f"one needs another name (--name). `model remove {wanted}` removes the old one"
            )
        directory = self.directories[0]
        directory.mkdir(parents=True, exist_ok=True)
        target = directory / f"{wanted}{SUFFIX}"
        if is_model:
            from monolite.models.file import ModelFile, write

            model = ModelFile.open(source)
            about = msgspec.structs.replace(model.about, name=wanted)
            write(target, about, model.arrays)
        else:
            from monolite.models.conversion import convert

            about = convert(
                source,
                target,
                wanted,
                query_prefix=query_prefix,
                passage_prefix=passage_prefix,
                licence=licence,
                progress=progress,
            )
        return Installed(target, about)

    def remove(self, name: str) -> Path:
        """Remove a model's file; a server that has it open keeps it until it is asked again.

        Raises:
            NoSuchModel: none is installed by that name.
            Conflict: it came with the program.
        """
        path = self._path(name)
        if path.parent == SHIPPED:
            raise Conflict(f"{path.name.removesuffix(SUFFIX)} comes with the program and stays")
        path.unlink()
        self._open.pop(path, None)
        return path

    def _files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for directory in self.directories:
            for path in directory.glob(f"[!.]*{SUFFIX}") if directory.is_dir() else ():
                found.setdefault(path.name.removesuffix(SUFFIX), path)
        if DEFAULT_NAME not in found and self._shipped is not None:
            brought = self._shipped()
            if brought is not None:
                found[DEFAULT_NAME] = brought
        return dict(sorted(found.items()))

    def _path(self, name: str | None) -> Path:
        real = DEFAULT_NAME if name in (None, DEFAULT) else name
        assert real is not None
        if is_name(real):
            for directory in self.directories:
                path = directory / f"{real}{SUFFIX}"
                if path.is_file():
                    return path
        if real == DEFAULT_NAME and self._shipped is not None:
            brought = self._shipped()
            if brought is not None:
                return brought
        known = ", ".join(self._files()) or "none; in a checkout, `make setup` makes the default"
        raise NoSuchModel(f"no model {real} is installed (installed: {known})")


def _version(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _about(path: Path) -> About | BadModelFile:
    try:
        about = describe(path)
        _require_name(path, about)
    except BadModelFile as error:
        return error
    return about


def _require_name(path: Path, about: About) -> None:
    if f"{about.name}{SUFFIX}" != path.name:
        raise BadModelFile(
            f"{path} holds the model {about.name}: a model is called as its file is. "
            f"Rename the file, or remove it and add it again"
        )
