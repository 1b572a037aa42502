"""Keys and values of conversations that are not in memory: in mapped files without a name.

Each file is unlinked as soon as it is made, so that nothing stays when the server ends, however it
ends; its blocks are taken before it is mapped, so that a full disk is an error here, and no signal.
"""

from __future__ import annotations

import logging
import mmap
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monolite.kernels.cache import Cache

log = logging.getLogger("monolite.inference")


class Spilled:
    """The caches of one sequence in a file. `close` frees it."""

    def __init__(self, mapped: mmap.mmap, byte_count: int) -> None:
        self.byte_count = byte_count
        self._mapped = mapped

    def read_into(self, layers: Sequence[Cache]) -> None:
        """Fill caches of the same shapes."""
        at = 0
        for layer in layers:
            for array in layer.arrays:
                end = at + array.nbytes
                array[...] = np.frombuffer(self._mapped[at:end], array.dtype).reshape(array.shape)
                at = end

    def close(self) -> None:
        """Give the file's blocks back."""
        self._mapped.close()


class SpillDirectory:
    """Where sequences are spilled to; a full or unwritable one takes none, and says so once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._has_failed = False

    def write(self, layers: Sequence[Cache]) -> Spilled | None:
        """A copy of caches, which hold something; None where it can't be written."""
        byte_count = sum(layer.byte_count for layer in layers)
        try:
            with tempfile.TemporaryFile(dir=self._directory) as file:
                os.posix_fallocate(file.fileno(), 0, byte_count)
                mapped = mmap.mmap(file.fileno(), byte_count)
        except OSError as error:
            if not self._has_failed:
                log.warning("conversations are not kept on disk: %s", error)
            self._has_failed = True
            return None
        for layer in layers:
            for array in layer.arrays:
                mapped.write(np.ascontiguousarray(array).tobytes())
        return Spilled(mapped, byte_count)
