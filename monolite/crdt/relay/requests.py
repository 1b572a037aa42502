"""Requests to the relay by the standard library's HTTP client, one connection kept open."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

_LATER = {408, 425, 429, 500, 502, 503, 504}


class Offline(Exception):
    """No answer, or one that says to come later. What is queued stays queued."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class Refused(Exception):
    """The server's refusal: a problem as RFC 9457 has it."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('code', '')}: {problem.get('detail', '')}")
        self.status = status
        self.code = str(problem.get("code", ""))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, headers by their lower-case names, and the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded; Offline where something else answered."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Offline("an answer that is not JSON") from None

    def checked(self) -> Answer:
        """Itself, if it is good.

        Raises:
            Offline: it says to come later.
            Refused: it says no.
        """
        if self.status < 400:
            return self
        after = self.headers.get("retry-after", "")
        if self.status in _LATER:
            raise Offline(
                f"the server answers {self.status}", float(after) if after.isdigit() else 0.0
            )
        try:
            problem = json.loads(self.body)
        except ValueError:
            problem = {}
        raise Refused(self.status, problem if isinstance(problem, dict) else {})


class Sender(Protocol):
    """Sends a request; Offline where no whole answer came."""

    def __call__(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> Answer: ...


class HttpSender:
    """One connection to a server; for one thread at a time.

    Raises:
        ValueError: the address is not `http://…` or `https://…`.
    """

    def __init__(self, url: str, context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"no address of a server: {url!r}")
        self._base = parts.path.rstrip("/")
        self._connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection(parts.hostname, parts.port, context=context)
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.hostname, parts.port)
        )

    def __call__(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> Answer:
        connection = self._connection
        connection.timeout = timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        try:
            connection.request(method, self._base + path, body or None, dict(headers))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Offline(f"no answer: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
