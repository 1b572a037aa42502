"""Many writers with idempotency keys, and the record of what each was told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any

from tests.system.wire import Closed, Connection, Truncated

PATH = "/v1/collections/orders/documents"


class Ledger:
    """Every write that was sent, by idempotency key, and the answers that came."""

    def __init__(self) -> None:
        self.sent: dict[str, dict[str, Any]] = {}
        self.acknowledged: dict[str, bytes] = {}
        self.refused: list[int] = []
        self.truncated = 0
        self._numbers = count(1)

    def next(self) -> tuple[str, dict[str, Any]]:
        """A new write's key and document."""
        number = next(self._numbers)
        key = f"write-{number}"
        self.sent[key] = {"number": number, "pad": "x" * (number * 37 % 900)}
        return key, self.sent[key]


async def write_until_closed(
    port: int, key: str, ledger: Ledger, headers: Mapping[str, str] | None = None
) -> None:
    """One writer, until the server goes."""
    try:
        async with Connection(port, key) as connection:
            while True:
                write, document = ledger.next()
                answer = await connection.send(
                    "POST", PATH, document, {"Idempotency-Key": write, **(headers or {})}
                )
                if answer.status == 201:
                    ledger.acknowledged[write] = answer.body
                else:
                    ledger.refused.append(answer.status)
    except Truncated:
        ledger.truncated += 1
    except (Closed, OSError):
        return


async def write_until(
    happens: Callable[[], None],
    after_s: float,
    *,
    port: int,
    key: str,
    ledger: Ledger,
    writers_count: int = 64,
    headers: Mapping[str, str] | None = None,
) -> None:
    """`writers_count` writers; `happens` after `after_s`, and they run until the server goes."""
    tasks = [
        asyncio.create_task(write_until_closed(port, key, ledger, headers))
        for _ in range(writers_count)
    ]
    await asyncio.sleep(after_s)
    await asyncio.to_thread(happens)
    await asyncio.gather(*tasks)


async def check_replays(
    port: int, key: str, ledger: Ledger, writes: Iterable[str], connections_count: int = 16
) -> None:
    """Send `writes` again: acknowledged ones answer the same, the others once and for all."""
    pending = list(writes)

    async def work() -> None:
        async with Connection(port, key) as connection:
            while pending:
                write = pending.pop()
                header = {"Idempotency-Key": write}
                answer = await connection.send("POST", PATH, ledger.sent[write], header)
                assert answer.status == 201, (write, answer)
                if write in ledger.acknowledged:
                    assert answer.headers.get("idempotency-replayed") == "true", write
                    assert answer.body == ledger.acknowledged[write], write
                ledger.acknowledged[write] = answer.body

    await asyncio.gather(*(work() for _ in range(connections_count)))


async def all_documents(port: int, key: str) -> list[dict[str, Any]]:
    """The whole collection, page by page."""
    documents: list[dict[str, Any]] = []
    cursor = ""
    async with Connection(port, key) as connection:
        while True:
            page = await connection.send("GET", f"{PATH}?limit=200{cursor}")
            if page.status == 404:
                return []  # a collection comes into being with its first write
            assert page.status == 200, page
            documents += page.json()["data"]
            if page.json()["next_cursor"] is None:
                return documents
            cursor = f"&cursor={page.json()['next_cursor']}"
