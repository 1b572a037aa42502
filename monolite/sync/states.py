"""Which of a replica's states outlive their successor."""

from __future__ import annotations

KEEP_INTERVAL_MS = 3600 * 1000
"""A replica that lost its memory and puts a blank state would take its work with it. So the state
that is replaced is kept, as any superseded entry is, once an hour; the others are overwritten, else
a phone that puts its state each second would fill the disk.
"""


def is_kept(kept_at: int, now_ms: int) -> bool:
    """Whether a state that is replaced now is kept; `kept_at` is when one last was, 0 for never."""
    return not 0 <= now_ms - kept_at < KEEP_INTERVAL_MS
