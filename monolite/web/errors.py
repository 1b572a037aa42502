"""Errors as part of the interface: one table from domain error to status, and its body.

The body is RFC 9457 `application/problem+json`; the OpenAI-compatible routes get OpenAI's shape
from the same table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from monolite import errors as domain
from monolite.storage import errors as storage
from monolite.web.answer import Answer, Headers

PROBLEM_TYPE = b"application/problem+json"

# (status, title), looked up along the error's classes, so that a subclass is more precise in
# `code` and `detail` while its status is decided here.
STATUS: Mapping[type[Exception], tuple[int, str]] = {
    domain.Malformed: (400, "Malformed request"),
    domain.Unauthenticated: (401, "Unauthenticated"),
    domain.Forbidden: (403, "Forbidden"),
    domain.NotFound: (404, "Not found"),
    domain.MethodNotAllowed: (405, "Method not allowed"),
    domain.Conflict: (409, "Conflict"),
    domain.Gone: (410, "Gone"),
    domain.PreconditionFailed: (412, "Precondition failed"),
    domain.TooLarge: (413, "Content too large"),
    domain.UnsupportedType: (415, "Unsupported media type"),
    domain.Invalid: (422, "Invalid request"),
    domain.Unenforceable: (400, "Not enforceable"),
    domain.UpgradeRequired: (426, "Upgrade required"),
    domain.RateLimited: (429, "Too many requests"),
    domain.Unavailable: (503, "Unavailable"),
    domain.OutOfSpace: (507, "Out of space"),
    storage.QueueFull: (503, "Busy"),
    storage.StorageFull: (507, "Out of space"),
    storage.ReadDeadline: (503, "Read deadline"),
    storage.StorageError: (503, "Storage unavailable"),
}

_STORAGE_CODES: Mapping[type[Exception], str] = {
    storage.QueueFull: "write_queue_full",
    storage.StorageFull: "storage_full",
    storage.ReadDeadline: "read_deadline",
    storage.StorageReadOnly: "storage_read_only",
    storage.StorageCorrupt: "storage_corrupt",
    storage.StorageError: "storage_unavailable",
}


class Problem(msgspec.Struct, omit_defaults=True):
    """RFC 9457 problem details, with this API's extension members."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[dict[str, str]] = []


class OpenAIErrorFacts(msgspec.Struct):
    """What went wrong, as OpenAI's API says it; `code` is this API's stable word."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(msgspec.Struct):
    """An error of the OpenAI-compatible routes."""

    error: OpenAIErrorFacts


_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_encode = msgspec.json.Encoder().encode


def _along(table: Mapping[type[Exception], Any], error: Exception) -> Any | None:
    for kind in type(error).__mro__:
        if kind in table:
            return table[kind]
    return None


def is_known(error: Exception) -> bool:
    """Whether the table has a status for it; anything else is a fault of ours."""
    return _along(STATUS, error) is not None


class _Facts(NamedTuple):
    """What every shape of an error says."""

    status: int
    title: str
    code: str
    detail: str
    fields: Sequence[domain.FieldError]


def answer(
    error: Exception, *, instance: str, request_id: str, shape: Literal["problem", "openai"]
) -> Answer:
    """The answer for an error in the shape of its operation."""
    if shape == "openai":
        return openai(error)
    return problem(error, instance=instance, request_id=request_id)


def status_of(error: Exception) -> tuple[int, str]:
    """The status and the code of an error; 500 and `internal` for one the table does not know."""
    status, _ = _along(STATUS, error) or (500, "")
    return status, _code(error)


def problem(error: Exception, *, instance: str, request_id: str) -> Answer:
    """The problem+json answer for an error; one the table does not know becomes a 500."""
    facts = _facts(error)
    body = Problem(
        type=f"urn:monolite:problem:{facts.code}",
        title=facts.title,
        status=facts.status,
        detail=facts.detail,
        instance=instance,
        code=facts.code,
        request_id=request_id,
        errors=[{"pointer": f.pointer, "detail": f.detail} for f in facts.fields],
    )
    members = getattr(error, "members", None)
    told = _encode({**msgspec.to_builtins(body), **members} if members else body)
    return Answer(facts.status, told, _headers(error, facts.status, PROBLEM_TYPE))


def openai(error: Exception) -> Answer:
    """The same in the shape that OpenAI's clients read; `param` is the first bad field."""
    facts = _facts(error)
    kind = _OPENAI_TYPES.get(facts.status, "server_error")
    if facts.status < 500 and facts.status not in _OPENAI_TYPES:
        kind = "invalid_request_error"
    param = _openai_param(facts.fields[0].pointer) or None if facts.fields else None
    body = OpenAIError(OpenAIErrorFacts(facts.detail, kind, param, facts.code))
    return Answer(facts.status, _encode(body), _headers(error, facts.status, b"application/json"))


def _facts(error: Exception) -> _Facts:
    status, title = _along(STATUS, error) or (500, "Internal error")
    code = _code(error)
    if isinstance(error, domain.DomainError):
        detail = error.detail
    elif isinstance(error, storage.StorageError):
        detail = str(error)
    else:
        detail = "The server failed here; its log has the cause under this request_id."
    fields = error.errors if isinstance(error, domain.Invalid) else ()
    return _Facts(status, title, code, detail, fields)


def _openai_param(pointer: str) -> str:
    """A JSON Pointer as OpenAI writes it: `#/input/3` is `input[3]`."""
    steps = pointer.lstrip("#?").strip("/").split("/")
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", ".".join(steps))


def _headers(error: Exception, status: int, media: bytes) -> Headers:
    headers = [(b"content-type", media), (b"cache-control", b"no-store")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(retry_after_s))))
    if isinstance(error, domain.MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    headers.extend(getattr(error, "headers", ()))
    return headers


def _code(error: Exception) -> str:
    if isinstance(error, domain.DomainError):
        return error.code
    if isinstance(error, storage.StorageError):
        return _along(_STORAGE_CODES, error) or "storage_unavailable"
    return "internal"
