"""Bytes: equal states have equal ones, vectors are shared, and anything else is refused."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monolite.crdt import CrdtError, LwwMap, LwwRegister, MalformedError, OrSet, Rga, decode, encode
from tests.crdt import make_vectors
from tests.crdt.make_vectors import FILE, NOW, VALUES, text, vectors

ROOT = Path(__file__).parent.parent.parent
SHARED = vectors()
GOOD = [bytes.fromhex(one[side]) for one in SHARED["merges"] for side in ("a", "b", "merged")]

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


def test_the_vectors_are_those_of_the_file() -> None:
    assert text() == FILE.read_text(), "python -m tests.crdt.make_vectors"


def test_every_vector_merges_as_it_says() -> None:
    for one in SHARED["merges"]:
        for first, second in (("a", "b"), ("b", "a")):
            state: Any = decode(bytes.fromhex(one[first]))
            state.merge(decode(bytes.fromhex(one[second])), NOW)
            assert encode(state).hex() == one["merged"], one["name"]
    assert len(VALUES) == len(SHARED["values"])


def test_refused_vectors_are_refused() -> None:
    for one in SHARED["refused"]:
        with pytest.raises(MalformedError):
            decode(bytes.fromhex(one["bytes"]))


@given(value=values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    register, elements = LwwRegister(), OrSet()
    register.assign(value, make_vectors._clock("a"))
    elements.add(value, "a")
    again = decode(encode(register))
    assert isinstance(again, LwwRegister)
    assert again.value == value
    assert encode(again) == encode(register)
    assert decode(encode(elements)).value == [value]  # type: ignore[attr-defined]


@given(value=st.sampled_from([float("nan"), float("inf"), 2**53, {1: 2}, object(), "\ud800"]))
def test_what_is_no_value_is_refused_and_nothing_changes(value: Any) -> None:
    sequence = Rga()
    with pytest.raises(CrdtError):
        sequence.insert(0, [1, value], "a")
    assert encode(sequence) == encode(Rga())
    nested: Any = []
    for _ in range(20):
        nested = [nested]
    with pytest.raises(CrdtError):
        OrSet().add(nested, "a")


@given(good=st.sampled_from(GOOD), data=st.data())
@settings(max_examples=400, deadline=None)
def test_changed_bytes_are_refused_or_are_another_state(good: bytes, data: st.DataObject) -> None:
    """With a checksum that fits, so that what is behind it is reached."""
    body = bytearray(good[:-4])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        how = data.draw(st.sampled_from(("change", "cut", "insert", "double")))
        if how == "change":
            body[at] = data.draw(st.integers(0, 255))
        elif how == "cut":
            del body[at : at + data.draw(st.integers(1, 4))]
        elif how == "insert":
            body[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            body[at:at] = body[at : at + 8]
        if not body:
            return
    changed = bytes(body) + zlib.crc32(body).to_bytes(4, "big")
    try:
        state: Any = decode(changed)
    except MalformedError:
        return
    assert encode(state) == changed
    state.copy().merge(decode(changed), NOW + 10**15)
    _ = getattr(state, "value", None)


@given(junk=st.binary(max_size=60), kind=st.integers(1, 7))
@settings(max_examples=300)
def test_random_bytes_are_refused_or_are_a_state(junk: bytes, kind: int) -> None:
    body = b"MC\x01" + bytes((kind,)) + junk
    for data in (junk, body, body + zlib.crc32(body).to_bytes(4, "big")):
        try:
            state = decode(data)
        except MalformedError:
            continue
        assert encode(state) == data


@given(good=st.sampled_from(GOOD), bit=st.integers(0, 10_000))
def test_a_flipped_bit_is_told_by_the_checksum(good: bytes, bit: int) -> None:
    data = bytearray(good)
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    with pytest.raises(MalformedError):
        decode(bytes(data))


def test_maps_nest_sixteen_deep_and_no_deeper() -> None:
    clock = make_vectors._clock("a")
    outer = LwwMap()
    for _ in range(15):
        deeper = LwwMap()
        deeper.assign("k", outer, clock)
        outer = deeper
    assert encode(decode(encode(outer))) == encode(outer)
    with pytest.raises(CrdtError):
        LwwMap().assign("k", outer, clock)


def test_the_library_is_imported_alone() -> None:
    code = (
        "import sys; before = set(sys.modules); import monolite.crdt;"
        "found = {m.split('.')[0] for m in set(sys.modules) - before};"
        "print(sorted(found - set(sys.stdlib_module_names)))"
        ";print([m for m in sys.modules if m.startswith('monolite.')"
        " and not m.startswith('monolite.crdt')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert ran.stdout.decode().split("\n")[:2] == ["['monolite']", "[]"]
