"""Filters in PostgREST's operators, from a query string to a tree that engines compile.

    shipping_tier=gte.3 & config.region=eq.us-east & or=(state.eq.new,and(a.gt.1,b.is.null))

A field is a promoted one by its name, a built-in one (`id`, `created_at`, `updated_at`,
`revision`), or any JSON path. A promoted field's operand has to fit its type. A path has none, so
the operand says it: `5` is a number, `true` a boolean, anything else and all in double quotes a
string; values of other types don't match. As in SQL, a missing or null value matches `is.null` and
nothing else, `not.` excludes it too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NoReturn

import msgspec

from monolite.documents.fields import BUILT_IN, STRING_BYTES_MAX, Field, Kind
from monolite.documents.paths import Steps, parse_path, path_text
from monolite.errors import FieldError, Invalid

Operator = Literal["eq", "neq", "gt", "gte", "lt", "lte", "in", "like", "is", "cs"]
Scalar = str | int | float | bool

OPERATORS = frozenset(("eq", "neq", "gt", "gte", "lt", "lte", "in", "like", "is", "cs"))
CONDITIONS_MAX = 32
VALUES_MAX = 200
DEPTH_MAX = 8
OPERAND_CHARACTERS_MAX = 2048
_INT64 = range(-(2**63), 2**63)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?").fullmatch
_TIMES = ("created_at", "updated_at")
_COMPARISONS = ("eq", "gt", "gte", "lt", "lte", "in")
_TYPES: dict[Kind, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


@dataclass(frozen=True, slots=True)
class Target:
    """What is compared or sorted by: `field` promoted, else `built_in`, else the place `steps`."""

    text: str
    field: Field | None = None
    built_in: str | None = None
    steps: Steps = ()

    @property
    def kind(self) -> Kind | None:
        """Its type, or None for a path, which has none."""
        if self.field is not None:
            return self.field.kind
        return None if self.built_in is None else BUILT_IN[self.built_in]

    @property
    def column(self) -> str | None:
        """The name an index may have it under, or None for a path."""
        return self.field.name if self.field is not None else self.built_in


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison. `value` is a Scalar; a tuple of them for `in`; None, True or False for `is`;
    any JSON for `cs`; for `like` a pattern in which `*` stands for any characters.
    """

    target: Target
    operator: Operator
    value: Any
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Conditions joined by `and` or `or`; `negated` as SQL's NOT."""

    joint: Literal["and", "or"]
    members: tuple[Condition | Group, ...]
    negated: bool = False


ALL = Group("and", ())
"""The filter that every document passes."""


def conditions(group: Group) -> list[Condition]:
    """Every comparison in it, at any depth."""
    found: list[Condition] = []
    for member in group.members:
        found += conditions(member) if isinstance(member, Group) else [member]
    return found


def kind_of(value: Any) -> Kind:
    """The kind that an operand compares with."""
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "number"


