from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from monolite.storage.errors import QueueFull, StorageUnavailable
from monolite.storage.sqlite.connection import open_reader
from monolite.storage.sqlite.writer import Writer

Opened = Callable[[], apsw.Connection]


def put(key: int, value: str) -> Callable[[apsw.Connection], int]:
    def work(connection: apsw.Connection) -> int:
        connection.execute("INSERT INTO pairs VALUES (?, ?)", (key, value))
        return key

    return work


def put_then_fail(key: int, error: BaseException) -> Callable[[apsw.Connection], int]:
    def work(connection: apsw.Connection) -> int:
        connection.execute("INSERT INTO pairs VALUES (?, 'gone')", (key,))
        raise error

    return work


def with_writer(opened: Opened, body: Callable[[Writer], Any], **options: Any) -> Any:
    async def main() -> Any:
        writer = Writer(opened, loop=asyncio.get_running_loop(), **options)
        writer.start()
        try:
            return await body(writer)
        finally:
            await writer.close()

    return asyncio.run(main())


async def held(writer: Writer) -> tuple[threading.Event, asyncio.Future[bool]]:
    """Keeps the writer's thread inside a transaction until the event is set."""
    started, release = threading.Event(), threading.Event()

    def hold(connection: apsw.Connection) -> bool:
        started.set()
        return release.wait(10)

    future = writer.submit(hold, is_long=True)
    await asyncio.to_thread(started.wait)
    return release, future


def rows(database: Path) -> dict[int, str]:
    connection = open_reader(database)
    try:
        return {int(key): str(value) for key, value in connection.execute("SELECT * FROM pairs")}
    finally:
        connection.close()


def test_a_row_is_visible_to_others_the_moment_its_future_resolves(
    opened: Opened, database: Path
) -> None:
    async def body(writer: Writer) -> None:
        other = open_reader(database)
        seen: list[bool] = []

        def look(future: asyncio.Future[int]) -> None:
            found = other.execute("SELECT 1 FROM pairs WHERE key = ?", (future.result(),))
            seen.append(found.fetchone() is not None)

        futures = [writer.submit(put(key, "x")) for key in range(200)]
        for future in futures:
            future.add_done_callback(look)
        await asyncio.gather(*futures)
        await asyncio.sleep(0)
        assert seen == [True] * 200
        other.close()

    with_writer(opened, body)


def test_a_row_is_invisible_until_its_batch_is_committed(opened: Opened, database: Path) -> None:
    async def body(writer: Writer) -> None:
        release, holding = await held(writer)
        # Queued behind the held batch; nothing of it may be answered or seen.
        future = writer.submit(put(1, "x"))
        await asyncio.sleep(0.05)
        assert not future.done()
        assert rows(database) == {}
        release.set()
        await asyncio.gather(holding, future)
        assert rows(database) == {1: "x"}

    with_writer(opened, body)


def test_a_failing_write_takes_back_only_itself(opened: Opened, database: Path) -> None:
    async def body(writer: Writer) -> None:
        release, holding = await held(writer)
        futures = [
            writer.submit(put(1, "a")),
            writer.submit(put_then_fail(2, KeyError("mine"))),
            writer.submit(put(1, "duplicate")),
            writer.submit(put(3, "c")),
        ]
        release.set()
        await holding
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert outcomes[0] == 1
        assert isinstance(outcomes[1], KeyError)
        assert isinstance(outcomes[2], apsw.ConstraintError)
        assert outcomes[3] == 3
        assert rows(database) == {1: "a", 3: "c"}
        assert writer.stats().batches_total == 2

    with_writer(opened, body)


def test_a_failing_write_of_one_statement_takes_back_only_itself(
    opened: Opened, database: Path
) -> None:
    def refuse(connection: apsw.Connection) -> int:
        raise KeyError("mine")

    async def body(writer: Writer) -> None:
        release, holding = await held(writer)
        futures = [
            writer.submit(put(1, "a"), is_atomic=True),
            writer.submit(refuse, is_atomic=True),
            writer.submit(put(1, "duplicate"), is_atomic=True),
            writer.submit(put_then_fail(2, KeyError("mine"))),
            writer.submit(put(3, "c"), is_atomic=True),
        ]
        release.set()
        await holding
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert outcomes[0] == 1
        assert isinstance(outcomes[1], KeyError)
        assert isinstance(outcomes[2], apsw.ConstraintError)
        assert isinstance(outcomes[3], KeyError)
        assert outcomes[4] == 3
        assert rows(database) == {1: "a", 3: "c"}
        assert writer.stats().batches_total == 2

    with_writer(opened, body)


