"""Filters as PostgreSQL's expressions: bound parameters for every operand."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from monolite.documents.fields import BUILT_IN, Kind
from monolite.documents.filters import Condition, Group, Target, kind_of
from monolite.documents.paths import Steps
from monolite.documents.postgres_columns import at, promoted, text_at, typed

_COMPARE = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_BOUND: Mapping[Kind, str] = {
    "integer": "bigint",
    "number": "numeric",
    "string": "text",
    "boolean": "boolean",
}


class FilterSql:
    """Compiles for documents `d`. `columns` has the STORED columns of promoted fields."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._columns = columns
        self.parameters: list[Any] = []

    def bind(self, value: Any, kind: Kind | None = None, *, many: bool = False) -> str:
        """A parameter's mark with its type."""
        if kind is None:
            self.parameters.append(value)
            return f"${len(self.parameters)}"
        self.parameters.append([_bound(v, kind) for v in value] if many else _bound(value, kind))
        return f"${len(self.parameters)}::{_BOUND[kind]}{'[]' if many else ''}"

    def where(self, group: Group) -> str:
        """A group's expression; an empty one is true."""
        parts = [
            self.where(member) if isinstance(member, Group) else self.condition(member)
            for member in group.members
        ]
        text = f"({f' {group.joint.upper()} '.join(parts)})" if parts else "TRUE"
        return f"(NOT {text})" if group.negated else text

    def contents(self, wanted: list[Condition]) -> list[str]:
        """What the index on content can find, of conditions that every match fulfils.

        They only say again what `where` says of the place itself.
        """
        return [
            f"d.data @> {self.bind(_nested(c.target.steps, c.value))}::jsonb"
            for c in wanted
            if c.operator == "cs"
            and not c.negated
            and all(isinstance(step, str) for step in c.target.steps)
        ]

    def condition(self, condition: Condition) -> str:
        """One comparison's expression; NULL, which passes neither way, where there is no value."""
        text = self._positive(condition)
        return f"(NOT ({text}))" if condition.negated else text

    def sort_keys(self, target: Target) -> list[tuple[str, Kind]]:
        """A target's expressions to sort by: of a path first the number, then the string."""
        if target.column is None:
            return [
                (typed("number", target.steps, "d.data"), "number"),
                (typed("string", target.steps, "d.data"), "string"),
            ]
        assert target.kind is not None  # a column has one
        return [(self.value(target), target.kind)]

    def value(self, target: Target) -> str:
        """A promoted or built-in target's expression; NULL where it has no value."""
        if target.field is None:
            assert target.built_in is not None  # a path has no one value
            return f"d.{target.built_in}"
        column = self._columns.get(target.field.name)
        return promoted(target.field, "d.data") if column is None else f"d.{column}"

    def _positive(self, condition: Condition) -> str:
        target, operand = condition.target, condition.value
        if target.column is None:
            return self._at_path(condition, target.steps)
        value, kind = self.value(target), target.kind
        assert kind is not None  # a column has one
        match condition.operator:
            case "in":
                return f"{value} = ANY({self.bind(operand, kind, many=True)})"
            case "like":
                return f"{value} LIKE {self.bind(_like(operand), 'string')}"
            case "is":
                return f"{value} IS {_STATES[operand]}"
        return f"{value} {_COMPARE[condition.operator]} {self.bind(operand, kind)}"

    def _at_path(self, condition: Condition, steps: Steps) -> str:
        operand = condition.value
        match condition.operator:
            case "is":
                if operand is None:
                    return f"{text_at(steps, 'd.data')} IS NULL"
                return f"{typed('boolean', steps, 'd.data')} IS {_STATES[operand]}"
            case "like":
                pattern = self.bind(_like(operand), "string")
                return f"{typed('string', steps, 'd.data')} LIKE {pattern}"
            case "cs":
                wanted = self.bind(msgspec.json.encode(operand).decode())
                return f"{at(steps, 'd.data')} @> {wanted}::jsonb"
            case "in":
                by_kind: dict[Kind, list[Any]] = {}
                for value in operand:
                    by_kind.setdefault(kind_of(value), []).append(value)
                parts = [
                    f"{typed(kind, steps, 'd.data')} = ANY({self.bind(values, kind, many=True)})"
                    for kind, values in by_kind.items()
                ]
                return f"({' OR '.join(parts)})"
            case "neq":
                kind = kind_of(operand)
                return (
                    f"(jsonb_typeof({at(steps, 'd.data')}) <> 'null' AND"
                    f" {typed(kind, steps, 'd.data')} IS DISTINCT FROM {self.bind(operand, kind)})"
                )
        kind = kind_of(operand)
        value = typed(kind, steps, "d.data")
        return f"{value} {_COMPARE[condition.operator]} {self.bind(operand, kind)}"


_STATES = {None: "NULL", True: "TRUE", False: "FALSE"}


def column_value(name: str, fields: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """The expression that an index over a field has, of a row of `documents`."""
    if name in BUILT_IN:
        return name
    return columns.get(name) or f"({promoted(fields[name])})"


def _bound(value: Any, kind: Kind) -> Any:
    return Decimal(str(value)) if kind == "number" else value


def _like(pattern: str) -> str:
    """A pattern in which only `*` is a wildcard, as SQL's LIKE."""
    for letter in "\\%_":
        pattern = pattern.replace(letter, "\\" + letter)
    return pattern.replace("*", "%")


def _nested(steps: Steps, value: Any) -> str:
    for step in reversed(steps):
        value = {step: value}
    return msgspec.json.encode(value).decode()
