"""The mapped files in a directory. Imports no numpy: this is looked at before the first answer."""

from __future__ import annotations

from pathlib import Path

from monolite.search.vector_header import last_key

_SUFFIX = ".vectors"


def path_of(directory: Path, number: int) -> Path:
    """Where the file of an index lies."""
    return directory / f"{number}{_SUFFIX}"


def numbers_in(directory: Path) -> set[int]:
    """The indexes that have a file."""
    if not directory.is_dir():
        return set()
    stems = (path.stem for path in directory.iterdir() if path.suffix == _SUFFIX)
    return {int(stem) for stem in stems if stem.isdigit()}


def drop_strangers(directory: Path, known: set[int], newest: int) -> None:
    """Remove files of indexes that are not known, half-made ones, and those with a key beyond the
    newest that was given out: the database was restored to before it.
    """
    for path in directory.iterdir():
        number = path.stem
        is_ours = path.suffix == _SUFFIX and number.isdigit() and int(number) in known
        if not is_ours or last_key(path) > newest:
            path.unlink(missing_ok=True)
