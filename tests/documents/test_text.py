"""What text is accepted as a document, against a parser that looks at everything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolite.documents.text import DEPTH_MAX, checked
from monolite.errors import Invalid, Malformed

KEYS = st.sampled_from(["a", "b", "a:b", "", "\N{SNOWMAN}", 'q"', "a/~"])
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", ":", '":', "http://x:80/", "\u003a", "é"]),
)


class Members(list[tuple[str, Any]]):
    """An object that may name a key twice."""


def written(value: Any, escapes: bool) -> str:
    if isinstance(value, Members):
        inner = ",".join(f"{written(k, escapes)}:{written(v, escapes)}" for k, v in value)
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{','.join(written(item, escapes) for item in value)}]"
    text = json.dumps(value, ensure_ascii=escapes)
    return text.replace(":", "\\u003a") if escapes and isinstance(value, str) else text


def has_double_key(value: Any) -> bool:
    if isinstance(value, Members):
        keys = [key for key, _ in value]
        return len(set(keys)) < len(keys) or any(has_double_key(v) for _, v in value)
    return isinstance(value, list) and any(map(has_double_key, value))


VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(st.tuples(KEYS, inner), max_size=5).map(Members)
    ),
    max_leaves=12,
)


@given(st.lists(st.tuples(KEYS, VALUES), max_size=5).map(Members), st.booleans())
def test_a_key_that_comes_twice_anywhere_is_refused_and_nothing_else_is(
    document: Members, escapes: bool
) -> None:
    text = written(document, escapes)
    if has_double_key(document):
        with pytest.raises(Invalid, match="comes twice"):
            checked(text.encode())
    else:
        assert checked(text.encode()) == text


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        (b"[]", "#"),
        (b"null", "#"),
        (b'"a"', "#"),
        (b"1", "#"),
        (b'{"a":{"b":1,"b":2}}', "#/a/b"),
        (b'{"a/b":1,"a\\u002fb":2}', "#/a~1b"),
        (b'{"a":["x","\\u0000"]}', "#/a/1"),
        (b'{"a\\u0000":1}', "#/a\0"),
        (b'{"a":{"b":[1,1e999]}}', "#/a/b/1"),
        (b'{"a":' * (DEPTH_MAX + 1) + b"1" + b"}" * (DEPTH_MAX + 1), "#"),
    ],
)
def test_the_place_of_what_is_wrong_is_named(text: bytes, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        checked(text)
    assert [error.pointer for error in caught.value.errors] == [pointer]


@pytest.mark.parametrize(
    "text", [b"", b"{", b"{} x", b'{"a":NaN}', b'{"a":"\xff"}', b'{"a":"\\ud800"}', b"[" * 10**7]
)
def test_what_is_not_json_is_malformed(text: bytes) -> None:
    with pytest.raises(Malformed):
        checked(text)


def test_the_deepest_document_allowed_is_accepted() -> None:
    text = b'{"a":' * DEPTH_MAX + b"1" + b"}" * DEPTH_MAX
    assert checked(text) == text.decode()


def test_numbers_keep_their_spelling() -> None:
    text = '{"a": 123456789012345678901234567890, "b": 1.10, "c": -0.0}'
    assert checked(text.encode()) == text
