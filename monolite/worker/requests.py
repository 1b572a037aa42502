"""Requests to the server: a connection per thread, and patience."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 30.0
PAUSE_S, PAUSE_S_MAX = 0.1, 10.0


class Refused(Exception):  # what the server said
    """An answer that asking again doesn't change: its status, `code` and members."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('code', '')}: {problem.get('detail', '')}")
        self.status = status
        self.problem = problem

    @property
    def code(self) -> str:
        """What kind of problem it is."""
        return str(self.problem.get("code", ""))


class Unanswered(Exception):  # nothing was said
    """The server was not to be had in time."""


class Requests:
    """JSON over HTTP with a key. Safe for threads."""

    def __init__(self, url: str, key: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not a server's URL: {url}")
        self._connect: Callable[..., http.client.HTTPConnection] = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._host, self._port = parts.hostname, parts.port
        self._root = parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._here = threading.local()
        self._open: list[http.client.HTTPConnection] = []

    def post(
        self, path: str, body: Any, *, until: Callable[[], bool], wait_s: float = 0.0
    ) -> dict[str, Any]:
        """One answer's body, asked for again while the server isn't there, is busy (429) or fails
        (5xx), with growing pauses by chance, until `until` says that it is in vain.

        Raises Refused for any other answer, and Unanswered.
        """
        text = json.dumps(body).encode()
        pause_s = PAUSE_S
        while True:
            why: str
            try:
                status, answer, after_s = self._once(path, text, TIMEOUT_S + wait_s)
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                why, after_s = str(error), 0.0
            else:
                if status < 300:
                    return answer
                if status < 500 and status != 429:
                    raise Refused(status, answer)
                why = f"{status} {answer.get('code', '')}"
            # By chance between a half and the whole, so that many workers don't come back together.
            wait = max(after_s, pause_s) * (0.5 + random.random() / 2)  # noqa: S311
            end = time.monotonic() + wait
            while (left_s := end - time.monotonic()) > 0 and not until():
                time.sleep(min(left_s, 0.1))
            if until():
                raise Unanswered(why)
            pause_s = min(PAUSE_S_MAX, pause_s * 2)

    def close(self) -> None:
        """Close every thread's connection."""
        for connection in self._open:
            connection.close()

    def _once(self, path: str, text: bytes, timeout_s: float) -> tuple[int, dict[str, Any], float]:
        connection = getattr(self._here, "connection", None)
        if connection is None:
            connection = self._connect(self._host, self._port, timeout=timeout_s)
            self._here.connection = connection
            self._open.append(connection)
        if connection.sock is not None:
            connection.sock.settimeout(timeout_s)
        connection.timeout = timeout_s
        connection.request("POST", self._root + path, text, self._headers)
        answer = connection.getresponse()
        got = answer.read()
        after = answer.headers.get("Retry-After") or ""
        try:
            content = json.loads(got) if got else {}
        except ValueError:  # a proxy's page
            content = {}
        shown = content if isinstance(content, dict) else {}
        return answer.status, shown, float(after) if after.isdigit() else 0.0

    def _drop(self) -> None:
        connection = self._here.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()
            self._open.remove(connection)
