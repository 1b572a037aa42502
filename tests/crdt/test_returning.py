"""A replica that was pruned and comes back: nothing deleted returns, nothing of its own is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from monolite.crdt import OrSet, Rga, Stability, StaleError, decode, encode

edits = st.lists(st.tuples(st.booleans(), st.integers(0, 99)), max_size=12)


def edit(sequence: Rga, name: str, changes: list[tuple[bool, int]], fresh: list[str]) -> None:
    for is_deletion, at in changes:
        if is_deletion and len(sequence):
            sequence.delete(at % len(sequence), name)
        else:
            fresh.append(f"{name}{len(fresh)}")
            sequence.insert(at % (len(sequence) + 1), [fresh[-1]], name)


def agree(replicas: list[Rga]) -> None:
    for _ in range(2):
        for one in replicas:
            for other in replicas:
                one.merge(other.copy())
    assert len({encode(one) for one in replicas}) == 1


@given(before=edits, by_a=edits, by_b=edits, away=edits, after=edits)
@settings(max_examples=150, deadline=None)
def test_nothing_deleted_comes_back_and_nothing_new_is_lost(
    before: list[tuple[bool, int]],
    by_a: list[tuple[bool, int]],
    by_b: list[tuple[bool, int]],
    away: list[tuple[bool, int]],
    after: list[tuple[bool, int]],
) -> None:
    a, b, c = Rga(), Rga(), Rga()
    fresh: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    edit(c, "c", before, fresh["c"])
    edit(a, "a", before, fresh["a"])
    agree([a, b, c])
    stability = Stability()
    stability.report("c", c.context, 0)

    edit(c, "c", away, fresh["c"])
    edit(a, "a", by_a, fresh["a"])
    edit(b, "b", by_b, fresh["b"])
    agree([a, b])
    for name, one in (("a", a), ("b", b)):
        stability.report(name, one.context, 10)
    assert stability.prune(before_ms=5) == ["c"]
    a.collect(stability.stable(a.context))
    assert a.tombstone_count == 0
    edit(b, "b", after, fresh["b"])
    group = {*a.value, *b.value}
    deleted = ({*fresh["a"], *fresh["b"]} - group) | {
        element for element in fresh["c"] if element not in group and element not in c.value
    }
    unseen = {value for dot, value in _living(c) if dot not in a.context}

    for one in (a, b):
        for other in (b, a):
            one.merge(other.copy())
    try:
        a.merge(c.copy())
    except StaleError:
        c, delta = decode(encode(c)).rebase(a, "c")  # type: ignore[attr-defined]
        a.merge(delta)
    agree([a, b, c])
    assert not deleted & set(a.value)
    assert unseen <= set(a.value)
    assert len(a.value) == len(set(a.value))


def _living(sequence: Rga) -> list[tuple[tuple[str, int], str]]:
    return [(i.dot, i.value) for i in sequence._blocks if i.deleted is None]


def test_an_old_set_does_not_bring_deleted_elements_back() -> None:
    group, away = OrSet(), OrSet()
    for element in ("kept", "deleted"):
        away.merge(away.add(element, "c"))
    group.merge(away)
    stability = Stability()
    stability.report("c", away.context, 0)
    group.remove("deleted")
    group.add("new", "a")
    stability.report("a", group.context, 10)
    assert stability.prune(before_ms=5) == ["c"]
    assert ("c", 1) in stability.stable(group.context)
    away.add("offline", "c")
    group.merge(decode(encode(away)))  # type: ignore[arg-type]
    assert group.value == ["new", "kept", "offline"]


def test_collection_waits_for_every_active_replica() -> None:
    a, b = Rga(), Rga()
    a.insert(0, "abc", "a")
    b.merge(a)
    stability = Stability()
    stability.report("a", a.context, 0)
    stability.report("b", b.context, 0)
    a.delete(1, "a")
    stability.report("a", a.context, 0)
    assert a.collect(stability.stable(a.context)) == 0
    b.merge(a)
    stability.report("b", b.context, 0)
    assert a.collect(stability.stable(a.context)) == 1
    b.merge(a)
    assert b.tombstone_count == 0
    assert encode(a) == encode(b)


def test_a_replica_that_wrote_and_never_reported_is_waited_for() -> None:
    a = Rga()
    a.insert(0, "ab", "a")
    a.merge(Rga().insert(0, "c", "b"))
    a.delete(0, "a")
    stability = Stability()
    stability.report("a", a.context, 0)
    assert a.collect(stability.stable(a.context)) == 0
