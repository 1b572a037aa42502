"""How a query runs in SQLite: which index leads, and the statement.

Entries of an index are a table, so the choice is made here and not by SQLite's planner: the index
with the most conditions in its leading fields, told apart by counting a few of the entries that
each would read. SQLite then seeks in the entries' primary key, and sorts only if the key's order
is not the query's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import apsw

from monolite.documents.access import Access, access_of, conjunction
from monolite.documents.filters import Condition, Group
from monolite.documents.query import Query
from monolite.documents.sqlite_catalog import Entry
from monolite.documents.sqlite_filters import MISSING, FilterSql

PROBED = (200, 5000)
"""Entries counted to tell indexes apart: the second number where the first told nothing."""

_ROWS_MAX = 300
_CHOICES_MAX = 256
_CHOICE_S = 1.0

_VALUES = ("v1", "v2", "v3")
_INCLUDED = ("x1", "x2")
_COLUMNS = "d.key, d.id, json(d.data), d.revision, d.created_at, d.updated_at"
_RANGES = ("gt", "gte", "lt", "lte")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement to run. `may_be_brief` unless it is sure to look at a whole collection."""

    text: str
    parameters: tuple[Any, ...]
    access: Access
    parses_json: bool
    sort_keys: int
    may_be_brief: bool


def find_statement(
    connection: apsw.Connection, entry: Entry, tenant_id: int, query: Query
) -> Statement:
    """The statement for a page: key, the document's members, then the sort keys, limit + 1 rows."""
    access = choose(connection, entry, tenant_id, query)
    sql = FilterSql(entry.columns, _entered(access))
    source, where = _source(sql, entry, tenant_id, access)
    rest = _rest(query.where, access)
    if rest.members:
        where.append(sql.where(rest))
    filter_parses = sql.parses_json
    keys = [(sql.sort_key(order.target), order.descending) for order in query.order]
    keys.append(("e.key" if access.index is not None else "d.key", query.descending))
    if query.after is not None:
        where.append(_beyond(sql, keys, query.after))
    order = ", ".join(f"{key} {'DESC' if descending else 'ASC'}" for key, descending in keys)
    sort_keys = [key for key, _ in keys[:-1]]
    if access.index is not None and not sql.needs_document:
        # Sorted as keys, not as documents. The outer loop of a CROSS JOIN keeps the order.
        inner = "".join(f", {key} AS s{at}" for at, key in enumerate(sort_keys))
        source = (
            f"(SELECT e.key{inner} FROM {source} WHERE {' AND '.join(where)} ORDER BY {order}"
            f" LIMIT {sql.bind(query.limit + 1)}) e CROSS JOIN documents d ON d.key = e.key"
        )
        sort_keys = [f"e.s{at}" for at in range(len(sort_keys))]
        tail = ""
    else:
        if access.index is not None:
            source += " CROSS JOIN documents d ON d.key = e.key"
        limit = sql.bind(query.limit + 1)
        tail = f" WHERE {' AND '.join(where)} ORDER BY {order} LIMIT {limit}"
    text = f"SELECT {', '.join([_COLUMNS, *sort_keys])} FROM {source}{tail}"
    is_page = not rest.members and access.is_ordered and query.limit <= _ROWS_MAX
    return Statement(
        text,
        tuple(sql.parameters),
        access,
        filter_parses or sql.parses_json,
        len(keys) - 1,
        access.index is not None or access.is_few or is_page,
    )


def count_statement(
    connection: apsw.Connection, entry: Entry, tenant_id: int, where: Group
) -> Statement:
    """The statement for an exact count; of an index's entries alone where they hold enough."""
    access = choose(connection, entry, tenant_id, Query(where), stops_early=False)
    sql = FilterSql(entry.columns, _entered(access))
    source, conditions = _source(sql, entry, tenant_id, access)
    rest = _rest(where, access)
    if rest.members:
        conditions.append(sql.where(rest))
    if access.index is not None and sql.needs_document:
        source += " CROSS JOIN documents d ON d.key = e.key"
    text = f"SELECT count(*) FROM {source} WHERE {' AND '.join(conditions)}"
    is_brief = access.index is not None or access.is_few
    return Statement(text, tuple(sql.parameters), access, sql.parses_json, 0, is_brief)


def choose(
    connection: apsw.Connection,
    entry: Entry,
    tenant_id: int,
    query: Query,
    *,
    stops_early: bool = True,
) -> Access:
    """The way to take; `stops_early` where a page is wanted, and not all that pass."""
    wanted = conjunction(query.where)
    by_id = any(c.target.built_in == "id" and c.operator in ("eq", "in") for c in wanted)
    if by_id:
        return Access(None, by_id=True, is_few=True)
    ways = [
        way
        for index in entry.collection.indexes
        if index.state == "ready"
        and ((way := access_of(index, wanted, query)).sought or (query.order and way.is_ordered))
    ]
    if not ways:
        first = query.order[0].target if query.order else None
        return Access(
            None,
            is_ordered=not query.order,
            by_id=first is not None and first.built_in == "id",
        )
    if len(ways) == 1:
        return ways[0]
    asked = (stops_early, *[(way.is_ordered, *map(_asked, way.sought)) for way in ways])
    now = monotonic()
    until, at = entry.choices.get(asked, (0.0, 0))
    if until < now:
        at = ways.index(_cheapest(connection, entry, tenant_id, ways, stops_early))
        if len(entry.choices) >= _CHOICES_MAX:
            entry.choices.clear()
        entry.choices[asked] = (now + _CHOICE_S, at)
    return ways[at]


