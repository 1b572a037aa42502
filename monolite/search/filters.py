"""Filters on metadata: `{"region": "us-east", "price": {"lt": 10}, "tag": ["a", "b"]}`.

A value is equality, a list any of its values, an object operators of the documents' filters. A path
goes into objects by dots. Where the metadata holds a list, one of its elements is enough. All
conditions must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monolite.errors import FieldError, Invalid
from monolite.search.index import Condition

CONDITIONS_MAX = 32
VALUES_MAX = 1000

Scalar = str | int | float | bool | None


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def holds(value: Any, bound: Any) -> bool:
        return _kind(value) == _kind(bound) and compare(value, bound)

    return holds


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "constant"
    return "text" if isinstance(value, str) else "number"


def _equal(value: Any, other: Any) -> bool:
    # True equals 1 in Python, and not in JSON.
    return _kind(value) == _kind(other) and value == other


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": _equal,
    "neq": lambda value, other: not _equal(value, other),
    "gt": _ordered(lambda value, bound: value > bound),
    "gte": _ordered(lambda value, bound: value >= bound),
    "lt": _ordered(lambda value, bound: value < bound),
    "lte": _ordered(lambda value, bound: value <= bound),
    "in": lambda value, others: any(_equal(value, other) for other in others),
}


def parse(filter: dict[str, Any] | None) -> tuple[Condition, ...]:
    """Conditions of a filter as it came; raises Invalid with a pointer to what is wrong."""
    conditions: list[Condition] = []
    for name, wanted in (filter or {}).items():
        pointer = f"#/filter/{name.replace('~', '~0').replace('/', '~1')}"
        path = tuple(name.split("."))
        if not all(path):
            raise _invalid(pointer, "a field's name, with dots between the parts of a path")
        if isinstance(wanted, dict):
            if not wanted:
                raise _invalid(pointer, "an empty object compares nothing")
            conditions += [
                _condition(path, operator, value, f"{pointer}/{operator}")
                for operator, value in wanted.items()
            ]
        else:
            operator = "in" if isinstance(wanted, list) else "eq"
            conditions.append(_condition(path, operator, wanted, pointer))
    if len(conditions) > CONDITIONS_MAX:
        raise _invalid("#/filter", f"at most {CONDITIONS_MAX} conditions")
    return tuple(conditions)


def _condition(path: tuple[str, ...], operator: str, value: Any, pointer: str) -> Condition:
    if operator not in OPERATORS:
        raise _invalid(pointer, f"no operator; there are {', '.join(OPERATORS)}")
    if operator == "in":
        if not isinstance(value, list) or not 0 < len(value) <= VALUES_MAX:
            raise _invalid(pointer, f"takes a list of 1 to {VALUES_MAX} values")
        values = value
    else:
        values = [value]
    if not all(isinstance(one, Scalar) for one in values):
        raise _invalid(pointer, "takes strings, numbers, booleans and null")
    if operator in ("gt", "gte", "lt", "lte") and _kind(value) == "constant":
        raise _invalid(pointer, "takes a string or a number")
    return Condition(path, operator, value, pointer)


def holds(condition: Condition, value: Any) -> bool:
    """Whether the metadata's value passes; one of its elements is enough where it is a list."""
    compare = OPERATORS[condition.operator]
    if isinstance(value, list):
        return any(compare(one, condition.value) for one in value)
    return not isinstance(value, dict) and compare(value, condition.value)


def unknown_field(condition: Condition) -> Invalid:
    """No document has metadata at the path."""
    name = ".".join(condition.path)
    return _invalid(
        condition.pointer, f"no document of this index has metadata named {name}", "unknown_field"
    )


def _invalid(pointer: str, why: str, code: str | None = None) -> Invalid:
    return Invalid(f"{pointer}: {why}", [FieldError(pointer, why)], code=code)
