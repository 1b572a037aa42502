"""Promoted fields in SQLite: VIRTUAL generated columns of `documents`, and the SQL that fills them.

SQLite can add a VIRTUAL column to a filled table in under a millisecond and no STORED one at all.
Tenants whose fields agree in path and kind share a column: it costs an insert nothing until an
index reads it. Nothing of a caller's gets into the text of a statement but a parsed path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import apsw

from monolite.documents.fields import STRING_BYTES_MAX, Field, Kind
from monolite.documents.paths import Steps
from monolite.errors import Conflict

COLUMNS_MAX = 1000
"""Of an installation. SQLite ends at 2000, and reads the definitions of all at every start."""

_TYPES: Mapping[Kind, str] = {
    "integer": "INTEGER",
    "number": "REAL",
    "string": "TEXT",
    "boolean": "INTEGER",
}


def json_path(steps: Steps) -> str:
    """Steps as a literal of SQLite's path language."""
    parts = [f"[{step}]" if isinstance(step, int) else f'."{step}"' for step in steps]
    return "'" + ("$" + "".join(parts)).replace("'", "''") + "'"


def typed(kind: Kind, steps: Steps, data: str = "data") -> str:
    """An expression: the value at a place where it has the kind, else NULL."""
    path = json_path(steps)
    of_type, value = f"CASE json_type({data}, {path})", f"{data} ->> {path}"
    if kind == "string":
        return f"{of_type} WHEN 'text' THEN {value} END"
    if kind == "boolean":
        return f"{of_type} WHEN 'true' THEN 1 WHEN 'false' THEN 0 END"
    if kind == "number":
        return f"{of_type} WHEN 'integer' THEN {value} WHEN 'real' THEN {value} END"
    whole = f"CAST({value} AS INTEGER)"
    return (
        f"{of_type} WHEN 'integer' THEN {value}"
        f" WHEN 'real' THEN CASE WHEN {whole} = ({value}) THEN {whole} END END"
    )


def sortable(steps: Steps, data: str = "d.data") -> str:
    """An expression to sort by: numbers, then strings, then x'' for all else."""
    path = json_path(steps)
    return (
        f"CASE WHEN json_type({data}, {path}) IN ('integer', 'real', 'text')"
        f" THEN {data} ->> {path} ELSE x'' END"
    )


def columns_of(connection: apsw.Connection, fields: Iterable[Field]) -> dict[str, str]:
    """The column of each field that has one, by the field's name."""
    found: dict[str, str] = {}
    for field in fields:
        row = connection.execute(
            "SELECT number FROM promoted_columns WHERE path = ? AND kind = ?",
            (field.path, field.kind),
        ).fetchone()
        if row is not None:
            found[field.name] = f"promoted_{row[0]}"
    return found


def add_columns(connection: apsw.Connection, fields: Iterable[Field]) -> None:
    """Make the columns that fields lack; raises Conflict past COLUMNS_MAX."""
    fields = list(fields)
    existing = columns_of(connection, fields)
    for field in fields:
        if field.name in existing or columns_of(connection, [field]):
            continue
        (count,) = connection.execute("SELECT count(*) FROM promoted_columns").fetchone() or (0,)
        if count >= COLUMNS_MAX:
            raise Conflict(
                f"This installation has {COLUMNS_MAX} promoted columns, the most it takes; use"
                " paths and types that others use already, or filter by the JSON path.",
                code="too_many_promoted_fields",
            )
        connection.execute(
            "INSERT INTO promoted_columns (path, kind) VALUES (?, ?)", (field.path, field.kind)
        )
        expression = typed(field.kind, field.steps)
        if field.kind == "string":
            value = f"data ->> {json_path(field.steps)}"
            expression = (
                f"CASE WHEN json_type(data, {json_path(field.steps)}) = 'text'"
                f" AND octet_length({value}) <= {STRING_BYTES_MAX} THEN {value} END"
            )
        connection.execute(
            f"ALTER TABLE documents ADD COLUMN promoted_{connection.last_insert_rowid()}"
            f" {_TYPES[field.kind]} GENERATED ALWAYS AS ({expression}) VIRTUAL"
        )


def drop_unused_columns(connection: apsw.Connection) -> int:
    """Drop the columns that no collection's field names any more; returns how many."""
    unused = connection.execute(
        "SELECT number FROM promoted_columns WHERE (path, kind) NOT IN (SELECT value ->> '$.path',"
        " value ->> '$.kind' FROM collections, json_each(fields))"
    ).fetchall()
    for (number,) in unused:
        connection.execute(f"ALTER TABLE documents DROP COLUMN promoted_{number}")
        connection.execute("DELETE FROM promoted_columns WHERE number = ?", (number,))
    return len(unused)
