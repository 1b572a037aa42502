"""A list and a count as PostgreSQL's statements; which index serves, its planner decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from monolite.documents.access import conjunction
from monolite.documents.collection import Explanation
from monolite.documents.document import Document
from monolite.documents.fields import Kind
from monolite.documents.filters import Group
from monolite.documents.postgres_catalog import Entry
from monolite.documents.postgres_filters import FilterSql
from monolite.documents.query import Found, Query

_COLUMNS = "d.key, d.id, d.data::text, d.revision, d.created_at, d.updated_at"
_COLUMN_COUNT = 6


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement to run."""

    text: str
    parameters: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Key:
    text: str
    kind: Kind
    descending: bool


def find_statement(entry: Entry, tenant_id: int, query: Query) -> Statement:
    """The statement for a page: key, the document's members, then the sort keys, limit + 1 rows."""
    sql, where = _start(entry, tenant_id, query.where)
    keys = _keys(sql, query)
    if query.after is not None:
        where.append(_beyond(sql, keys, _values(query)))
    order = ", ".join(f"{k.text} {'DESC' if k.descending else 'ASC'}" for k in keys)
    sorted_by = "".join(f", {k.text}" for k in keys[:-1])
    text = (
        f"SELECT {_COLUMNS}{sorted_by} FROM documents d WHERE {' AND '.join(where)}"
        f" ORDER BY {order} LIMIT {sql.bind(query.limit + 1, 'integer')}"
    )
    return Statement(text, tuple(sql.parameters))


def count_statement(entry: Entry, tenant_id: int, where: Group) -> Statement:
    """The statement for an exact count."""
    sql, conditions = _start(entry, tenant_id, where)
    text = f"SELECT count(*) FROM documents d WHERE {' AND '.join(conditions)}"
    return Statement(text, tuple(sql.parameters))


def found(rows: Sequence[Any], query: Query) -> Found:
    """A page of what `find_statement` gave."""
    documents = [Document(*row[1:_COLUMN_COUNT]) for row in rows[: query.limit]]
    if len(rows) <= query.limit:
        return Found(documents, None)
    last = rows[query.limit - 1]
    values = [str(v) if isinstance(v, Decimal) else v for v in last[_COLUMN_COUNT:]]
    position: list[Any] = []
    for order in query.order:
        # A path has two keys, its number and its string.
        count = 2 if order.target.column is None else 1
        position.append(values[:count])
        del values[:count]
    return Found(documents, [*position, last[0]])


def _start(entry: Entry, tenant_id: int, where: Group) -> tuple[FilterSql, list[str]]:
    sql = FilterSql(entry.columns)
    number = entry.collection.number
    if any(index.tenant_only for index in entry.collection.indexes):
        # A partial index serves only where the plan can see whose documents are asked for.
        scope = [f"d.tenant_id = {tenant_id:d}", f"d.collection_id = {number:d}"]
    else:
        scope = [
            f"d.tenant_id = {sql.bind(tenant_id, 'integer')}",
            f"d.collection_id = {sql.bind(number, 'integer')}",
        ]
    if where.members:
        scope.append(sql.where(where))
    return sql, [*scope, *sql.contents(conjunction(where))]


def _keys(sql: FilterSql, query: Query) -> list[_Key]:
    keys = [
        _Key(text, kind, order.descending)
        for order in query.order
        for text, kind in sql.sort_keys(order.target)
    ]
    return [*keys, _Key("d.key", "integer", query.descending)]


def _values(query: Query) -> list[Any]:
    assert query.after is not None  # callers look first
    *position, key = query.after
    return [*(value for values in position for value in values), key]


def _beyond(sql: FilterSql, keys: Sequence[_Key], values: Sequence[Any]) -> str:
    """Behind a row in the order: NULL comes last, and first where descending."""
    ways: list[str] = []
    equal: list[str] = []
    for key, value in zip(keys, values, strict=True):
        if value is None:
            if key.descending:
                ways.append(" AND ".join([*equal, f"{key.text} IS NOT NULL"]))
            equal.append(f"{key.text} IS NULL")
            continue
        mark = sql.bind(Decimal(value) if key.kind == "number" else value, key.kind)
        beyond = f"{key.text} {'<' if key.descending else '>'} {mark}"
        if not key.descending and key.text != "d.key":
            beyond = f"({beyond} OR {key.text} IS NULL)"
        ways.append(" AND ".join([*equal, beyond]))
        equal.append(f"{key.text} = {mark}")
    return f"({' OR '.join(f'({way})' for way in ways)})"


def explained(entry: Entry, statement: Statement, plan: Sequence[str]) -> Explanation:
    """What PostgreSQL's EXPLAIN says, in our words."""
    by_name = {
        f"documents_x{entry.built[index.id]}": index.name for index in entry.collection.indexes
    }
    words = {word for line in plan for word in line.split()}
    return Explanation(
        engine="postgresql",
        index=next((by_name[name] for name in by_name if name in words), None),
        parses_json_per_row=any(
            "data" in line and line.lstrip().startswith(("Filter:", "Sort Key:")) for line in plan
        ),
        plan=tuple(plan),
        statement=statement.text,
    )
