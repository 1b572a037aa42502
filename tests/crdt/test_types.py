"""What one type promises by itself: refusals, whole or not at all, and what is kept."""

from __future__ import annotations

import pytest

from monolite.crdt import (
    AheadError,
    ConflictError,
    CrdtError,
    GCounter,
    HybridClock,
    LwwMap,
    LwwRegister,
    Order,
    OrSet,
    PnCounter,
    Rga,
    VectorClock,
    encode,
)

NOW = 1_700_000_000_000


def clock(name: str, ms: int = NOW) -> HybridClock:
    return HybridClock(name, lambda: ms)


def test_a_stamp_over_five_minutes_ahead_is_refused_and_nothing_changes() -> None:
    mine, theirs = LwwRegister(), LwwRegister()
    mine.assign("mine", clock("a"))
    theirs.assign("theirs", clock("b", NOW + 300_001))
    before = encode(mine)
    with pytest.raises(AheadError):
        mine.merge(theirs, NOW)
    assert encode(mine) == before
    mine.merge(theirs, NOW + 1)
    assert mine.value == "theirs"


def test_a_map_refuses_a_future_in_any_of_its_keys_whole() -> None:
    mine, theirs, future = LwwMap(), LwwMap(), LwwRegister()
    theirs.ensure("n", GCounter, clock("b")).increment("b")
    future.assign(1, clock("b", NOW + 400_000))
    theirs.assign("r", future, clock("b"))
    mine.ensure("n", GCounter, clock("a"))
    with pytest.raises(AheadError):
        mine.merge(theirs, NOW)
    assert mine.value == {"n": 0}


def test_equal_stamp_and_node_with_unequal_values_is_a_conflict() -> None:
    one, other = LwwRegister(), LwwRegister()
    one.assign(1, clock("a"))
    other.assign(True, clock("a"))
    with pytest.raises(ConflictError):
        one.merge(other, NOW)
    assert one.value == 1


def test_a_later_write_wins_though_its_machine_is_behind() -> None:
    one, other = LwwRegister(), LwwRegister()
    one.assign("first", clock("a", NOW))
    other.merge(one, NOW)
    other.assign("second", clock("b", NOW - 200_000))
    one.merge(other, NOW)
    assert one.value == "second"


def test_a_clock_that_goes_back_still_gives_later_stamps() -> None:
    wall = [NOW]
    hybrid = HybridClock("a", lambda: wall[0])
    first = hybrid.tick()
    wall[0] -= 1000
    assert hybrid.tick() > first


def test_one_name_used_by_two_replicas_is_a_conflict() -> None:
    sets, sequences = (OrSet(), OrSet()), (Rga(), Rga())
    for number in (0, 1):
        sets[number].add(number, "a")
        sequences[number].insert(0, [number], "a")
    for one, other in (sets, sequences):
        before = encode(one)
        with pytest.raises(ConflictError):
            one.merge(other)  # type: ignore[arg-type]
        assert encode(one) == before


@pytest.mark.parametrize("name", ["", "a b", "å", "x" * 65, "a\n"])
def test_what_is_no_name_is_refused(name: str) -> None:
    for change in (
        lambda: OrSet().add(1, name),
        lambda: GCounter().increment(name),
        lambda: Rga().insert(0, "x", name),
        lambda: HybridClock(name),
        lambda: VectorClock({name: 1}),
    ):
        with pytest.raises(CrdtError):
            change()


def test_counters_only_take_what_they_can_hold() -> None:
    counter = PnCounter()
    for by in (0, -1, 2**53):
        with pytest.raises(CrdtError):
            counter.increment("a", by)
    counter.increment("a", 2**53 - 1)
    with pytest.raises(CrdtError):
        counter.increment("a")
    assert counter.decrement("a", 2).value == -2
    assert counter.value == 2**53 - 3


def test_a_set_tells_true_from_one_and_not_one_from_one_point_nought() -> None:
    elements = OrSet()
    for element in (1, 1.0, True, "1", b"1"):
        elements.add(element, "a")
    assert len(elements) == 4


def test_vector_clocks_compare_and_can_be_pruned() -> None:
    one, other = VectorClock({"a": 2, "gone": 9}), VectorClock({"a": 2, "b": 1})
    assert one.compare(other) is Order.CONCURRENT
    assert one.prune(["gone"]).compare(other) is Order.BEFORE
    assert other.compare(one.prune(["gone"])) is Order.AFTER
    one.merge(other)
    assert one.compare(one.copy()) is Order.EQUAL
    assert one["b"] == 1


def test_a_map_keeps_the_objects_it_gave_through_a_merge() -> None:
    one, other = LwwMap(), LwwMap()
    text = one.ensure("t", Rga, clock("a"))
    other.ensure("t", Rga, clock("b")).insert(0, "hi", "b")
    other.ensure("s", OrSet, clock("b")).add(1, "b")
    one.ensure("s", OrSet, clock("a"))
    one.merge(other, NOW)
    assert text.value == ["h", "i"]


def test_a_delta_of_one_change_is_small() -> None:
    elements = OrSet()
    for number in range(10_000):
        elements.add(f"element {number}", "a")
    assert len(encode(elements.add("one more", "b"))) * 100 <= len(encode(elements))
    assert len(encode(elements.remove("element 7"))) * 100 <= len(encode(elements))


def test_places_outside_a_sequence_are_refused() -> None:
    sequence = Rga()
    sequence.insert(0, "ab", "a")
    for change in (
        lambda: sequence.insert(3, "x", "a"),
        lambda: sequence.insert(-1, "x", "a"),
        lambda: sequence.delete(1, "a", 2),
        lambda: sequence[2],
    ):
        with pytest.raises(IndexError):
            change()
    assert "".join(sequence) == "ab"
