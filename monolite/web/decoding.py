"""From bytes to typed values, and from msgspec's messages to JSON Pointers."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from monolite.errors import FieldError, Invalid, Malformed

_at = re.compile(r"^(?P<why>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_step = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


def pointer(path: str | None) -> str:
    """Msgspec's `$.fields[0].name` as the JSON Pointer fragment `#/fields/0/name` (RFC 6901)."""
    steps = [name or index for name, index in _step.findall(path or "")]
    return "#" + "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def field_error(error: msgspec.ValidationError) -> FieldError:
    """The one field that a ValidationError is about."""
    found = _at.match(str(error))
    assert found is not None  # the pattern matches any text
    return FieldError(pointer(found["path"]), found["why"])


class JsonBody:
    """Decodes a body into a type: 400 for what is not JSON, 422 for what is and doesn't fit."""

    def __init__(self, kind: Any) -> None:
        self._decode = msgspec.json.Decoder(kind).decode

    def __call__(self, raw: bytes) -> Any:
        """`raw` as the type; raises Malformed or Invalid."""
        try:
            return self._decode(raw)
        except msgspec.ValidationError as error:
            # Only what is JSON to its end can be well-formed and wrong.
            self._well_formed(raw)
            field = field_error(error)
            raise Invalid(f"{field.pointer}: {field.detail}", [field]) from None
        except msgspec.DecodeError as error:
            raise Malformed(f"The body is not JSON: {error}.") from None
        except UnicodeDecodeError:
            raise Malformed("The body is not UTF-8.") from None
        except RecursionError:
            raise Malformed("The body is nested too deeply.") from None

    @staticmethod
    def _well_formed(raw: bytes) -> None:
        try:
            msgspec.json.decode(raw)
        except msgspec.DecodeError as error:
            raise Malformed(f"The body is not JSON: {error}.") from None
        except (UnicodeDecodeError, RecursionError):
            raise Malformed("The body is not JSON in UTF-8, or is nested too deeply.") from None


class QueryString:
    """Decodes a query string into a Struct, whose integers and booleans may be written as text."""

    def __init__(self, kind: type[msgspec.Struct], *, known: bool = True) -> None:
        self._kind = kind
        self._known = known
        self._empty: msgspec.Struct | None = None
        self._names = frozenset(f.encode_name for f in msgspec.structs.fields(kind))

    def __call__(self, query_string: bytes) -> Any:
        """The Struct; raises Invalid naming the parameter."""
        if not query_string:
            if self._empty is None:
                self._empty = self._convert({})
            return self._empty
        values = query_pairs(query_string)
        given = dict(values)
        for name, count in _counts(values).items():
            if name in self._names:
                if count > 1:
                    raise _bad_query(name, "given more than once")
            elif self._known:
                known = ", ".join(sorted(self._names)) or "none"
                raise _bad_query(name, f"no such parameter; known here: {known}")
        return self._convert({name: given[name] for name in given if name in self._names})

    def _convert(self, values: dict[str, str]) -> Any:
        try:
            return msgspec.convert(values, self._kind, strict=False)
        except msgspec.ValidationError as error:
            field = field_error(error)
            raise _bad_query(field.pointer[2:], field.detail) from None


def query_pairs(query_string: bytes) -> list[tuple[str, str]]:
    """The decoded name and value pairs, in their order, blanks kept.

    Raises:
        Malformed: it is not UTF-8 once percent-decoded, or has over 256 pairs.
    """
    try:
        return parse_qsl(
            query_string.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=256,
        )
    except (UnicodeDecodeError, ValueError):
        raise Malformed("The query string is not UTF-8, or has over 256 parameters.") from None


def _counts(values: list[tuple[str, str]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, _ in values:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _bad_query(name: str, why: str) -> Invalid:
    return Invalid(f"?{name}: {why}", [FieldError(f"?{name}", why)])
