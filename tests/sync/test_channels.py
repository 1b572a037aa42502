"""The fan-out path: nobody misses an entry, gets one twice, or waits for another."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from monolite.errors import RateLimited
from monolite.sync.channels import DELETED, PUSHED_BYTES_MAX, Channels, Listener, Waiter
from tests.sync.relay import (
    KEY,
    MemoryEngine,
    NoBudget,
    NotingOutlet,
    Plain,
    ascending,
    cursors,
    settle,
)

PLAIN = Plain()


def channels_of(engine: MemoryEngine) -> Channels:
    return Channels(engine, NoBudget(), cursors)  # type: ignore[arg-type]  # it has what is read


def join(
    channels: Channels, engine: MemoryEngine, position: int = 0, slowness: int = 0
) -> tuple[Listener, NotingOutlet]:
    listener = Listener(KEY, PLAIN, engine.epoch, position)
    channels.join(listener, 1000)
    outlet = NotingOutlet(slowness)
    listener.outlet = outlet
    channels.read_on(listener)
    return listener, outlet


steps = st.lists(
    st.one_of(
        st.just(("write",)),
        st.just(("write",)),
        st.just(("write large",)),
        st.just(("compact",)),
        st.tuples(st.just("join"), st.integers(0, 40), st.integers(0, 5)),
        st.just(("leave",)),
        st.just(("fail",)),
        st.tuples(st.just("turn"), st.integers(1, 6)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(steps, st.lists(st.integers(0, 30), min_size=1, max_size=8))
@example(
    [("join", 0, 0), ("turn", 1), ("write",), ("turn", 3), ("write",), ("turn", 1)], [9, 0, 30]
)
def test_every_listener_gets_what_lives_behind_its_place_once_and_in_order(
    steps: list[tuple[Any, ...]], paces: list[int]
) -> None:
    """Any interleaving of writes, compaction, joins, leaves and failing reads, over an engine that
    gives the loop away in the middle of each read: for so long that reads overtake each other, as
    they do on PostgreSQL's connections.
    """

    async def run() -> None:
        engine = MemoryEngine()
        pace = itertools.cycle(paces)
        engine.pause = lambda: settle(next(pace))
        channels = channels_of(engine)
        listening: list[tuple[Listener, NotingOutlet, int]] = []
        # What each is owed: all that was live when it was last looked at and since written.
        for step in steps:
            if step[0].startswith("write"):
                engine.write(b"x" * (PUSHED_BYTES_MAX + 1) if step[0] == "write large" else b"x")
                channels.changed(*KEY)
            elif step[0] == "compact" and engine.live:
                engine.compact()
                channels.changed(*KEY)
            elif step[0] == "join":
                position = min(step[1], engine.seq)
                listener, outlet = join(channels, engine, position, step[2])
                listening.append((listener, outlet, position))
            elif step[0] == "leave" and listening:
                channels.leave(listening.pop(0)[0])
            elif step[0] == "fail" and channels.listener_count:
                # A failing read ends who reads for itself, and is repeated for who is live.
                await settle()
                engine.fails = 1
                engine.write()
                channels.changed(*KEY)
                await asyncio.sleep(0)
                engine.fails = 0
            elif step[0] == "turn":
                await settle(step[1])
        await settle(600)
        if any(outlet.ended for _, outlet, _ in listening):
            raise AssertionError("nobody was slow")
        channels.changed(*KEY)
        await settle(600)
        for listener, outlet, position in listening:
            assert ascending(outlet.seqs), outlet.seqs
            assert all(seq > position for seq in outlet.seqs)
            owed = {entry.seq for entry in engine.live if entry.seq > position}
            assert owed <= set(outlet.seqs)
            assert listener.is_live
            assert any("up_to_date" in message for message in outlet.messages)
        for listener, _, _ in listening:
            channels.leave(listener)
        assert channels.listener_count == 0
        assert not channels.followed(), "nothing is kept of who has gone"
        channels.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monolite.sync.channels._RETRY_S", 0.0)
        asyncio.run(run())


def test_a_batch_is_read_and_encoded_once_for_all() -> None:
    encoded = 0

    class Counting(Plain):
        def entries(self, batch: Any) -> tuple[dict[str, Any], int]:
            nonlocal encoded
            encoded += 1
            return super().entries(batch)

    async def run() -> None:
        engine = MemoryEngine()
        engine.write()
        channels = channels_of(engine)
        format = Counting()
        outlets = []
        for _ in range(50):
            listener = Listener(KEY, format, 1, 0)
            channels.join(listener, 1000)
            listener.outlet = NotingOutlet()
            outlets.append(listener.outlet)
            await channels.catch_up(listener)
        await settle()
        reads_before, encoded_before = engine.reads, encoded
        engine.write()
        channels.changed(*KEY)
        await settle()
        assert [outlet.seqs for outlet in outlets] == [[1, 2]] * 50
        assert (engine.reads - reads_before, encoded - encoded_before) == (1, 1)

    asyncio.run(run())


def test_a_large_batch_is_read_by_each_for_itself() -> None:
    async def run() -> None:
        engine = MemoryEngine()
        channels = channels_of(engine)
        joined = [join(channels, engine) for _ in range(3)]
        await settle()
        engine.write(b"x" * (PUSHED_BYTES_MAX + 1))
        channels.changed(*KEY)
        await settle()
        assert [outlet.seqs for _, outlet in joined] == [[1]] * 3
        assert all(listener.is_live for listener, _ in joined)

    asyncio.run(run())


def test_one_that_takes_long_holds_no_other() -> None:
    async def run() -> None:
        engine = MemoryEngine()
        for _ in range(20):
            engine.write()
        channels = channels_of(engine)
        _, slow = join(channels, engine, slowness=10_000)
        _, quick = join(channels, engine)
        await settle()
        engine.write()
        channels.changed(*KEY)
        await settle()
        assert quick.seqs == list(range(1, 22))
        assert slow.seqs == []
        channels.close()

    asyncio.run(run())


def test_deletion_ends_everyone_of_the_epoch() -> None:
    async def run() -> None:
        engine = MemoryEngine()
        engine.write()
        channels = channels_of(engine)
        listener, outlet = join(channels, engine)
        await settle()
        waiter = Waiter(KEY, 1)
        waiting = asyncio.ensure_future(channels.wait(waiter, 1, 1000, 60))
        await settle()
        engine.delete()
        channels.changed(*KEY)
        await settle()
        assert outlet.messages[-1] == {"deleted": 2}
        assert outlet.ended == DELETED
        assert waiting.done()
        new, after = join(channels, engine, engine.seq)
        engine.write()
        channels.changed(*KEY)
        await settle()
        assert after.seqs == [2]
        channels.leave(listener)
        channels.leave(new)
        assert channels.listener_count == 0
        assert not channels.followed()

    asyncio.run(run())


def test_presence_goes_to_everyone_but_its_sender() -> None:
    async def run() -> None:
        engine = MemoryEngine()
        channels = channels_of(engine)
        (one, mine), (_, other) = join(channels, engine), join(channels, engine)
        await settle()
        channels.heard(*KEY, b"here", one.sender)
        assert {"presence": b"here"} in other.messages
        assert {"presence": b"here"} not in mine.messages

    asyncio.run(run())


def test_a_wait_ends_when_something_came_meanwhile() -> None:
    async def run() -> None:
        engine = MemoryEngine()
        engine.write()
        channels = channels_of(engine)
        engine.write()
        # Committed between the caller's look and its wait; nobody tells of it again.
        await asyncio.wait_for(channels.wait(Waiter(KEY, 1), 1, 10, 60), 5)
        assert channels.listener_count == 0

    asyncio.run(run())


def test_a_tenants_listeners_are_limited() -> None:
    async def run() -> None:
        engine = MemoryEngine()
        channels = channels_of(engine)
        channels.join(Listener(KEY, PLAIN, 1, 0), 1)
        with pytest.raises(RateLimited):
            channels.join(Listener(KEY, PLAIN, 1, 0), 1)
        with pytest.raises(RateLimited):
            await channels.wait(Waiter(KEY, 0), 1, 1, 60)
        channels.join(Listener((2, "doc"), PLAIN, 1, 0), 1)
        assert channels.listener_count == 2

    asyncio.run(run())
