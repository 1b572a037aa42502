"""JSON Schema (2020-12) for the documents of a collection.

The keywords are the `jsonschema` package's. What a tenant writes must not hold up the one event
loop, so this adds bounds: a budget of keywords looked at for each document, patterns with a
time-out, and `uniqueItems` by hashing. `format` is an annotation, as 2020-12 has it. A `$ref` stays
inside the schema: nothing is ever fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any

import msgspec

from monolite.errors import FieldError, Invalid

SCHEMA_BYTES_MAX = 64 << 10
SCHEMA_DEPTH_MAX = 64
KEYWORDS_MAX = 5_000
"""Looked at for one document; about 30 ms."""

PATTERN_S_MAX = 0.02
ERRORS_SHOWN_MAX = 20

# Their values are data, in which a `$ref` is a name like any other.
_DATA = frozenset(("const", "enum", "default", "examples"))
# Their members' names are the caller's, and their values schemas.
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))


class _TooCostly(Exception):
    """The budget or a pattern's time is spent."""


class DocumentSchema:
    """A compiled schema."""

    def __init__(self, schema: Any) -> None:
        self._validator = _validator_class()(schema)

    def check(self, document: Any) -> None:
        """Hold a parsed document against the schema.

        Raises:
            Invalid: it doesn't fit (`schema_mismatch`); up to 20 errors, each with the pointer to
                its place in the document. Or the schema is too costly to check
                (`schema_too_costly`).
        """
        _budget[0] = KEYWORDS_MAX
        errors: list[FieldError] = []
        try:
            for error in self._validator.iter_errors(document):
                errors.append(FieldError(_pointer(error.absolute_path), error.message[:300]))
                if len(errors) == ERRORS_SHOWN_MAX:
                    break
        except (_TooCostly, RecursionError):
            why = "takes too long to check: simplify its patterns, or what refers to itself"
            raise Invalid(
                f"The collection's schema {why}.",
                [FieldError("#", f"the schema {why}")],
                code="schema_too_costly",
            ) from None
        if errors:
            raise Invalid(
                f"The document doesn't fit the collection's schema: {errors[0].pointer}:"
                f" {errors[0].detail}",
                errors,
                code="schema_mismatch",
            )


def compile_schema(schema: Any) -> DocumentSchema:
    """A parsed JSON Schema, ready to check documents.

    Raises:
        Invalid: not a schema of 2020-12, over 64 KiB, nested over 64 deep, with a `$ref` that
            leads outside it or nowhere, with a pattern that is none, or so that no object can
            match. Of the last only the plain contradictions are found.
    """
    if len(msgspec.json.encode(schema)) > SCHEMA_BYTES_MAX:
        raise _refused("#/schema", f"a schema is at most {SCHEMA_BYTES_MAX} bytes")
    if not isinstance(schema, bool):
        _check_form(schema)
    why = _contradiction(schema)
    if why is not None:
        raise _refused("#/schema", f"no document can match it: {why}")
    return DocumentSchema(schema)


def _check_form(schema: Any) -> None:
    import regex
    from jsonschema import Draft202012Validator
    from referencing.exceptions import Unresolvable

    errors: list[FieldError] = []
    try:
        for error in Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema):
            pointer = _pointer(error.absolute_path, "#/schema")
            errors.append(FieldError(pointer, error.message[:300]))
    except RecursionError:
        errors.append(FieldError("#/schema", "nested too deeply"))
    if not errors:
        resolver = Draft202012Validator(schema)._resolver
        for pointer, key, value in _keywords(schema, "#/schema", 0):
            if key in ("$ref", "$dynamicRef"):
                try:
                    if not value.startswith("#"):
                        raise ValueError
                    resolver.lookup(value)
                except (Unresolvable, ValueError):
                    why = f"{value!r} is nothing inside this schema, and nothing is fetched"
                    errors.append(FieldError(pointer, why))
            elif key == "$schema" and "2020-12" not in value:
                errors.append(FieldError(pointer, "schemas here are of draft 2020-12"))
            elif key in ("pattern", "patternProperties"):
                for pattern in [value] if key == "pattern" else value:
                    try:
                        _compiled(pattern)
                    except regex.error as error:
                        errors.append(FieldError(pointer, f"not a regular expression: {error}"))
    if errors:
        shown = errors[:ERRORS_SHOWN_MAX]
        raise Invalid(f"{shown[0].pointer}: {shown[0].detail}", shown, code="invalid_schema")