def test_a_write_that_is_not_atomic_as_it_said_fails_its_batch_and_leaves_nothing(
    opened: Opened, database: Path
) -> None:
    async def body(writer: Writer) -> None:
        release, holding = await held(writer)
        futures = [
            writer.submit(put(1, "a"), is_atomic=True),
            writer.submit(put_then_fail(2, KeyError("mine")), is_atomic=True),
        ]
        release.set()
        await holding
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 2
        assert await writer.submit(put(3, "c")) == 3
        assert rows(database) == {3: "c"}

    with_writer(opened, body)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), StopIteration()])
def test_an_error_that_no_future_can_carry_neither_ends_the_thread_nor_the_loop(
    opened: Opened, database: Path, error: BaseException
) -> None:
    async def body(writer: Writer) -> None:
        with pytest.raises(StorageUnavailable):
            await writer.submit(put_then_fail(1, error))
        assert await writer.submit(put(2, "after")) == 2
        assert rows(database) == {2: "after"}

    with_writer(opened, body)


def test_writes_run_in_the_order_they_were_submitted(opened: Opened) -> None:
    order: list[int] = []

    def note(n: int) -> Callable[[apsw.Connection], None]:
        return lambda connection: order.append(n)

    async def body(writer: Writer) -> None:
        futures = [writer.submit(note(n)) for n in range(1000)]
        await asyncio.gather(*futures)

    with_writer(opened, body, batch_count_max=7)
    assert order == list(range(1000))


def test_a_full_queue_refuses_at_once_and_accepts_again_once_answered(opened: Opened) -> None:
    async def body(writer: Writer) -> None:
        release, holding = await held(writer)
        futures = [writer.submit(put(key, "x")) for key in range(9)]
        with pytest.raises(QueueFull) as refused:
            writer.submit(put(99, "x"))
        assert refused.value.retry_after_s > 0
        release.set()
        await asyncio.gather(holding, *futures)
        assert await writer.submit(put(99, "x")) == 99
        assert writer.stats().queue_count == 0

    with_writer(opened, body, queue_count_max=10)


def test_close_commits_and_answers_what_was_accepted(opened: Opened, database: Path) -> None:
    async def main() -> None:
        writer = Writer(opened, loop=asyncio.get_running_loop(), batch_count_max=3)
        writer.start()
        futures = [writer.submit(put(key, "x")) for key in range(100)]
        await writer.close()
        assert [future.result() for future in futures] == list(range(100))
        with pytest.raises(StorageUnavailable):
            writer.submit(put(100, "x"))
        await writer.close()

    asyncio.run(main())
    assert sorted(rows(database)) == list(range(100))


def test_a_write_cancelled_before_it_began_is_never_run(opened: Opened, database: Path) -> None:
    async def body(writer: Writer) -> None:
        release, holding = await held(writer)
        kept, dropped = writer.submit(put(1, "x")), writer.submit(put(2, "x"))
        dropped.cancel()
        release.set()
        await asyncio.gather(holding, kept)
        assert rows(database) == {1: "x"}
        assert writer.stats().queue_count == 0

    with_writer(opened, body)


def test_a_write_that_ends_the_transaction_fails_its_batch_and_not_the_next(
    opened: Opened,
) -> None:
    async def body(writer: Writer) -> None:
        with pytest.raises(StorageUnavailable):
            await writer.submit(lambda connection: connection.execute("ROLLBACK"))
        assert await writer.submit(put(1, "x")) == 1

    with_writer(opened, body)


def test_a_lock_held_by_another_connection_is_waited_for(opened: Opened) -> None:
    async def body(writer: Writer) -> None:
        other = opened()
        other.execute("BEGIN IMMEDIATE")
        future = writer.submit(put(1, "x"))
        await asyncio.sleep(0.1)
        assert not future.done()
        other.execute("ROLLBACK")
        assert await future == 1
        other.close()

    with_writer(opened, body)


def test_without_group_commit_each_write_has_its_own_transaction(opened: Opened) -> None:
    async def body(writer: Writer) -> None:
        await asyncio.gather(*(writer.submit(put(key, "x")) for key in range(20)))
        assert writer.stats().batches_total == 20

    with_writer(opened, body, group_commit=False)


