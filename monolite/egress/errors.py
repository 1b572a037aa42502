"""Why a call got no answer."""

from __future__ import annotations


class EgressError(Exception):
    """A call that failed; `code` is a stable word, the message for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def refused(detail: str) -> EgressError:
    """The address may not be called."""
    return EgressError("address_refused", detail)


def unresolved(detail: str) -> EgressError:
    """The name has no address."""
    return EgressError("name_not_resolved", detail)


def unreachable(detail: str) -> EgressError:
    """No connection could be made, or it broke."""
    return EgressError("connection_failed", detail)


def timed_out(detail: str) -> EgressError:
    """No answer came in time."""
    return EgressError("timed_out", detail)


def garbled(detail: str) -> EgressError:
    """What came was no HTTP."""
    return EgressError("bad_answer", detail)
