"""A log in memory and listeners that note what they get: for the rules without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from monolite.sync.channels import Batch
from monolite.sync.engine import Read
from monolite.sync.entry import Document, Entry

KEY = (1, "doc")


class MemoryEngine:
    """What channels read. `pause` is awaited in each read, between two looks of its own."""

    def __init__(self) -> None:
        self.epoch = 1
        self.seq = 0
        self.live: list[Entry] = []
        self.reads = 0
        self.fails = 0
        self.pause: Callable[[], Any] = lambda: asyncio.sleep(0)

    def write(self, blob: bytes = b"x") -> int:
        self.seq += 1
        self.live.append(Entry(self.seq, "update", None, b"d" * 32, len(blob), 0, 0, None, blob))
        return self.seq

    def compact(self) -> None:
        self.live = []
        self.write()

    def delete(self) -> None:
        self.epoch += 1
        self.live = []

    async def entries(
        self,
        tenant_id: int,
        name: str,
        after: int,
        *,
        limit: int,
        bytes_max: int,
        blobs: bool,
        superseded: bool = False,
    ) -> Read | None:
        self.reads += 1
        if self.fails:
            self.fails -= 1
            raise OSError("the disk failed")
        document = Document(1, name, True, self.epoch, self.seq, 0, 0, len(self.live), 0, 0, 0)
        found = [entry for entry in self.live if entry.seq > after]
        page: list[Entry] = []
        for entry in found[: min(limit, 5)]:
            if page and sum(e.size for e in page) + entry.size > bytes_max:
                break
            page.append(entry)
        await self.pause()
        return Read(document, page, len(page) == len(found))


class Plain:
    """A format whose messages are the numbers themselves."""

    blobs = True

    def entries(self, batch: Batch) -> tuple[dict[str, Any], int]:
        size = sum(entry.size for entry in batch.entries)
        return {"seqs": [entry.seq for entry in batch.entries]}, size

    def up_to_date(self, cursor: str) -> tuple[dict[str, Any], int]:
        return {"up_to_date": cursor}, 1

    def presence(self, blob: bytes) -> tuple[dict[str, Any], int]:
        return {"presence": blob}, len(blob)

    def deleted(self, epoch: int) -> tuple[dict[str, Any], int]:
        return {"deleted": epoch}, 1


class NotingOutlet:
    """Notes messages; `slowness` times the loop goes round before a write comes back."""

    def __init__(self, slowness: int = 0) -> None:
        self.seqs: list[int] = []
        self.messages: list[dict[str, Any]] = []
        self.ended: tuple[int, str] | None = None
        self._slowness = slowness

    def push(self, message: tuple[dict[str, Any], int], *, droppable: bool = False) -> None:
        if self.ended is None:
            self.messages.append(message[0])
            self.seqs += message[0].get("seqs", [])

    async def write(self, message: tuple[dict[str, Any], int]) -> None:
        for _ in range(self._slowness):
            await asyncio.sleep(0)
        self.push(message)

    def end(self, why: tuple[int, str]) -> None:
        self.ended = self.ended or why


class NoBudget:
    """Room for everything."""

    async def take(self, size: int) -> None:
        return

    def give_back(self, size: int) -> None:
        return


def cursors(key: tuple[int, str], epoch: int, floor: int) -> Callable[[int], str]:
    return lambda seq: f"{epoch}.{seq}"


async def settle(turns: int = 200) -> None:
    """Let everything that was begun come to its end."""
    for _ in range(turns):
        await asyncio.sleep(0)


def ascending(seqs: Sequence[int]) -> bool:
    return all(a < b for a, b in pairwise(seqs))
