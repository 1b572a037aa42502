"""Which models are installed, and those that are open."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from monolite.errors import Conflict, Invalid, NotFound
from monolite.models.file import SUFFIX, About, BadModelFile, ModelPlace, describe
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
    """Where a model lies, and what it says it is, or why it can't be used."""

    place: ModelPlace
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
    from any thread. `shipped` is where the default model lies if not in one of them: within the
    executable, which maps itself.
    """

    def __init__(self, directories: Sequence[Path], shipped: ModelPlace | None = None) -> None:
        self.directories = tuple(directories)
        self._shipped = shipped
        self._open: dict[ModelPlace, _Open] = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """The names of the models installed, whether or not they can be used."""
        return sorted(self._all())

    def resolve(self, name: str | None) -> str:
        """The installed model that a name means, `default` and None included.

        Raises:
            NoSuchModel: none is installed by that name.
        """
        return self._found(name)[0]

    def opened(self, name: str | None = None) -> Encoder | None:
        """The model if it is open already, and its file is still the one that was opened.

        Raises:
            NoSuchModel: none is installed by that name.
        """
        _, place = self._found(name)
        found = self._open.get(place)
        return found.encoder if found is not None and found.version == _version(place) else None

    def encoder(self, name: str | None = None) -> Encoder:
        """An open model; opening one takes some 100 ms, asking again some 10 µs.

        Raises:
            NoSuchModel: none is installed by that name.
            BadModelFile: its file is damaged, or holds a model of another name.
        """
        real, place = self._found(name)
        if (found := self.opened(name)) is not None:
            return found
        from monolite.models.encoder import Encoder

        with self._lock:
            if (found := self.opened(name)) is not None:
                return found
            version = _version(place)
            encoder = Encoder.open(place.path, offset=place.offset, length=place.length)
            _require_name(real, place, encoder.about)
            self._open[place] = _Open(version, encoder)
        return encoder

    def installed(self) -> dict[str, Installed]:
        """What each model is, or why it can't be used, by name; their arrays are not looked at."""
        return {name: Installed(place, _about(name, place)) for name, place in self._all().items()}

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
        if wanted in self._all():
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
        return Installed(ModelPlace(target), about)

    def remove(self, name: str) -> Path:
        """Remove a model's file; a server that has it open keeps it until it is asked again.

        Raises:
            NoSuchModel: none is installed by that name.
            Conflict: it came with the program.
        """
        real, place = self._found(name)
        if place == self._shipped or place.path.parent == SHIPPED:
            raise Conflict(f"{real} comes with the program and stays")
        place.path.unlink()
        self._open.pop(place, None)
        return place.path

    def _all(self) -> dict[str, ModelPlace]:
        found: dict[str, ModelPlace] = {}
        for directory in self.directories:
            for path in directory.glob(f"[!.]*{SUFFIX}") if directory.is_dir() else ():
                found.setdefault(path.name.removesuffix(SUFFIX), ModelPlace(path))
        if self._shipped is not None:
            found.setdefault(DEFAULT_NAME, self._shipped)
        return dict(sorted(found.items()))

    def _found(self, name: str | None) -> tuple[str, ModelPlace]:
        """A model's own name, and where it lies."""
        real = DEFAULT_NAME if name in (None, DEFAULT) else name
        assert real is not None
        if is_name(real):
            for directory in self.directories:
                path = directory / f"{real}{SUFFIX}"
                if path.is_file():
                    return real, ModelPlace(path)
        if real == DEFAULT_NAME and self._shipped is not None:
            return real, self._shipped
        known = ", ".join(self._all()) or "none; in a checkout, `make setup` makes the default"
        raise NoSuchModel(f"no model {real} is installed (installed: {known})")


def _version(place: ModelPlace) -> tuple[int, int, int]:
    facts = place.path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def _about(name: str, place: ModelPlace) -> About | BadModelFile:
    try:
        about = describe(place)
        _require_name(name, place, about)
    except BadModelFile as error:
        return error
    return about


def _require_name(name: str, place: ModelPlace, about: About) -> None:
    if about.name != name:
        raise BadModelFile(
            f"{place.path} holds the model {about.name}: a model is called as its file is. "
            f"Rename the file, or remove it and add it again"
        )
