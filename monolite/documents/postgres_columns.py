"""Promoted fields in PostgreSQL: STORED columns where they cost nobody a wait, else expressions.

Adding a STORED column to a filled table writes every row anew under a lock that nobody passes, in
PostgreSQL 16 as before. So a column is added while the table is empty, and later a promoted field
is an expression, which an index computes once for each write. Nothing of a caller's gets into the
text of a statement but a parsed path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from monolite.documents.fields import STRING_BYTES_MAX, Field, Kind
from monolite.documents.paths import Steps

COLUMNS_MAX = 200
"""Of an installation: each lengthens every row, also those that have no such field."""

TYPES: Mapping[Kind, str] = {
    "integer": "bigint",
    "number": "numeric",
    "string": 'text COLLATE "C"',
    "boolean": "boolean",
}

_LOCK_TIMEOUT_MS = 200


def at(steps: Steps, data: str = "data") -> str:
    """An expression: the JSON at a place, or NULL. A key finds objects alone, a number arrays."""
    return f"({_chain(steps, data)})"


def text_at(steps: Steps, data: str = "data") -> str:
    """An expression: the text of the JSON at a place; NULL for null and for none."""
    *before, last = steps
    if isinstance(last, int):
        return f"({_chain(steps, data)} #>> '{{}}')"
    return f"({_chain(before, data)} ->> {_literal(last)})"


def _chain(steps: Sequence[str | int], data: str) -> str:
    value = data
    for step in steps:
        if isinstance(step, str):
            value = f"{value} -> {_literal(step)}"
        else:
            # `->` would find a scalar at its position 0.
            value = f"jsonb_path_query_first({value}, 'strict $[{step:d}]', '{{}}', true)"
    return value


def typed(kind: Kind, steps: Steps, data: str = "data") -> str:
    """An expression: the value at a place where it has the kind, else NULL."""
    json = at(steps, data)
    of_type = f"CASE jsonb_typeof({json})"
    if kind == "string":
        return f"({of_type} WHEN 'string' THEN {text_at(steps, data)} END) COLLATE \"C\""
    if kind == "boolean":
        return f"({of_type} WHEN 'boolean' THEN {json}::boolean END)"
    number = f"{json}::numeric"
    if kind == "number":
        return f"({of_type} WHEN 'number' THEN {number} END)"
    # Nested, since the parts of an AND are computed in any order.
    return (
        f"({of_type} WHEN 'number' THEN CASE WHEN {number} = trunc({number})"
        f" THEN CASE WHEN abs({number}) < 9223372036854775807 THEN {number}::bigint END END END)"
    )


def promoted(field: Field, data: str = "data") -> str:
    """What a promoted field holds; a long string counts as missing."""
    value = typed(field.kind, field.steps, data)
    if field.kind != "string":
        return value
    text = text_at(field.steps, data)
    return (
        f"(CASE jsonb_typeof({at(field.steps, data)}) WHEN 'string' THEN CASE WHEN"
        f' octet_length({text}) <= {STRING_BYTES_MAX} THEN {text} END END) COLLATE "C"'
    )


async def columns_of(connection: Any, fields: Iterable[Field]) -> dict[str, str]:
    """The column of each field that has one, by the field's name."""
    fields = list(fields)
    if not fields:
        return {}
    rows = await connection.fetch(
        "SELECT path, kind, number FROM promoted_columns WHERE path = ANY($1)",
        [field.path for field in fields],
    )
    numbers = {(path, kind): number for path, kind, number in rows}
    return {
        field.name: f"promoted_{numbers[field.path, field.kind]}"
        for field in fields
        if (field.path, field.kind) in numbers
    }


async def add_columns(connection: Any, fields: Iterable[Field]) -> None:
    """Make the columns that fields lack, in an open transaction, if no document is there yet.

    Where the table is filled, or another server is at it, nothing is done: expressions serve.
    """
    existing = await columns_of(connection, fields)
    missing = {(f.path, f.kind): f for f in fields if f.name not in existing}
    if not missing or await connection.fetchval("SELECT EXISTS (SELECT FROM documents)"):
        return
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
            await connection.execute("LOCK TABLE documents IN ACCESS EXCLUSIVE MODE")
            if await connection.fetchval("SELECT EXISTS (SELECT FROM documents)"):
                return
            count = await connection.fetchval("SELECT count(*) FROM promoted_columns")
            for field in list(missing.values())[: COLUMNS_MAX - count]:
                number = await connection.fetchval(
                    "INSERT INTO promoted_columns (path, kind) VALUES ($1, $2) RETURNING number",
                    field.path,
                    field.kind,
                )
                await connection.execute(
                    f"ALTER TABLE documents ADD COLUMN promoted_{number} {TYPES[field.kind]}"
                    f" GENERATED ALWAYS AS ({promoted(field)}) STORED"
                )
    except (asyncpg.LockNotAvailableError, asyncpg.UniqueViolationError):
        return


async def drop_unused_columns(connection: Any) -> int:
    """Drop the columns that no collection's field names any more; returns how many.

    PostgreSQL only marks them dropped; the lock is asked for briefly, and again another time.
    """
    unused = await connection.fetch(
        "SELECT number FROM promoted_columns WHERE (path, kind) NOT IN (SELECT f ->> 'path',"
        " f ->> 'kind' FROM collections, jsonb_array_elements(fields::jsonb) f)"
    )
    try:
        for (number,) in unused:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
                await connection.execute(f"ALTER TABLE documents DROP COLUMN promoted_{number}")
                await connection.execute("DELETE FROM promoted_columns WHERE number = $1", number)
    except asyncpg.LockNotAvailableError:
        return 0
    return len(unused)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
