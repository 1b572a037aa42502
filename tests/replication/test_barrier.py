from __future__ import annotations

import asyncio

import pytest

from monolite.replication.barrier import Barrier
from monolite.replication.errors import ReplicationUnavailable


def test_concurrent_callers_share_one_running_and_one_queued_sync() -> None:
    async def main() -> None:
        syncs = 0
        gate = asyncio.Event()

        async def sync() -> None:
            nonlocal syncs
            syncs += 1
            await gate.wait()

        barrier = Barrier(sync)
        callers = [asyncio.create_task(barrier.wait(10)) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert syncs == 1
        gate.set()
        await asyncio.gather(*callers)
        assert syncs == 2

    asyncio.run(main())


def test_a_caller_is_never_answered_by_a_sync_that_began_before_it() -> None:
    async def main() -> None:
        committed = 0

        async def sync() -> None:
            nonlocal replicated
            seen = committed
            await asyncio.sleep(0.001)
            replicated = seen

        async def write_and_wait() -> None:
            nonlocal committed
            committed += 1
            mine = committed
            await barrier.wait(10)
            assert replicated >= mine

        replicated = 0
        barrier = Barrier(sync)
        async with asyncio.TaskGroup() as group:
            for _ in range(300):
                group.create_task(write_and_wait())
                await asyncio.sleep(0.0003)

    asyncio.run(main())


def test_a_failed_sync_fails_its_callers_and_not_the_next() -> None:
    async def main() -> None:
        outcomes = [ReplicationUnavailable("S3 is away"), None]

        async def sync() -> None:
            await asyncio.sleep(0)
            outcome = outcomes.pop(0)
            if outcome is not None:
                raise outcome

        barrier = Barrier(sync)
        first = asyncio.create_task(barrier.wait(10))
        await asyncio.sleep(0)
        second = asyncio.create_task(barrier.wait(10))
        with pytest.raises(ReplicationUnavailable, match="S3 is away"):
            await first
        await second

    asyncio.run(main())


def test_a_caller_that_gives_up_leaves_the_sync_to_the_others() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def sync() -> None:
            await gate.wait()

        barrier = Barrier(sync)
        patient = asyncio.create_task(barrier.wait(10))
        with pytest.raises(ReplicationUnavailable, match="did not reach S3"):
            await barrier.wait(0.01)
        gate.set()
        await patient

    asyncio.run(main())
