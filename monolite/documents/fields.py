"""Promoted fields: places in a collection's documents that became typed, generated columns."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from monolite.documents.paths import Steps, parse_path, path_text
from monolite.errors import FieldError, Invalid

Kind = Literal["integer", "number", "string", "boolean"]

FIELDS_MAX = 32
STRING_BYTES_MAX = 512
"""A longer string counts as missing in a promoted field: PostgreSQL's index rows end at 2.7 KB."""

BUILT_IN: Mapping[str, Kind] = {
    "id": "string",
    "created_at": "integer",
    "updated_at": "integer",
    "revision": "integer",
}
"""What every document has beside its data. Times are compared as milliseconds."""

# Words of the query string, and of the filters' grammar.
RESERVED = frozenset(BUILT_IN) | {
    "and", "or", "not", "limit", "cursor", "order", "select", "count", "since", "data",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}").fullmatch


class FieldDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One field of `PUT /v1/collections/{c}`. `text` is another word for `string`."""

    path: str
    type: Literal["integer", "number", "string", "boolean", "text"]
    index: bool = False


class Field(msgspec.Struct, frozen=True):
    """A promoted field. A value of another type than its own counts as missing."""

    name: str
    path: str
    kind: Kind
    index: bool

    @property
    def steps(self) -> Steps:
        """Where it lies in a document."""
        return parse_path(self.path, self.name)


def checked_fields(definitions: Mapping[str, FieldDefinition]) -> tuple[Field, ...]:
    """The fields that a caller defined, by name; raises Invalid with a pointer to each bad one."""
    errors: list[FieldError] = []
    fields: list[Field] = []
    for name, definition in sorted(definitions.items()):
        pointer = f"#/fields/{name.replace('~', '~0').replace('/', '~1')}"
        if not _NAME(name) or name in RESERVED:
            errors.append(
                FieldError(
                    pointer,
                    "a field's name is letters, digits and _, begins with a letter, and is none of "
                    + ", ".join(sorted(RESERVED)),
                )
            )
            continue
        try:
            steps = parse_path(definition.path, pointer + "/path")
        except Invalid as error:
            errors += error.errors
            continue
        kind: Any = "string" if definition.type == "text" else definition.type
        fields.append(Field(name, path_text(steps), kind, definition.index))
    if len(definitions) > FIELDS_MAX:
        errors.append(FieldError("#/fields", f"a collection has at most {FIELDS_MAX} fields"))
    if errors:
        raise Invalid(f"{errors[0].pointer}: {errors[0].detail}", errors)
    return tuple(fields)
