"""The schema as it is shipped: schema.sql for a new file, numbered migrations for an old one.

schema.sql                    what a new file gets, in one transaction
migrations/NNNN_name.sql      0001 is the first release's whole schema; each says in its
header `-- compatible-from: N`: the oldest program, by the
newest migration it knows, that can run on the result
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import apsw

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_COMPATIBLE_FROM = re.compile(r"^--\s*compatible-from:\s*(\d+)\s*$", re.MULTILINE)
_TOKEN = re.compile(r"--[^\n]*|/\*.*?\*/|\s+|('(?:[^']|'')*'|\"[^\"]*\"|\w+|.)", re.DOTALL)


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


@dataclass(frozen=True)
class Schema:
    """`sql` makes a new file; `migrations`, in order and without gaps, bring an old one there."""

    sql: str
    migrations: tuple[Migration, ...]

    @property
    def version(self) -> int:
        """The newest migration's number: what this program calls its schema version."""
        return self.migrations[-1].version


def load_schema(schema_file: Path, migrations_directory: Path) -> Schema:
    """Reads a schema. Raises ValueError for a gap in the numbers or a missing header."""
    migrations: list[Migration] = []
    for path in sorted(migrations_directory.glob("*.sql")):
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
        raise ValueError(f"{migrations_directory}: holds no migrations")
    return Schema(schema_file.read_text("utf-8"), tuple(migrations))


def shipped_schema() -> Schema:
    """The program's own schema, from the checkout or from inside the executable."""
    bundle = getattr(sys, "_MEIPASS", None)
    root = Path(bundle) if bundle else Path(__file__).resolve().parents[3]
    return load_schema(root / "schema.sql", root / "monolite" / "storage" / "sqlite" / "migrations")


def outline(connection: apsw.Connection) -> list[tuple[str, str, str]]:
    """Every object of a database as (type, name, SQL without comments and spacing), sorted.

    Two databases of one outline were made alike, whether by schema.sql or by migrations: ALTER
    TABLE keeps the old text and its spacing, so the raw text would differ.
    """
    rows = connection.execute(
        "SELECT type, name, coalesce(sql, '') FROM sqlite_master "
        "WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"
    )
    return [(str(kind), str(name), _tokens(str(sql))) for kind, name, sql in rows]


def _tokens(sql: str) -> str:
    return " ".join(token for token in _TOKEN.findall(sql) if token)
