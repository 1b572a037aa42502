"""A lock in the transaction of a write that is another subsystem's.

`X-Lock: imports/sales` holds the lock for exactly that write: it is refused while someone holds the
lock, and who asks for it meanwhile waits for the commit. With an owner and a token it is made only
while they hold the lock, so a holder that was paused past its time changes nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from monolite.errors import Conflict, FieldError, Invalid
from monolite.locks.lock import Held
from monolite.names import NAME_PATTERN

_OWNER = r"[^\x00-\x1f\x7f;]{1,255}"
_wish = re.compile(
    rf"({NAME_PATTERN})/([^/\s;\x00-\x1f\x7f]{{1,255}})"
    rf"(?:\s*;\s*owner=({_OWNER}?)\s*;\s*token=(\d{{1,16}}))?"
).fullmatch


class LockWish(NamedTuple):
    """The lock that a write is made under; owner and token None where it is free to all."""

    namespace: str
    key: str
    owner: str | None
    token: int | None


def read_wish(header: str) -> LockWish:
    """`imports/sales`, or `imports/sales; owner=importer-1; token=17`; raises Invalid."""
    found = _wish(header.strip())
    if found is None:
        why = "a lock, and who holds it: imports/sales; owner=importer-1; token=17"
        raise Invalid(f"X-Lock: {why}", [FieldError("X-Lock", why)])
    return LockWish(found[1], found[2], found[3], None if found[4] is None else int(found[4]))


def check(wish: LockWish, held: Held | None, now_ms: int) -> None:
    """Raise Conflict (`lock_held`, `lock_lost`) where a write can't be made under the lock."""
    if held is not None and held.expires_at <= now_ms:
        held = None
    if wish.owner is None:
        if held is not None:
            error = Conflict(f"The lock can't be had now: {held.owner} holds it.", code="lock_held")
            error.members = {"owner": held.owner}
            raise error
    elif held is None or (held.owner, held.token) != (wish.owner, wish.token):
        raise Conflict(
            "Owner and token of X-Lock don't hold this lock, or not any more: nothing was written.",
            code="lock_lost",
        )
