"""Numbers as text and entries as bytes: what is written is read, and nothing else is."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolite.sync import ranges
from monolite.sync.frames import END, STATE, UPDATE, Frame, frame, read

numbers = st.sets(st.integers(1, 10**18 - 1), min_size=1, max_size=60) | st.sets(
    st.integers(1, 80), min_size=1
)


@given(numbers)
def test_a_set_of_numbers_is_read_back(wanted: set[int]) -> None:
    found = ranges.ranges_of(sorted(wanted))
    assert ranges.parse(ranges.text_of(found)) == found
    assert sum(high - low + 1 for low, high in found) == len(wanted)
    assert all(any(low <= number <= high for low, high in found) for number in wanted)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 10)), min_size=1, max_size=20))
def test_ranges_in_any_order_are_joined(pairs: list[tuple[int, int]]) -> None:
    text = " , ".join(f"{low}-{low + more}" if more else str(low) for low, more in pairs)
    wanted = {number for low, more in pairs for number in range(low, low + more + 1)}
    found = ranges.parse(text)
    assert {number for low, high in found for number in range(low, high + 1)} == wanted
    assert all(a[1] + 1 < b[0] for a, b in pairwise(found)), "none touch"


@given(st.text(max_size=30))
def test_any_other_text_is_refused_and_never_a_crash(text: str) -> None:
    try:
        found = ranges.parse(text)
    except ValueError:
        return
    assert all(1 <= low <= high for low, high in found)


def test_a_list_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="1000"):
        ranges.parse(",".join(str(2 * n) for n in range(1, 1002)))


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True)
frames = st.builds(
    Frame,
    kind=st.integers(0, 255),
    number=st.integers(0, 2**64 - 1),
    replica=names | st.just(""),
    cursor=st.text("abcXYZ019_-", max_size=255),
    blob=st.binary(max_size=400),
)


@given(st.lists(frames, max_size=6))
def test_frames_are_read_back(wanted: list[Frame]) -> None:
    data = b"".join(frame(f.kind, f.number, f.replica, f.cursor, f.blob) for f in wanted)
    assert list(read(data)) == wanted


@given(frames, st.data())
def test_a_frame_that_is_cut_short_is_refused(one: Frame, data: st.DataObject) -> None:
    whole = frame(one.kind, one.number, one.replica, one.cursor, one.blob)
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(ValueError, match="cut short"):
        list(read(whole[:cut]))


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_refused(data: bytes) -> None:
    try:
        found = list(read(data))
    except ValueError:
        return
    assert b"".join(frame(f.kind, f.number, f.replica, f.cursor, f.blob) for f in found) == data


def test_the_layout_is_as_documented() -> None:
    assert frame(STATE, 0x0102030405060708, "ab", "cde", b"\xff") == bytes.fromhex(
        "00000011 01 0102030405060708 02 03 6162 636465 ff"
    )
    assert frame(UPDATE, 7, None, "", b"x") == bytes.fromhex("0000000c 02 0000000000000007 0000 78")
    assert frame(END, 9, None, "", b"\x01")[4] == 0
