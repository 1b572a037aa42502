"""Which models are installed, and those that are open."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monolite.models.file import SUFFIX, About, BadModelFile, describe

if TYPE_CHECKING:
    from monolite.models.encoder import Encoder

DEFAULT = "default"
DEFAULT_NAME = "all-MiniLM-L6-v2"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


class NoSuchModel(Exception):
    """No model of that name is installed; the message says which are."""


class Models:
    """The models in a list of directories; an earlier one hides its namesakes in later ones.

    A model is opened when it is first asked for and stays open. Methods may be called from any
    thread.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories
        self._open: dict[str, Encoder] = {}
        self._lock = threading.Lock()

    def resolve(self, name: str | None) -> str:
        """The installed model that a name means, `default` and None included.

        Raises:
            NoSuchModel: none is installed by that name.
        """
        real = DEFAULT_NAME if name in (None, DEFAULT) else name
        assert real is not None
        if real not in self._open:
            self._path(real)
        return real

    def encoder(self, name: str | None = None) -> Encoder:
        """An open model; opening one takes some 100 ms.

        Raises:
            NoSuchModel: none is installed by that name.
            BadModelFile: its file is damaged.
        """
        real = self.resolve(name)
        found = self._open.get(real)
        if found is None:
            from monolite.models.encoder import Encoder

            with self._lock:
                found = self._open.get(real)
                if found is None:
                    found = self._open[real] = Encoder.open(self._path(real))
        return found

    def installed(self) -> dict[str, About | BadModelFile]:
        """What each model is, or why it can't be used, by name."""
        found: dict[str, About | BadModelFile] = {}
        for name, path in self._files().items():
            try:
                found[name] = describe(path)
            except BadModelFile as error:
                found[name] = error
        return found

    def _files(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for directory in self._directories:
            for path in sorted(directory.glob(f"*{SUFFIX}")) if directory.is_dir() else ():
                found.setdefault(path.name.removesuffix(SUFFIX), path)
        return dict(sorted(found.items()))

    def _path(self, name: str) -> Path:
        files = self._files()
        if not NAME.match(name) or name not in files:
            known = ", ".join(files) or "none"
            raise NoSuchModel(f"no model {name} is installed (installed: {known})")
        return files[name]
