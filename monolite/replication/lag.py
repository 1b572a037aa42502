"""How old the oldest commit is that S3 doesn't hold, without asking S3 and never guessed low.

Two facts are sampled: SQLite's own change counter in the shared wal-index, which moves with each
commit, and Litestream's pair (local transaction id, the one S3 holds), which a local sync returns.
A commit seen between two samples is dated by the earlier one, so the figure errs upward by one
sampling interval at most.
"""

from __future__ import annotations

from collections import deque

# More than this many are merged at the young end: S3 may be away for days.
NOTED_MAX = 512


class LagMeter:
    """Fed by the watch; times are monotonic seconds."""

    def __init__(self, now_s: float) -> None:
        self._counter: int | None = None
        self._sampled_at_s = now_s
        # (not older than, seen at) of commits not known to lie in S3. What happened while nobody
        # looked is unknown: until a first sync, the start counts as one.
        self._noted: deque[tuple[float, float]] = deque([(now_s, now_s)])

    def sample(self, counter: int | None, now_s: float) -> None:
        """Notes the change counter (`local_state.change_counter`)."""
        if counter is not None and counter != self._counter:
            if self._counter is not None:
                dated_s = self._sampled_at_s
                if len(self._noted) >= NOTED_MAX:
                    dated_s, _ = self._noted.pop()
                self._noted.append((dated_s, now_s))
            self._counter = counter
        self._sampled_at_s = now_s

    @property
    def pending(self) -> bool:
        """Whether some commit is not known to lie in S3."""
        return bool(self._noted)

    def covered(self, until_s: float) -> None:
        """Everything committed before `until_s` lies in S3."""
        while self._noted and self._noted[0][1] <= until_s:
            self._noted.popleft()

    def lag_ms(self, now_s: float) -> int:
        return max(0, round((now_s - self._noted[0][0]) * 1000)) if self._noted else 0