class FilterParser:
    """Reads filters against one collection's promoted fields."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._by_name = {field.name: field for field in fields}
        self._by_path = {field.path: field for field in fields}

    def target(self, text: str, pointer: str) -> Target:
        """What a name or a path in a query string means; raises Invalid where it is neither."""
        if text in self._by_name:
            return Target(text, field=self._by_name[text])
        if text in BUILT_IN:
            return Target(text, built_in=text)
        steps = parse_path(text, pointer)
        return Target(text, steps=steps)

    def parse(self, pairs: Sequence[tuple[str, str]]) -> Group:
        """All filters of a query string, joined by `and`; raises Invalid with `?name` pointers."""
        members: list[Condition | Group] = []
        for name, value in pairs:
            pointer = f"?{name}"
            if len(value) > OPERAND_CHARACTERS_MAX:
                _refuse(pointer, f"longer than {OPERAND_CHARACTERS_MAX} characters")
            if "\x00" in value:
                _refuse(pointer, "U+0000 is in no document")
            joint = name.removeprefix("not.")
            if joint in ("or", "and"):
                members.append(self._group(joint, value, pointer, name != joint, 1))
            else:
                members.append(self._condition(self.target(name, pointer), value, pointer))
        group = Group("and", tuple(members))
        if len(conditions(group)) > CONDITIONS_MAX:
            _refuse("?", f"a query has at most {CONDITIONS_MAX} conditions")
        return group

    def _group(self, joint: str, text: str, pointer: str, negated: bool, depth: int) -> Group:
        if depth > DEPTH_MAX:
            _refuse(pointer, f"groups are nested at most {DEPTH_MAX} deep")
        if not (text.startswith("(") and text.endswith(")")):
            _refuse(pointer, f"{joint} takes a list in parentheses, as in {joint}=(a.eq.1,b.gt.2)")
        members: list[Condition | Group] = []
        for part in _split(text[1:-1], pointer):
            inner = part.removeprefix("not.")
            word, parenthesis, _ = inner.partition("(")
            if parenthesis and word in ("or", "and"):
                rest = inner[len(word) :]
                members.append(self._group(word, rest, pointer, part != inner, depth + 1))
            else:
                name, operand = _name_and_operand(part, pointer)
                members.append(self._condition(self.target(name, pointer), operand, pointer))
        if not members:
            _refuse(pointer, f"{joint}=() holds no condition")
        assert joint in ("and", "or")
        return Group(joint, tuple(members), negated)  # type: ignore[arg-type]  # just asserted

    def _condition(self, target: Target, text: str, pointer: str) -> Condition:
        positive = text.removeprefix("not.")
        operator, dot, operand = positive.partition(".")
        if not dot or operator not in OPERATORS:
            _refuse(
                pointer,
                f"{operator!r} is not an operator; write one of "
                f"{', '.join(sorted(OPERATORS))} before a dot, as in eq.{text[:40]}",
            )
        target = self._as_promoted(target, operator, operand)
        value = _OPERANDS.get(operator, _scalar)(target, operator, operand, pointer)
        return Condition(target, operator, value, positive != text)  # type: ignore[arg-type]

    def _as_promoted(self, target: Target, operator: str, operand: str) -> Target:
        """The promoted field at a path, where the column is sure to hold all that could match.

        It isn't for ranges: 5.5 lies at the path of an integer's column and not in it, and a string
        may be too long for its column.
        """
        field = self._by_path.get(path_text(target.steps)) if target.steps else None
        if field is None:
            return target
        if operator not in (_COMPARISONS if field.kind == "number" else ("eq", "in")):
            return target
        texts = _split(operand[1:-1], "") if operator == "in" else [operand]
        fits = all(
            isinstance(_untyped(text), _TYPES[field.kind])
            and isinstance(_untyped(text), bool) == (field.kind == "boolean")
            and len(text) * 4 <= STRING_BYTES_MAX
            for text in texts
        )
        return Target(target.text, field=field) if fits else target


def _scalar(target: Target, operator: str, text: str, pointer: str) -> Scalar:
    kind = target.kind
    if kind is None:
        value = _untyped(text)
        if isinstance(value, bool) and operator not in ("eq", "neq", "in"):
            _refuse(pointer, f"{operator} doesn't compare booleans")
        return value
    if target.built_in in _TIMES:
        return _milliseconds(text, pointer)
    if kind == "boolean":
        if text not in ("true", "false"):
            _refuse(pointer, f"{text!r} doesn't fit {target.text}, a boolean: true or false")
        if operator not in ("eq", "neq", "in"):
            _refuse(pointer, f"{operator} doesn't compare booleans")
        return text == "true"
    if kind == "string":
        return _unquoted(text)
    if not _NUMBER(text):
        _refuse(pointer, f"{text!r} doesn't fit {target.text}, {_A[kind]}")
    number = _number(text)
    if number is None or (kind == "integer" and isinstance(number, float)):
        _refuse(pointer, f"{text!r} doesn't fit {target.text}, {_A[kind]} of 64 bits")
    return number


def _list(target: Target, operator: str, text: str, pointer: str) -> tuple[Scalar, ...]:
    if not (text.startswith("(") and text.endswith(")")):
        _refuse(pointer, "in takes a list in parentheses, as in in.(a,b)")
    parts = _split(text[1:-1], pointer)
    if not 1 <= len(parts) <= VALUES_MAX:
        _refuse(pointer, f"in takes 1 to {VALUES_MAX} values")
    return tuple(_scalar(target, operator, part, pointer) for part in parts)


def _pattern(target: Target, operator: str, text: str, pointer: str) -> str:
    kind = target.kind
    if kind is not None and kind != "string":
        _refuse(pointer, f"like compares strings, and {target.text} is {_A[kind]}")
    return text.replace("%", "*")


def _state(target: Target, operator: str, text: str, pointer: str) -> bool | None:
    states = {"null": None, "true": True, "false": False}
    if text.lower() not in states:
        _refuse(pointer, "is takes null, true or false")
    state = states[text.lower()]
    if state is not None and target.kind not in (None, "boolean"):
        _refuse(pointer, f"is.{text} asks for a boolean, and {target.text} is {_A[target.kind]}")
    return state


def _contained(target: Target, operator: str, text: str, pointer: str) -> Any:
    if target.kind is not None:
        _refuse(
            pointer,
            f"cs asks what an array or object contains, and {target.text} is {_A[target.kind]}",
        )
    # PostgREST writes an array as {a,b}; JSON says objects and arrays by itself.
    if text.startswith("{") and text.endswith("}") and ":" not in text:
        return [_untyped(part) for part in _split(text[1:-1], pointer)]
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        _refuse(pointer, 'cs takes {a,b}, or JSON as in cs.["a"] or cs.{"k":1}')
    if "\\u0000" in text:
        _refuse(pointer, "U+0000 is in no document")
    if not isinstance(value, list | dict):
        _refuse(pointer, 'cs takes an array or an object, as in cs.{a,b} or cs.{"k":1}')
    if _leaves(value) > VALUES_MAX:
        _refuse(pointer, f"cs takes at most {VALUES_MAX} values")
    return value


_OPERANDS: dict[str, Any] = {"in": _list, "like": _pattern, "is": _state, "cs": _contained}
_A = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "a boolean",
}


def _leaves(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(map(_leaves, value.values()))
    return 1 + sum(map(_leaves, value)) if isinstance(value, list) else 1


def _untyped(text: str) -> Scalar:
    if text in ("true", "false"):
        return text == "true"
    if _NUMBER(text):
        number = _number(text)
        if number is not None:
            return number
    return _unquoted(text)


def _number(text: str) -> int | float | None:
    """The number as SQLite and PostgreSQL hold it, or None where it is too large for 64 bits."""
    if text.lstrip("-").isdigit():
        whole = int(text)
        return whole if whole in _INT64 else None
    real = float(text)
    return None if real in (float("inf"), float("-inf")) else real


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _milliseconds(text: str, pointer: str) -> int:
    if text.isdigit() and len(text) < 16:
        return int(text)
    try:
        # Python 3.11's parser takes all of RFC 3339; a plus sign arrives as a space from a form.
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        _refuse(pointer, f"{text!r} is not a time; write 2026-01-31T12:00:00Z or milliseconds")
    if moment.tzinfo is None:
        _refuse(pointer, f"{text!r} names no time zone; end it in Z")
    return round(moment.timestamp() * 1000)


def _split(text: str, pointer: str) -> list[str]:
    """Parts between commas that are in no parentheses, braces or quotes."""
    parts: list[str] = []
    depth, quoted, start, skip = 0, False, 0, False
    for at, letter in enumerate(text):
        if skip:
            skip = False
        elif quoted:
            skip = letter == "\\"
            quoted = letter != '"'
        elif letter == '"':
            quoted = True
        elif letter in "({[":
            depth += 1
        elif letter in ")}]":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
        if depth < 0:
            break
    if depth != 0 or quoted:
        _refuse(pointer, "its parentheses or quotes are not closed")
    return [*parts, text[start:]] if text else []


def _name_and_operand(text: str, pointer: str) -> tuple[str, str]:
    """`config.region.eq.x` as the field and `eq.x`: the first operator in it ends the name.

    A key that is spelled like an operator stands in quotes.
    """
    found = re.match(
        r'((?:"[^"]*"|[^".])+(?:\.(?:"[^"]*"|[^".]+))*?)\.((?:not\.)?(?:'
        + "|".join(sorted(OPERATORS))
        + r")\..*)",
        text,
        re.DOTALL,
    )
    if found is None:
        _refuse(pointer, f"{text!r} is not a condition; write field.operator.value, as in a.eq.1")
    return found[1], found[2]


def _refuse(pointer: str, why: str) -> NoReturn:
    raise Invalid(f"{pointer}: {why}", [FieldError(pointer, why)])
