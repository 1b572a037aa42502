"""A document of the relay that works offline, in Python: what is changed is stored, then sent.

In the folder are `place`, the cursor and the state it has come to, and `update-N`, what the server
has not acknowledged. Both are written beside and renamed, so that a kill leaves them whole.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import httpx

FRAMES = "application/vnd.monolite.entries"
HEAD_BYTES = 15


class Replica(Protocol):
    """A CRDT as this needs it."""

    def merge(self, blob: bytes) -> None:
        """Merge a state or an update, in any order and any number of times."""
        ...

    def encode(self) -> bytes:
        """All it knows; raises where something that was merged is not in that."""
        ...


class Document:
    """A document by name, kept in a folder."""

    def __init__(self, client: httpx.Client, name: str, folder: Path, replica: Replica) -> None:
        self._client = client
        self._path = f"/v1/sync/{name}"
        self._folder = folder
        self._replica = replica
        self._cursor: str | None = None
        self._seq = 0
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / "place"
        if place.exists():
            head, _, state = place.read_bytes().partition(b"\n")
            self._cursor, self._seq = json.loads(head)
            replica.merge(state)
        for file in self._unsent():
            replica.merge(file.read_bytes())

    def push(self, update: bytes) -> None:
        """Store an update that the replica has in it already."""
        self._write(f"update-{time.time_ns():020}", update)

    def settle(self) -> None:
        """Send all there is and read all there is, however long that takes."""
        for attempt in range(1_000):
            try:
                self._send()
                self._read()
                return
            except httpx.TransportError:
                time.sleep(random.random() * min(1.0, 0.02 * 2**attempt))  # noqa: S311
        raise TimeoutError("the relay does not answer")

    def compact(self) -> None:
        """Put a snapshot in place of all that was read."""
        state = self._replica.encode()
        if self._seq:
            headers = {"X-Supersedes": f"1-{self._seq}", "Content-Type": "application/octet-stream"}
            answer = self._client.post(f"{self._path}/snapshots", content=state, headers=headers)
            if answer.status_code != 409:  # another was faster
                answer.raise_for_status()

    def _send(self) -> None:
        headers = {"Content-Type": "application/octet-stream"}
        for file in self._unsent():
            blob = file.read_bytes()
            self._client.post(f"{self._path}/updates", content=blob, headers=headers)
            self._save()  # with the update in the state, which it then no longer needs
            file.unlink()

    def _read(self) -> None:
        while True:
            since = {} if self._cursor is None else {"since": self._cursor}
            answer = self._client.get(
                f"{self._path}/entries", params=since, headers={"Accept": FRAMES}
            )
            if answer.status_code == 404:
                return
            if answer.status_code == 410 and "cursor" in (problem := answer.json()):
                self._cursor = problem["cursor"]  # compacted meanwhile
                continue
            answer.raise_for_status()
            break
        data, at, is_whole = answer.content, 0, False
        while at < len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4])
            kind, seq = data[at + 4], int.from_bytes(data[at + 5 : at + 13])
            cursor_at = at + HEAD_BYTES + data[at + 13]
            blob_at = cursor_at + data[at + 14]
            if kind:
                self._replica.merge(data[blob_at:end])
                self._seq = max(self._seq, seq)
            else:
                self._cursor, is_whole = data[cursor_at:blob_at].decode(), True
            at = end
        if not is_whole:
            raise httpx.ReadError("the list was cut off")
        self._save()

    def _unsent(self) -> list[Path]:
        return sorted(file for file in self._folder.glob("update-*") if file.suffix != ".new")

    def _save(self) -> None:
        head = json.dumps([self._cursor, self._seq]).encode()
        self._write("place", head + b"\n" + self._replica.encode())

    def _write(self, name: str, content: bytes) -> None:
        new = self._folder / f"{name}.new"
        with new.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._folder / name)


def connect() -> httpx.Client:
    """The server that the environment names; what it refuses raises."""

    def check(answer: httpx.Response) -> None:
        if answer.status_code >= 500 or answer.status_code == 429:
            raise httpx.ReadError(f"{answer.status_code}, later perhaps")

    return httpx.Client(
        base_url=os.environ["URL"],
        headers={"Authorization": f"Bearer {os.environ['KEY']}"},
        event_hooks={"response": [check]},
    )


def converse(
    document: Document,
    add: Callable[[int, str], None],
    remove: Callable[[int], None],
    show: Callable[[], list[str]],
) -> None:
    """Do what each line says, and answer with a line."""
    for line in sys.stdin:
        word, _, rest = line.rstrip("\n").partition(" ")
        match word:
            case "add":
                at, _, text = rest.partition(" ")
                add(min(int(at), len(show())), text)
            case "remove":
                if rest in show():
                    remove(show().index(rest))
            case "settle":
                document.settle()
            case "compact":
                with suppress(httpx.TransportError, BlockingIOError):  # another time
                    document.compact()
            case "close":
                return
        print(json.dumps(show()) if word == "show" else "done", flush=True)
