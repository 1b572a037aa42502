"""What Litestream is known to do wrong while it looks alive, and the guard for each.

| fault | seen as | guard |
|---|---|---|
| its shadow directory grows without end (#784, #927, #994) | bytes over the cap | fresh start |
| a core at 100 % while nothing is written (#955) | CPU over its share for a window | restart |
| files as large as a snapshot every few minutes (#1165) | several such files in an hour | alarm |

Silence (#781, #1083) is looked for in `core.py`: its files must reach the log's last commit.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from monolite.replication import local_state
from monolite.replication.settings import ReplicaSettings

LARGE_FILES_MAX = 3
LARGE_FILES_WINDOW_S = 3600.0
# Under this a whole copy is nothing to speak of, and common.
LARGE_BYTES_MIN = 16 * 1024 * 1024
LARGE_SHARE = 0.5
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Finding:
    """A fault, and whether to restart Litestream and whether on a fresh generation."""

    text: str
    restart: bool
    fresh_generation: bool


class Watch:
    """Looks at one Litestream from outside. `look` reads the disk: call it off the event loop."""

    def __init__(self, settings: ReplicaSettings, database: Path) -> None:
        self._settings = settings
        self._database = database
        self._pid: int | None = None
        self._cpu: deque[tuple[float, float]] = deque()
        self._large_seen: dict[str, float] = {}
        self.shadow_bytes = 0
        self.cpu_fraction = 0.0
        self.txid = 0

    def follow(self, pid: int) -> None:
        """A new process: what the last one did is no fault of its."""
        self._pid = pid
        self._cpu.clear()
        self._large_seen.clear()
        self.cpu_fraction = 0.0

    def look(self, now_s: float) -> Finding | None:
        """Measures, and says the worst that it found. `now_s` is monotonic."""
        self.shadow_bytes = local_state.shadow_bytes(self._database)
        self.txid = local_state.newest_txid(self._database)
        return self._too_large() or self._too_busy(now_s) or self._too_many_copies(now_s)

    def _too_large(self) -> Finding | None:
        # A first full copy of a large database lies there too, and is right.
        cap = self._settings.shadow_bytes_max + 2 * _size(self._database)
        if self.shadow_bytes <= cap:
            return None
        return Finding(
            f"Litestream's own files took {self.shadow_bytes} bytes, over {cap}; "
            "they were removed and a fresh copy begun. If it comes back, check that S3 keeps up",
            restart=True,
            fresh_generation=True,
        )

    def _too_busy(self, now_s: float) -> Finding | None:
        used_s = _cpu_s(self._pid)
        if used_s is None:
            return None
        self._cpu.append((now_s, used_s))
        window_s = self._settings.cpu_window_s
        while len(self._cpu) > 2 and now_s - self._cpu[1][0] >= window_s:
            self._cpu.popleft()
        first_s, first_used_s = self._cpu[0]
        if now_s <= first_s:
            return None
        self.cpu_fraction = round((used_s - first_used_s) / (now_s - first_s), 4)
        if now_s - first_s < window_s or self.cpu_fraction <= self._settings.cpu_fraction_max:
            return None
        return Finding(
            f"Litestream used {self.cpu_fraction:.2f} of a core for {window_s:g} s; restarted",
            restart=True,
            fresh_generation=False,
        )

    def _too_many_copies(self, now_s: float) -> Finding | None:
        threshold = max(LARGE_BYTES_MIN, int(_size(self._database) * LARGE_SHARE))
        folder = local_state.shadow_directory(self._database) / "ltx" / "0"
        for name, size in _files(folder):
            if size >= threshold:
                self._large_seen.setdefault(name, now_s)
        recent = [at for at in self._large_seen.values() if now_s - at <= LARGE_FILES_WINDOW_S]
        if len(recent) <= LARGE_FILES_MAX:
            return None
        self._large_seen.clear()
        return Finding(
            f"Litestream wrote {len(recent)} files of over {threshold} bytes within an hour: "
            "it copies the database again and again; look at the request bill and its log",
            restart=False,
            fresh_generation=False,
        )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _files(folder: Path) -> list[tuple[str, int]]:
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.stat().st_size) for entry in entries]
    except FileNotFoundError:
        return []


def _cpu_s(pid: int | None) -> float | None:
    """User and system time of a process, in seconds; None when it has gone. proc(5), stat."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name may hold spaces and brackets; what follows its last bracket is regular.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
