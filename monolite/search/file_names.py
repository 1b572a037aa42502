"""The mapped files in a directory."""

from __future__ import annotations

from pathlib import Path

from monolite.search.vector_file import last_key


def drop_strangers(directory: Path, known: set[int], newest: int) -> None:
    """Remove files of indexes that are not known, half-made ones, and those with a key beyond the
    newest that was given out: the database was restored to before it.
    """
    for path in directory.iterdir():
        number = path.stem
        is_ours = path.suffix == ".vectors" and number.isdigit() and int(number) in known
        if not is_ours or last_key(path) > newest:
            path.unlink(missing_ok=True)
