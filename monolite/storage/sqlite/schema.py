"""The schema as it is shipped: schema.sql for a new file, numbered migrations for an old one.

schema.sql                    what a new file gets, in one transaction
migrations/NNNN_name.sql      0001 is the first release's whole schema (see storage/migrations.py)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import apsw

from monolite.storage.migrations import Migration, load_migrations, program_root

_TOKEN = re.compile(r"--[^\n]*|/\*.*?\*/|\s+|('(?:[^']|'')*'|\"[^\"]*\"|\w+|.)", re.DOTALL)


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
    migrations = load_migrations(migrations_directory)
    return Schema(schema_file.read_text("utf-8"), migrations)


def shipped_schema() -> Schema:
    """The program's own schema, from the checkout or from inside the executable."""
    root = program_root()
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
