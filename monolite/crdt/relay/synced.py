"""One document of the relay, and one replica of it."""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from monolite.crdt.encoding import decode, encode
from monolite.crdt.errors import CrdtError, StaleError
from monolite.crdt.relay.cipher import Cipher
from monolite.crdt.relay.disk import Disk, Place
from monolite.crdt.relay.requests import Answer, HttpSender, Offline, Refused, Sender
from monolite.crdt.rga import Rga
from monolite.crdt.wire import State, checked_name

S = TypeVar("S", bound=State)
PAUSE_S_MAX = 30.0
_PAUSE_S_FIRST = 0.25
_TIMEOUT_S = 30.0
_LONG_POLL_S = 25.0
# A refusal of these says something about the client's rights or the document, not about the update.
_NOT_THE_UPDATES = {401, 403, 404, 409, 410}


class DocumentDeleted(Exception):
    """The document was deleted on the server. What is on disk stays; nothing is sent any more."""


class Synced(Generic[S]):
    """A state, its file, and the document it follows. For several threads: change it in `lock`.

    `state` is an empty state of the document's type; what the file has is merged into it.
    """

    def __init__(
        self,
        state: S,
        *,
        replica: str,
        document: str,
        path: str | Path,
        key: str,
        url: str = "",
        cipher: Cipher | None = None,
        send: Sender | None = None,
        on_skipped: Callable[[int, CrdtError], None] = lambda seq, error: None,
    ) -> None:
        self.state = state
        self.replica = checked_name(replica)
        self.lock = threading.RLock()
        # A second connection waits for news, so that what is pushed meanwhile is not held up.
        self._http = [] if send is not None else [HttpSender(url), HttpSender(url)]
        self._send: Sender = send or self._http[0]
        self._listen: Sender = send or self._http[1]
        self._path = f"/v1/sync/{quote(document, safe='')}"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._cipher = cipher
        self._on_skipped = on_skipped
        self._stopped = threading.Event()
        self._exchanging = threading.Lock()
        self._disk = Disk(path)
        self._place, saved, queue = self._disk.load()
        self.compact_advised = False
        for blob in ([] if saved is None else [saved]) + queue:
            self.state.merge(self._opened(blob))

    @property
    def unsent(self) -> int:
        """How many deltas the server has not acknowledged."""
        return self._disk.unsent_count()

    def push(self, delta: S) -> None:
        """Keep a delta that the state already has; when this returns it outlives a kill."""
        self._disk.push(self._sealed(delta))

    def sync(self) -> None:
        """Send what waits, and read until there is no more; call it after `push` to send at once.

        Raises:
            Offline: no answer; everything is kept for the next time.
            Refused: the key does not permit it.
            DocumentDeleted: the document is gone.
        """
        with self._exchanging:
            self._send_queue()
            while not self._read_page(wait_s=0):
                pass
            self._send_queue()

    def follow(self) -> None:
        """`sync` again and again, waiting at the server for news, until `stop`.

        Pauses between attempts are random up to a bound that doubles to 30 s.

        Raises:
            Refused, DocumentDeleted: as `sync`.
        """
        failures = 0
        while not self._stopped.is_set():
            try:
                self.sync()
                self._read_page(wait_s=_LONG_POLL_S)
                failures = 0
            except Offline as error:
                bound = min(PAUSE_S_MAX, _PAUSE_S_FIRST * 2**failures)
                failures = min(failures + 1, 20)
                pause_s = max(error.after_s, random.uniform(0, bound))  # noqa: S311
                self._stopped.wait(pause_s)

    def stop(self) -> None:
        """End `follow`, at the latest when the server answers it."""
        self._stopped.set()

    def publish(self) -> None:
        """Put the whole state as this replica's: it tells the others what this one has seen."""
        path = f"{self._path}/states/{quote(self.replica, safe='')}"
        with self._exchanging:
            with self.lock:
                blob = self._sealed(self.state)
            self._heard(self._write("PUT", path, blob))

    def compact(self) -> bool:
        """Put a snapshot in place of all that was read; takes the scope `sync:compact`.

        Returns: whether it was; not where nothing was read or another was faster.
        """
        with self._exchanging:
            with self.lock:
                blob, supersedes = self._sealed(self.state), _ranges(self._place)
            if not supersedes:
                return False
            extra = {"X-Supersedes": supersedes}
            try:
                self._heard(self._write("POST", f"{self._path}/snapshots", blob, extra))
            except Refused as refusal:
                if refusal.code == "already_superseded":
                    return False
                raise
            self.compact_advised = False
            return True

    def close(self) -> None:
        """Close the file and the connection. `follow` must have returned."""
        self.stop()
        self._disk.close()
        for http in self._http:
            http.close()

    def _send_queue(self) -> None:
        while waiting := self._disk.unsent():
            for number, blob in waiting:
                try:
                    self._heard(self._write("POST", f"{self._path}/updates", blob))
                    self._disk.mark(number, 1)
                except Refused as refusal:
                    if refusal.status in _NOT_THE_UPDATES:
                        raise
                    # It would be refused each time, and hold up the others; its file keeps it.
                    self._disk.mark(number, 2)

    def _write(
        self, method: str, path: str, blob: bytes, extra: dict[str, str] | None = None
    ) -> Answer:
        headers = {**self._headers, "Content-Type": "application/octet-stream", **(extra or {})}
        if self._place.epoch is not None:
            headers["X-Epoch"] = str(self._place.epoch)
        try:
            return self._send(method, path, headers, blob, _TIMEOUT_S).checked()
        except Refused as refusal:
            if refusal.code == "epoch_ended":
                raise DocumentDeleted("the document was deleted") from refusal
            raise

    def _heard(self, answer: Answer) -> None:
        if "compact-advised" in answer.headers:
            self.compact_advised = True
        self._note_epoch(answer)

    def _note_epoch(self, answer: Answer) -> None:
        epoch = answer.headers.get("x-epoch", "")
        if self._place.epoch is None and epoch.isdigit():
            with self.lock:
                self._place.epoch = int(epoch)
                self._disk.save(self._place, self._sealed(self.state))

    def _read_page(self, wait_s: float) -> bool:
        """Merge one page and save; True where it was the last for now."""
        query = "?blobs=inline"
        if self._place.cursor is not None:
            query += f"&since={quote(self._place.cursor, safe='')}"
        if wait_s:
            query += f"&live=long-poll&timeout_ms={int(wait_s * 1000)}"
        timeout_s = wait_s + _TIMEOUT_S
        get = self._listen if wait_s else self._send
        answer = get("GET", f"{self._path}/entries{query}", self._headers, b"", timeout_s)
        if answer.status == 204:
            return True
        try:
            answer.checked()
        except Refused as refusal:
            return self._read_on(refusal)
        page = answer.json()
        with self.lock:
            place = copy(self._place)
            place.skipped = list(place.skipped)
            for entry in page["data"]:
                self._merge(entry, place)
            is_new = place.seq != self._place.seq or page["next_cursor"] != place.cursor
            place.cursor = page["next_cursor"]
            if place.epoch is None and answer.headers.get("x-epoch", "").isdigit():
                place.epoch = int(answer.headers["x-epoch"])
            self._place = place
            if is_new:
                self._disk.save(place, self._sealed(self.state))
        return bool(page["up_to_date"])

    def _read_on(self, refusal: Refused) -> bool:
        if refusal.code == "cursor_compacted":
            self._place.cursor = refusal.problem.get("cursor")
            return False
        if refusal.code == "cursor_ahead":
            # The server was taken back to an earlier moment: it may lack anything of ours.
            self._place = Place(epoch=self._place.epoch)
            with self.lock:
                self._disk.push(self._sealed(self.state))
            return False
        if refusal.code == "epoch_ended":
            raise DocumentDeleted("the document was deleted") from refusal
        if refusal.status == 404 and self._place.cursor is None:
            return True  # Nobody has written yet.
        raise refusal

    def _merge(self, entry: dict[str, Any], place: Place) -> None:
        seq = int(entry["seq"])
        try:
            other = self._opened(base64.b64decode(entry["blob"]))
            try:
                self.state.merge(other)
            except StaleError:
                if not self._rebase(other, place):
                    raise
        except CrdtError as error:
            # Not readable here, or not yet: never named in a snapshot, so it stays for others.
            place.skipped.append(seq)
            self._on_skipped(seq, error)
        place.seq = max(place.seq, seq)

    def _rebase(self, other: S, place: Place) -> bool:
        """Begin anew from a sequence whose tombstones were collected while this one was away."""
        if not (isinstance(self.state, Rga) and isinstance(other, Rga)):
            return False
        if other.floor <= self.state.floor:
            return False
        made, delta = self.state.rebase(other, self.replica)
        self._disk.replace(self._place, self._sealed(made), self._sealed(delta))
        self.state = made  # type: ignore[assignment]
        return True

    def _sealed(self, state: State) -> bytes:
        data = encode(state)
        return data if self._cipher is None else self._cipher.seal(data)

    def _opened(self, blob: bytes) -> S:
        state: Any = decode(blob if self._cipher is None else self._cipher.open(blob))
        if type(state) is not type(self.state):
            raise CrdtError(f"a {type(state).__name__} in a {type(self.state).__name__}'s document")
        return state


def _ranges(place: Place) -> str:
    """`1-41,43`: every number up to the last one read, without those skipped."""
    parts, low = [], 1
    for skipped in [*sorted(set(place.skipped)), place.seq + 1]:
        if skipped > low:
            parts.append(f"{low}-{skipped - 1}" if skipped - 1 > low else str(low))
        low = skipped + 1
    return ",".join(parts)
