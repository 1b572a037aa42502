"""How old the oldest commit is that S3 doesn't hold, without asking S3 and never guessed low.

Two facts are sampled: SQLite's own change counter in the shared wal-index, which moves with each
commit, and Litestream's pair (local transaction id, the one S3 holds), which a local sync returns.
A commit seen between two samples is dated by the earlier one, so the figure errs upward by one
sampling interval at most.
"""

from __future__ import annotations


class LagMeter:
    """Fed by the watch; times are monotonic seconds."""

    def __init__(self, now_s: float) -> None:
        self._counter: int | None = None
        self._sampled_at_s = now_s
        # What happened while nobody looked is unknown: until a first sync, count from the start.
        self._oldest_s: float | None = now_s
        # Commits seen after the last question to Litestream was sent.
        self._since_asked_s: float | None = None

    def sample(self, counter: int | None, now_s: float) -> None:
        """Notes the change counter (`local_state.change_counter`)."""
        if counter is not None and counter != self._counter:
            if self._counter is not None:
                if self._oldest_s is None:
                    self._oldest_s = self._sampled_at_s
                if self._since_asked_s is None:
                    self._since_asked_s = self._sampled_at_s
            self._counter = counter
        self._sampled_at_s = now_s

    @property
    def pending(self) -> bool:
        """Whether some commit is not known to lie in S3."""
        return self._oldest_s is not None

    def asked(self) -> None:
        """Litestream is being asked now: what is committed later is not in its answer."""
        self._since_asked_s = None

    def answered(self, *, in_s3: bool) -> None:
        """It answered; `in_s3` says that all it had taken from the log lies in S3."""
        if in_s3:
            self._oldest_s = self._since_asked_s

    def lag_ms(self, now_s: float) -> int:
        return 0 if self._oldest_s is None else max(0, round((now_s - self._oldest_s) * 1000))