def test_listeners_hear_of_each_commit_even_when_one_of_them_fails(opened: Opened) -> None:
    heard: list[int] = []

    def failing(count: int) -> None:
        raise ValueError(count)

    async def body(writer: Writer) -> None:
        writer.on_commit += [failing, heard.append]
        await asyncio.gather(*(writer.submit(put(key, "x")) for key in range(50)))
        with pytest.raises(KeyError):
            await writer.submit(put_then_fail(99, KeyError()))

    with_writer(opened, body)
    assert sum(heard) == 50


def test_a_connection_that_cannot_be_opened_is_told_by_start(tmp_path: Path) -> None:
    def fails() -> apsw.Connection:
        raise StorageUnavailable("no")

    async def main() -> None:
        writer = Writer(fails, loop=asyncio.get_running_loop())
        with pytest.raises(StorageUnavailable):
            writer.start()
        await writer.close()

    asyncio.run(main())


# ── Prompt writes: at once where nobody else writes ────────────────────────────────────────────


def test_a_prompt_write_that_is_alone_is_committed_when_submit_returns(
    opened: Opened, database: Path
) -> None:
    async def body(writer: Writer) -> None:
        future = writer.submit(put(1, "a"), is_prompt=True)
        assert future.done()
        assert rows(database) == {1: "a"}
        assert await future == 1
        assert writer.submit(put(2, "b"), is_prompt=True, is_atomic=True).done()
        assert rows(database) == {1: "a", 2: "b"}
        assert (writer.stats().batches_total, writer.stats().queue_count) == (2, 0)

    with_writer(opened, body, commit_on_loop=True)


@pytest.mark.parametrize("is_long", [False, True])
def test_what_is_synced_or_long_is_never_prompt(opened: Opened, is_long: bool) -> None:
    async def body(writer: Writer) -> None:
        first = writer.submit(put(1, "a"), is_long=is_long, is_prompt=not is_long)
        second = writer.submit(put(2, "b"), is_prompt=True)
        assert not first.done()
        assert not second.done()
        assert await asyncio.gather(first, second) == [1, 2]
        assert writer.stats().batches_total == 1

    with_writer(opened, body, commit_on_loop=is_long)


@pytest.mark.parametrize("is_atomic", [False, True])
def test_a_prompt_write_that_fails_leaves_nothing_and_the_next_succeeds(
    opened: Opened, database: Path, is_atomic: bool
) -> None:
    def fail(connection: apsw.Connection) -> None:
        if not is_atomic:
            connection.execute("INSERT INTO pairs VALUES (9, 'gone')")
        raise KeyError("mine")

    heard: list[int] = []

    async def body(writer: Writer) -> None:
        writer.on_commit.append(heard.append)
        with pytest.raises(KeyError):
            await writer.submit(fail, is_prompt=True, is_atomic=is_atomic)
        assert heard == []
        assert await writer.submit(put(1, "a"), is_prompt=True) == 1
        assert rows(database) == {1: "a"}
        assert heard == [1]

    with_writer(opened, body, commit_on_loop=True)


def test_tasks_of_one_turn_still_share_a_commit(opened: Opened) -> None:
    async def body(writer: Writer) -> None:
        async def produce(number: int) -> None:
            for at in range(5):
                await writer.submit(put(100 * number + at, "x"), is_prompt=True)

        await asyncio.gather(*[produce(number) for number in range(20)])
        assert writer.stats().writes_total == 100
        # One of them may begin alone, up to its end.
        assert writer.stats().batches_total <= 5 + 5 + 1

    with_writer(opened, body, commit_on_loop=True)


def test_a_task_of_many_prompt_writes_lets_others_run(opened: Opened) -> None:
    async def body(writer: Writer) -> None:
        others_ran = asyncio.Event()
        asyncio.get_running_loop().call_soon(others_ran.set)
        for key in range(100_000):
            await writer.submit(put(key, "x"), is_prompt=True)
            if others_ran.is_set():
                return
        raise AssertionError("nobody else got a turn")

    with_writer(opened, body, commit_on_loop=True)


def test_a_prompt_write_that_meets_a_lock_of_another_process_waits_for_it(
    opened: Opened, database: Path
) -> None:
    async def body(writer: Writer) -> None:
        other = opened()
        try:
            for is_atomic in (False, True):
                other.execute("BEGIN IMMEDIATE")
                write = put(int(is_atomic), "a")
                future = writer.submit(write, is_prompt=True, is_atomic=is_atomic)
                await asyncio.sleep(0)
                assert not future.done()
                other.execute("COMMIT")
                assert await future == int(is_atomic)
                await asyncio.sleep(0)
        finally:
            other.close()
        assert rows(database) == {0: "a", 1: "a"}

    with_writer(opened, body, commit_on_loop=True)