def _asked(condition: Condition) -> tuple[Any, ...]:
    # With its type: 1, 1.0 and true are one key of a dictionary.
    return condition.target.column, condition.operator, condition.negated, repr(condition.value)


def _cheapest(
    connection: apsw.Connection,
    entry: Entry,
    tenant_id: int,
    ways: Sequence[Access],
    stops_early: bool,
) -> Access:
    for count_max in PROBED:
        counted = [(_probe(connection, entry, tenant_id, way, count_max), way) for way in ways]
        rows, _, _, at = min(
            (rows, not way.is_ordered, -len(way.sought), at)
            for at, (rows, way) in enumerate(counted)
        )
        if rows <= count_max:
            return ways[at]
        # In the query's order it may stop at the end of the page, and mostly does.
        ordered = [way for way in ways if way.is_ordered and stops_early]
        if ordered:
            return max(ordered, key=lambda way: len(way.sought))
    return max(ways, key=lambda way: len(way.sought))


def _rest(group: Group, access: Access) -> Group:
    """The filter without what the index's entries fulfil already."""
    if group.negated or (group.joint == "or" and len(group.members) > 1):
        return Group("and", (group,))
    members: list[Condition | Group] = []
    for member in group.members:
        if isinstance(member, Group):
            inner = _rest(member, access)
            members += [inner] if inner.members else []
        elif not any(member is sought for sought in access.sought) or member.operator == "like":
            members.append(member)
    return Group("and", tuple(members))


def _entered(access: Access) -> Mapping[str, str]:
    if access.index is None:
        return {}
    included = zip(access.index.included, _INCLUDED, strict=False)
    return {**dict(included), **dict(zip(access.index.fields, _VALUES, strict=False))}


def _source(sql: FilterSql, entry: Entry, tenant_id: int, access: Access) -> tuple[str, list[str]]:
    tenant = sql.bind(tenant_id)
    if access.index is None:
        # Without statistics SQLite would guess which of the two begins better.
        by = "documents_by_id" if access.by_id else "documents_in_order"
        return f"documents d INDEXED BY {by}", [
            f"d.tenant_id = {tenant}",
            f"d.collection_id = {sql.bind(entry.collection.number)}",
        ]
    # Bound, so that all tenants' queries of one shape share a prepared statement.
    where = [f"e.tenant_id = {tenant}", f"e.index_id = {sql.bind(access.index.id)}"]
    # Said, or SQLite would sort by the key what lies in its order already.
    where += [f"e.{value} = x''" for value in _VALUES[len(access.index.fields) :]]
    names = _entered(access)
    for condition in access.sought:
        assert condition.target.column is not None  # an index has no paths
        where += _seek(sql, f"e.{names[condition.target.column]}", condition)
    return "document_index_entries e", where


def _seek(sql: FilterSql, value: str, condition: Condition) -> list[str]:
    operand = condition.value
    match condition.operator:
        case "eq":
            return [f"{value} = {sql.bind(operand)}"]
        case "in":
            return [f"{value} IN ({', '.join(map(sql.bind, operand))})"]
        case "is" if condition.negated:
            return [f"{value} < x''"]
        case "is":
            return [f"{value} = {sql.bind(MISSING if operand is None else int(operand))}"]
        case "like":
            prefix = operand.partition("*")[0]
            return [f"{value} >= {sql.bind(prefix)}", f"{value} < {sql.bind(_after(prefix))}"]
        case "gt" | "gte":
            mark = ">" if condition.operator == "gt" else ">="
            return [f"{value} {mark} {sql.bind(operand)}", f"{value} < x''"]
    mark = "<" if condition.operator == "lt" else "<="
    return [f"{value} {mark} {sql.bind(operand)}"]


def _after(prefix: str) -> str | bytes:
    """The least value behind all strings with a prefix, in byte order."""
    letters = list(prefix)
    while letters:
        code = ord(letters.pop())
        if code < 0x10FFFF:
            following = code + 1 if code != 0xD7FF else 0xE000
            return "".join(letters) + chr(following)
    return MISSING


def _beyond(sql: FilterSql, keys: Sequence[tuple[str, bool]], after: Sequence[Any]) -> str:
    """The keyset condition: rows behind a position."""
    values = [sql.bind(MISSING if value is None else value) for value in after]
    if len({descending for _, descending in keys}) == 1:
        mark = "<" if keys[0][1] else ">"
        if len(keys) == 1:
            return f"{keys[0][0]} {mark} {values[0]}"
        return f"({', '.join(key for key, _ in keys)}) {mark} ({', '.join(values)})"
    ways = []
    for last, (key, descending) in enumerate(keys):
        equal = [f"{keys[at][0]} = {values[at]}" for at in range(last)]
        ways.append(" AND ".join([*equal, f"{key} {'<' if descending else '>'} {values[last]}"]))
    return f"({' OR '.join(f'({way})' for way in ways)})"


def _probe(
    connection: apsw.Connection, entry: Entry, tenant_id: int, access: Access, count_max: int
) -> int:
    """How many entries a way reads, counted no further than one beyond `count_max`."""
    sql = FilterSql(entry.columns, _entered(access))
    source, where = _source(sql, entry, tenant_id, access)
    text = (
        f"SELECT count(*) FROM (SELECT 1 FROM {source} WHERE {' AND '.join(where)}"
        f" LIMIT {count_max + 1})"
    )
    (row,) = connection.execute(text, sql.parameters)
    return int(row[0])
