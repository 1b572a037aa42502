"""`serve` with a clock that obeys a file: its content is added to the host's time, in ms."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from monolite import clock
from monolite.cli.main import main

_offset_file = Path(os.environ["CLOCK_OFFSET_FILE"])


class _JumpingClock(clock.SystemClock):
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + int(_offset_file.read_text())


if __name__ == "__main__":
    clock.SystemClock = _JumpingClock  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
