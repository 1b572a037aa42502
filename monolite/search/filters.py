"""Filters on metadata: `{"region": "us-east", "price": {"lt": 10}, "tag": ["a", "b"]}`.

A value is equality, a list any of its values, an object operators of the documents' filters. A path
goes into objects by dots. Where the metadata holds a list, one of its elements is enough. All
conditions must hold, and a document that has nothing at a path passes none there.
"""

from __future__ import annotations

import re
from typing import Any

from monolite.errors import FieldError, Invalid
from monolite.search.index import Condition

CONDITIONS_MAX = 32
VALUES_MAX = 1000
STEPS_MAX = 16
OPERATORS = ("eq", "neq", "gt", "gte", "lt", "lte", "in")

Scalar = str | int | float | bool | None

# A quote or a backslash can't be written in SQLite's paths.
_STEP = re.compile(r'[^"\\\x00-\x1f\ud800-\udfff]{1,128}').fullmatch


def path_of(name: str) -> tuple[str, ...] | None:
    """The steps of a field's name; None where it is none."""
    steps = tuple(name.split("."))
    return steps if len(steps) <= STEPS_MAX and all(map(_STEP, steps)) else None


def parse(filter: dict[str, Any] | None) -> tuple[Condition, ...]:
    """Conditions of a filter as it came; raises Invalid with a pointer to what is wrong."""
    conditions: list[Condition] = []
    for name, wanted in (filter or {}).items():
        pointer = f"#/filter/{name.replace('~', '~0').replace('/', '~1')}"
        path = path_of(name)
        if path is None:
            why = f"a field's name, with dots between the parts of a path, {STEPS_MAX} at most"
            raise _invalid(pointer, why)
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
    if any(isinstance(one, str) and "\0" in one for one in values):
        raise _invalid(pointer, "U+0000 is in no metadata")
    if operator in ("gt", "gte", "lt", "lte") and (isinstance(value, bool) or value is None):
        raise _invalid(pointer, "takes a string or a number")
    return Condition(path, operator, value, pointer)


def unknown_field(condition: Condition) -> Invalid:
    """No document has metadata at the path."""
    name = ".".join(condition.path)
    return _invalid(
        condition.pointer, f"no document of this index has metadata named {name}", "unknown_field"
    )


def _invalid(pointer: str, why: str, code: str | None = None) -> Invalid:
    return Invalid(f"{pointer}: {why}", [FieldError(pointer, why)], code=code)
