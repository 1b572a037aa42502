"""What a replica keeps on disk: its state with its place, and the deltas that were not sent."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

_TABLES = """
CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY CHECK (id = 1), place TEXT, blob BLOB);
-- sent: 0 waits, 1 acknowledged and not yet in the stored state, 2 refused by the server for good
CREATE TABLE IF NOT EXISTS queue (id INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB, sent INTEGER);
"""


@dataclass(slots=True)
class Place:
    """How far the relay was read: all up to `seq` is in the state, except `skipped`."""

    cursor: str | None = None
    epoch: int | None = None
    seq: int = 0
    skipped: list[int] = field(default_factory=list)


class Disk:
    """One SQLite file, each write synced before it returns. `:memory:` keeps nothing."""

    def __init__(self, path: str | Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA synchronous = FULL")
        # One replica, one process: a second one would give the same dots twice.
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._connection.executescript(_TABLES)

    def load(self) -> tuple[Place, bytes | None, list[bytes]]:
        """The place, the state, and every delta that may not be in it."""
        with self._lock:
            row = self._connection.execute("SELECT place, blob FROM state").fetchone()
            queue = self._connection.execute("SELECT blob FROM queue ORDER BY id").fetchall()
        place = Place(**json.loads(row[0])) if row else Place()
        return place, row[1] if row else None, [blob for (blob,) in queue]

    def push(self, blob: bytes) -> None:
        """Keep a delta until it is sent and in the stored state."""
        with self._lock:
            self._connection.execute("INSERT INTO queue (blob, sent) VALUES (?, 0)", (blob,))

    def unsent(self, limit: int = 100) -> Sequence[tuple[int, bytes]]:
        """The first deltas that wait."""
        with self._lock:
            return self._connection.execute(
                "SELECT id, blob FROM queue WHERE sent = 0 ORDER BY id LIMIT ?", (limit,)
            ).fetchall()

    def unsent_count(self) -> int:
        """How many wait."""
        with self._lock:
            return int(
                self._connection.execute("SELECT count(*) FROM queue WHERE sent = 0").fetchone()[0]
            )

    def mark(self, number: int, sent: int) -> None:
        """A delta was acknowledged (1) or refused (2)."""
        with self._lock:
            self._connection.execute("UPDATE queue SET sent = ? WHERE id = ?", (sent, number))

    def save(self, place: Place, blob: bytes) -> None:
        """The state, which holds every delta, with its place; sent deltas go. One transaction."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.execute(
                    "INSERT OR REPLACE INTO state VALUES (1, ?, ?)",
                    (json.dumps(asdict(place)), blob),
                )
                self._connection.execute("DELETE FROM queue WHERE sent = 1")
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def replace(self, place: Place, blob: bytes, delta: bytes) -> None:
        """As `save`, for a state that was rebased: what waited is in `delta`, and goes."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.execute("DELETE FROM queue WHERE sent = 0")
                self._connection.execute("INSERT INTO queue (blob, sent) VALUES (?, 0)", (delta,))
                self._connection.execute(
                    "INSERT OR REPLACE INTO state VALUES (1, ?, ?)",
                    (json.dumps(asdict(place)), blob),
                )
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
