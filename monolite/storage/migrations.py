"""Numbered SQL files, as both engines have them: `NNNN_what_changes.sql` from 0001 without gaps.

Each says in its header `-- compatible-from: N`: the oldest program, by the newest migration it
knows, that can run on the result.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_COMPATIBLE_FROM = re.compile(r"^--\s*compatible-from:\s*(\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    sql: str
    compatible_from: int

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex: an applied migration must never change."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(directory: Path) -> tuple[Migration, ...]:
    """The files in order. Raises ValueError for a gap in the numbers or a missing header."""
    migrations: list[Migration] = []
    for path in sorted(directory.glob("*.sql")):
        named = _FILE_NAME.fullmatch(path.name)
        sql = path.read_text("utf-8")
        header = _COMPATIBLE_FROM.search(sql)
        version = len(migrations) + 1
        if named is None or int(named[1]) != version:
            raise ValueError(f"{path}: expected a name like {version:04}_what_changes.sql")
        if header is None or not 1 <= int(header[1]) <= version:
            raise ValueError(
                f"{path}: expected a line `-- compatible-from: N` with N in 1..{version}"
            )
        migrations.append(Migration(version, named[2], sql, int(header[1])))
    if not migrations:
        raise ValueError(f"{directory}: holds no migrations")
    return tuple(migrations)


def program_root() -> Path:
    """Where the program's own files lie: the checkout, or what the executable unpacked."""
    bundle = getattr(sys, "_MEIPASS", None)
    return Path(bundle) if bundle else Path(__file__).resolve().parents[2]
