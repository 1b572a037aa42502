"""Room on the volume, for readiness: a full disk is better announced than met."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from monolite.storage.errors import from_os_error

FREE_BYTES_MIN = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """`free_bytes` is what an unprivileged process may still write."""

    free_bytes: int
    total_bytes: int

    def is_enough(self, free_bytes_min: int = FREE_BYTES_MIN) -> bool:
        """Whether writes may go on for a while."""
        return self.free_bytes >= free_bytes_min


def disk_space(path: Path) -> DiskSpace:
    """The space on the volume of `path`. Raises StorageError where it can't be asked."""
    try:
        volume = os.statvfs(path)
    except OSError as error:
        raise from_os_error(error, f"read the free space of {path}") from error
    return DiskSpace(volume.f_bavail * volume.f_frsize, volume.f_blocks * volume.f_frsize)
