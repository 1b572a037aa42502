"""Filters as SQLite's expressions: bound parameters for every operand, one spelling per target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monolite.documents.fields import Kind
from monolite.documents.filters import Condition, Group, Target, kind_of
from monolite.documents.paths import Steps
from monolite.documents.sqlite_columns import json_path, sortable, typed

MISSING = b""
"""What stands in an index entry for a value that is missing; it sorts last."""

_LITERALS = {None: "null", True: "true", False: "false"}
_COMPARE = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class FilterSql:
    """Compiles for documents `d` and, where an index is used, its entries `e`.

    `entered` maps the names of the index's fields to the columns of its entries: what an entry
    holds is compared there, without a look at the document. `parses_json` tells afterwards whether
    any condition or sort key has to look into each document's JSON.
    """

    def __init__(self, columns: Mapping[str, str], entered: Mapping[str, str]) -> None:
        self._columns = columns
        self._entered = entered
        self.parameters: list[Any] = []
        self.parses_json = False
        self.needs_document = False
        self._rows = 0

    def bind(self, value: Any) -> str:
        """A parameter's mark, numbered, so that it holds wherever the text is put."""
        self.parameters.append(value)
        return f"?{len(self.parameters)}"

    def where(self, group: Group) -> str:
        """A group's expression; an empty one is true."""
        parts = [
            self.where(member) if isinstance(member, Group) else self.condition(member)
            for member in group.members
        ]
        text = f"({f' {group.joint.upper()} '.join(parts)})" if parts else "1"
        return f"(NOT {text})" if group.negated else text

    def condition(self, condition: Condition) -> str:
        """One comparison's expression; NULL, which passes neither way, where there is no value."""
        text = self._positive(condition)
        return f"(NOT ({text}))" if condition.negated else text

    def sort_key(self, target: Target) -> str:
        """A target's expression to sort by."""
        if target.column is None:
            self.parses_json = self.needs_document = True
            return sortable(target.steps)
        if target.column in self._entered:
            return f"e.{self._entered[target.column]}"
        self.needs_document = True
        if target.field is None:
            return f"d.{target.column}"
        self.parses_json = True
        return f"ifnull(d.{self._columns[target.column]}, x'')"

    def value(self, target: Target) -> str:
        """A promoted or built-in target's expression; NULL where it has no value."""
        column = target.column
        assert column is not None  # a path has no one value
        if column in self._entered:
            return f"nullif(e.{self._entered[column]}, x'')"
        self.needs_document = True
        if target.field is None:
            return f"d.{column}"
        self.parses_json = True
        return f"d.{self._columns[column]}"

    def _positive(self, condition: Condition) -> str:
        if condition.target.column is None:
            self.parses_json = self.needs_document = True
            return self._at_path(condition, condition.target.steps)
        value, operand = self.value(condition.target), condition.value
        match condition.operator:
            case "in":
                return f"{value} IN ({', '.join(map(self.bind, operand))})"
            case "like":
                return f"{value} GLOB {self.bind(glob(operand))}"
            case "is":
                return f"{value} IS {'NULL' if operand is None else int(operand)}"
        return f"{value} {_COMPARE[condition.operator]} {self.bind(operand)}"

    def _at_path(self, condition: Condition, steps: Steps) -> str:
        operand, path = condition.value, json_path(steps)
        match condition.operator:
            case "is":
                if operand is None:
                    return f"(d.data ->> {path}) IS NULL"
                return f"json_type(d.data, {path}) IS '{'true' if operand else 'false'}'"
            case "like":
                return f"{self._typed('string', steps)} GLOB {self.bind(glob(operand))}"
            case "cs":
                contains = self._contains(f"(d.data -> {path})", operand)
                return f"CASE WHEN json_type(d.data, {path}) IS NOT NULL THEN {contains} END"
            case "in":
                by_kind: dict[Kind, list[Any]] = {}
                for value in operand:
                    by_kind.setdefault(kind_of(value), []).append(value)
                parts = [
                    f"{self._typed(kind, steps)} IN ({', '.join(map(self.bind, values))})"
                    for kind, values in by_kind.items()
                ]
                return f"({' OR '.join(parts)})"
            case "neq":
                return (
                    f"(json_type(d.data, {path}) <> 'null' AND"
                    f" {self._typed(kind_of(operand), steps)} IS NOT {self.bind(operand)})"
                )
        compare = _COMPARE[condition.operator]
        return f"{self._typed(kind_of(operand), steps)} {compare} {self.bind(operand)}"

    def _typed(self, kind: Kind, steps: Steps) -> str:
        return typed(kind, steps, "d.data")

    def _contains(self, json: str, wanted: Any) -> str:
        """PostgreSQL's `@>` (8.14.3): of an object its members, of an array any elements."""
        members = wanted.items() if isinstance(wanted, dict) else ((None, w) for w in wanted)
        parts = [f"json_type({json}) = '{'object' if isinstance(wanted, dict) else 'array'}'"]
        for key, value in members:
            self._rows += 1
            row = f"m{self._rows}"
            at_key = "" if key is None else f"{row}.key = {self.bind(key)} AND "
            parts.append(
                f"EXISTS (SELECT 1 FROM json_each({json}) {row}"
                f" WHERE {at_key}{self._row_contains(row, value)})"
            )
        return f"ifnull({' AND '.join(parts)}, 0)"

    def _row_contains(self, row: str, wanted: Any) -> str:
        if isinstance(wanted, dict | list):
            nested = f"CASE WHEN {row}.type IN ('object', 'array') THEN {row}.value END"
            return self._contains(nested, wanted)
        if wanted is None or isinstance(wanted, bool):
            return f"{row}.type = '{_LITERALS[wanted]}'"
        types = "('text')" if isinstance(wanted, str) else "('integer', 'real')"
        return f"{row}.type IN {types} AND {row}.value = {self.bind(wanted)}"


def glob(pattern: str) -> str:
    """A pattern in which only `*` is a wildcard, as SQLite's GLOB, which has `?` and `[` too."""
    return pattern.replace("[", "[[]").replace("?", "[?]")
