"""What can go wrong in the domain's own words; web/errors.py gives each its status.

`code` is the stable word a client may switch on. `detail` is for people: the cause, then what
to do next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar


class FieldError:
    """One bad field: a JSON Pointer fragment (`#/name`), `?query` or `Header`, and why."""

    __slots__ = ("detail", "pointer")

    def __init__(self, pointer: str, detail: str) -> None:
        self.pointer = pointer
        self.detail = detail


class DomainError(Exception):
    """The base of every refusal a caller can do something about."""

    code: ClassVar[str] = "error"
    # Extension members of the problem (RFC 9457, 3.2), and headers of its answer.
    members: Mapping[str, Any] = MappingProxyType({})
    headers: Sequence[tuple[bytes, bytes]] = ()

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code  # type: ignore[misc]  # an instance may be more precise than its class


class Malformed(DomainError):
    """The request can't be read at all."""

    code = "malformed"


class Unauthenticated(DomainError):
    """No credential, or one that is not good."""

    code = "unauthenticated"


class Forbidden(DomainError):
    """A good credential that lacks the scope, or whose resource lies elsewhere."""

    code = "missing_scope"


class NotFound(DomainError):
    """No such thing for this caller: it never existed, is gone, or is another tenant's."""

    code = "not_found"

    def __init__(self, detail: str = "There is nothing at this address.") -> None:
        super().__init__(detail)


class MethodNotAllowed(DomainError):
    """The address exists and takes other methods."""

    code = "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__(f"This address takes {', '.join(allowed)}.")
        self.allowed = tuple(allowed)


class Conflict(DomainError):
    """The state of the thing does not allow it now."""

    code = "conflict"


class Gone(DomainError):
    """What was asked for was here and is not any more."""

    code = "gone"


class PreconditionFailed(DomainError):
    """`If-Match` or `If-None-Match` named another version."""

    code = "precondition_failed"


class TooLarge(DomainError):
    """The body is over the route's cap."""

    code = "body_too_large"


class UnsupportedType(DomainError):
    """The body's media type is not one the route reads."""

    code = "unsupported_media_type"


class UpgradeRequired(DomainError):
    """The address is spoken to in another protocol."""

    code = "upgrade_required"
    headers = ((b"upgrade", b"websocket"),)


class Invalid(DomainError):
    """Well-formed, and wrong: each bad field is named."""

    code = "invalid"

    def __init__(
        self, detail: str, errors: Sequence[FieldError] = (), *, code: str | None = None
    ) -> None:
        super().__init__(detail, code=code)
        self.errors = tuple(errors)


class Unenforceable(Invalid):
    """A form that an answer can't be kept to while it is decoded: told, and never passed over."""

    code = "not_enforceable"


class RateLimited(DomainError):
    """The key has spent its window."""

    code = "rate_limited"

    def __init__(self, detail: str, retry_after_s: float, *, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.retry_after_s = retry_after_s


class Backpressure(RateLimited):
    """Too much was taken and is not finished yet."""

    code = "backpressure"


class Unavailable(DomainError):
    """The server can't do it now; trying again later is right."""

    code = "unavailable"

    def __init__(self, detail: str, retry_after_s: float = 1.0, *, code: str | None = None) -> None:
        super().__init__(detail, code=code)
        self.retry_after_s = retry_after_s


class OutOfSpace(DomainError):
    """The disk is full; nothing of the write was kept."""

    code = "storage_full"
