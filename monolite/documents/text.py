"""What JSON text is accepted as a document: nothing that one of the databases would change.

The text is stored as it came, so what a parser resolves by itself has to be refused: a key that
comes twice, a NUL that PostgreSQL can't hold, a number that is none. This is on the way of every
write, so the common case is proved right without a walk through the document.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from monolite.errors import FieldError, Invalid, Malformed

DEPTH_MAX = 128

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def checked(raw: bytes, *, depth_max: int = DEPTH_MAX) -> str:
    """The text of a JSON object (RFC 8259), unchanged.

    Raises:
        Malformed: not JSON in UTF-8; NaN and lone surrogates are neither.
        Invalid: not an object, nested over `depth_max`, a key twice in one object, a NUL in a
            string, or a number beyond 64-bit floating point. The pointer says where.
    """
    try:
        value = _decode(raw)
        text = raw.decode()
    except msgspec.ValidationError:
        # What is JSON and has no value here: a number that overflows.
        raise _overflow(raw) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"The body is not JSON in UTF-8: {error}.") from None
    except RecursionError:
        # So deep that nobody knows whether it would have been JSON to its end.
        raise Malformed("The body is nested too deeply to be read.") from None
    if type(value) is not dict:
        raise _invalid("#", f"a document is a JSON object, and this is {_kind(value)}")
    if raw.count(b"{") + raw.count(b"[") > depth_max and _depth(value) > depth_max:
        raise _too_deep(depth_max)
    # Each member has a colon, and the decoded value has each key once. Where as many colons come
    # out as went in, no member was dropped. An escape may write a colon, or a NUL, without one.
    if b"\\u00" in raw or raw.count(b":") != _encode(value).count(b":"):
        _walk(text)
    return text


class _Members(list[tuple[str, Any]]):
    """An object's members as they were written."""


def _walk(text: str) -> None:
    """Look at every key and string; raises Invalid for a key that comes twice, and for a NUL."""
    waiting: list[tuple[str, Any]] = [
        ("#", json.loads(text, object_pairs_hook=_Members, parse_int=float))
    ]
    while waiting:
        pointer, value = waiting.pop()
        if isinstance(value, str) and "\0" in value:
            raise _invalid(pointer, "holds the character U+0000, which PostgreSQL can't store")
        if isinstance(value, _Members):
            seen = set()
            for key, member in value:
                below = f"{pointer}/{_escaped(key)}"
                if key in seen:
                    raise _invalid(below, "the key comes twice in its object")
                if "\0" in key:
                    raise _invalid(below, "the key holds the character U+0000")
                seen.add(key)
                waiting.append((below, member))
        elif isinstance(value, list):
            waiting += [(f"{pointer}/{at}", member) for at, member in enumerate(value)]


def _depth(value: Any) -> int:
    depth = 0
    level = [value]
    while level:
        level = [below for one in level for below in _below(one)]
        depth += 1
    return depth - 1


def _below(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _overflow(raw: bytes) -> Invalid:
    # Python's own integers end at 4300 digits.
    for pointer, value in _leaves("#", json.loads(raw, parse_int=float)):
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            return _invalid(pointer, "the number is beyond 64-bit floating point")
    return _invalid("#", "a number is beyond 64-bit floating point")


def _leaves(pointer: str, value: Any) -> Iterator[tuple[str, Any]]:
    waiting = [(pointer, value)]
    while waiting:
        place, one = waiting.pop()
        if isinstance(one, dict):
            waiting += [(f"{place}/{_escaped(key)}", member) for key, member in one.items()]
        elif isinstance(one, list):
            waiting += [(f"{place}/{at}", member) for at, member in enumerate(one)]
        else:
            yield place, one


def _too_deep(depth_max: int) -> Invalid:
    return _invalid("#", f"a document is nested at most {depth_max} deep", "nested_too_deep")


def _invalid(pointer: str, why: str, code: str | None = None) -> Invalid:
    return Invalid(f"{pointer}: {why}", [FieldError(pointer, why)], code=code)


def _escaped(key: str) -> str:
    """A key in a JSON Pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a boolean", str: "a string", list: "an array"}
    return kinds.get(type(value), "a number")