def _keywords(schema: Any, pointer: str, depth: int) -> Iterator[tuple[str, str, Any]]:
    """Every keyword of a schema and those inside it, with its pointer and value."""
    if depth > SCHEMA_DEPTH_MAX:
        raise _refused(pointer, f"a schema is nested at most {SCHEMA_DEPTH_MAX} deep")
    if isinstance(schema, list):
        for at, below in enumerate(schema):
            yield from _keywords(below, f"{pointer}/{at}", depth + 1)
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        below = f"{pointer}/{_escaped(key)}"
        yield below, key, value
        if key in _NAMED and isinstance(value, dict):
            for name, inner in value.items():
                yield from _keywords(inner, f"{below}/{_escaped(name)}", depth + 1)
        elif key not in _DATA:
            yield from _keywords(value, below, depth + 1)


def _contradiction(schema: Any) -> str | None:
    """Why no object can match, where that is plain to see."""
    if schema is False:
        return "false matches nothing"
    if not isinstance(schema, dict):
        return None
    if schema.get("not") in (True, {}):
        return "its `not` excludes everything"
    types = schema.get("type")
    if types is not None and "object" not in ([types] if isinstance(types, str) else types):
        return "a document is an object, and `type` excludes objects"
    if "const" in schema and not isinstance(schema["const"], dict):
        return "a document is an object, and `const` is none"
    if "enum" in schema and not any(isinstance(value, dict) for value in schema["enum"]):
        return "a document is an object, and `enum` lists none"
    if schema.get("minProperties", 0) > schema.get("maxProperties", float("inf")):
        return "`minProperties` is over `maxProperties`"
    required, properties = schema.get("required", ()), schema.get("properties", {})
    for name in required:
        if properties.get(name) is False:
            return f"{name!r} is required, and false in `properties`"
        is_closed = schema.get("additionalProperties") is False
        if is_closed and name not in properties and not schema.get("patternProperties"):
            return f"{name!r} is required, and not among the properties allowed"
    for below in schema.get("allOf", ()):
        why = _contradiction(below)
        if why is not None:
            return why
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices and all(_contradiction(choice) is not None for choice in choices):
        return "none of its alternatives can match"
    return None


# ── The validator ──────────────────────────────────────────────────────────────────────────────

_budget = [0]
_Keyword = Callable[[Any, Any, Any, Any], Any]


@cache
def _validator_class() -> Any:
    # Here and not above: the package takes a tenth of a second, and most never use it.
    from jsonschema import Draft202012Validator, validators

    bounded = {name: _counted(keyword) for name, keyword in Draft202012Validator.VALIDATORS.items()}
    bounded["pattern"] = _counted(_pattern)
    bounded["patternProperties"] = _counted(_pattern_properties)
    bounded["uniqueItems"] = _counted(_unique_items)
    return validators.extend(Draft202012Validator, bounded)


def _counted(keyword: _Keyword) -> _Keyword:
    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Any:
        _budget[0] -= 1
        if _budget[0] < 0:
            raise _TooCostly
        return keyword(validator, value, instance, schema)

    return counted


def _pattern(_: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not _found(pattern, instance):
        yield ValidationError(f"{instance[:80]!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: dict[str, Any], instance: Any, schema: Any
) -> Iterator[Any]:
    if not isinstance(instance, dict):
        return
    for pattern, subschema in patterns.items():
        for name, value in instance.items():
            if _found(pattern, name):
                yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _unique_items(_: Any, wanted: bool, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if wanted and isinstance(instance, list):
        seen = {msgspec.json.encode(_canonical(item), order="sorted") for item in instance}
        if len(seen) < len(instance):
            yield ValidationError("the array has equal items")


def _canonical(value: Any) -> Any:
    """Equal values of JSON Schema as equal values of Python: 1.0 is 1, and true is neither."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    return value


def _found(pattern: str, text: str) -> bool:
    try:
        return _compiled(pattern).search(text, timeout=PATTERN_S_MAX) is not None
    except TimeoutError:
        raise _TooCostly from None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    import regex

    return regex.compile(pattern)


def _pointer(path: Any, root: str = "#") -> str:
    return root + "".join(f"/{_escaped(str(step))}" for step in path)


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def _refused(pointer: str, why: str) -> Invalid:
    return Invalid(f"{pointer}: {why}", [FieldError(pointer, why)], code="invalid_schema")
