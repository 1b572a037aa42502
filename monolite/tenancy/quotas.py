"""How much a key may ask: requests in a fixed window of a minute.

Headers are those of draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy: "key";q=600;w=60`
and `RateLimit: "key";r=599;t=42`.
"""

from __future__ import annotations

from monolite.errors import RateLimited

WINDOW_S = 60


class RateWindow:
    """The requests of one key in the current minute. `quota` is None where there is no limit."""

    __slots__ = ("_ends_at", "_left", "policy", "quota")

    def __init__(self, quota: int | None) -> None:
        self.quota = quota
        self.policy = b'"key";q=%d;w=%d' % (quota, WINDOW_S) if quota is not None else b""
        self._left = quota or 0
        self._ends_at = 0.0

    def take(self, now: float) -> None:
        """Count one request at `now` (monotonic seconds); raises RateLimited past the quota."""
        if self.quota is None:
            return
        if now >= self._ends_at:
            self._ends_at = now + WINDOW_S
            self._left = self.quota
        if self._left <= 0:
            raise RateLimited(
                f"The key's {self.quota} requests of this minute are spent.",
                retry_after_s=self._ends_at - now,
            )
        self._left -= 1

    def header(self, now: float) -> bytes:
        """The `RateLimit` header's value."""
        return b'"key";r=%d;t=%d' % (self._left, max(0, int(self._ends_at - now + 0.999)))


def tightest(*quotas: int | None) -> int | None:
    """The least of several limits, None being none: a tenant's can only tighten the operator's."""
    given = [quota for quota in quotas if quota is not None]
    return min(given) if given else None
