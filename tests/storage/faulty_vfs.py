"""A file system that fails when told to: SQLite's own way of testing, through apsw.

Counts the writes, syncs and truncations of every file below it; the n-th and, when `lasting`, all
after it raise SQLITE_FULL or SQLITE_IOERR instead.
"""

from __future__ import annotations

from typing import Any

import apsw


class Faults:
    """What to fail, shared by every file of one FaultyVfs."""

    def __init__(self) -> None:
        self.count = 0
        self.fail_at: int | None = None
        self.code = apsw.SQLITE_FULL
        self.lasting = False
        self.failed_count = 0

    def arm(self, fail_at: int, code: int, *, lasting: bool) -> None:
        self.count = 0
        self.fail_at = fail_at
        self.code = code
        self.lasting = lasting
        self.failed_count = 0

    def disarm(self) -> None:
        self.fail_at = None

    def step(self) -> None:
        self.count += 1
        if self.fail_at is None:
            return
        if self.count == self.fail_at or (self.lasting and self.count > self.fail_at):
            self.failed_count += 1
            raise apsw.exception_for(self.code)


class FaultyVfs(apsw.VFS):
    def __init__(self, name: str, faults: Faults) -> None:
        self.faults = faults
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> FaultyFile:
        return FaultyFile(name, flags, self.faults)


class FaultyFile(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], faults: Faults) -> None:
        self.faults = faults
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        self.faults.step()
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self.faults.step()
        super().xSync(flags)

    def xTruncate(self, newsize: int) -> None:
        self.faults.step()
        super().xTruncate(newsize)
