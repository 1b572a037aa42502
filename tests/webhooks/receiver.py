"""A receiver of webhooks that answers as it is told, and checks what it gets with the reference
library.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from standardwebhooks import Webhook


class Received(NamedTuple):
    """A request, and when it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def message(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    def verified_by(self, secret: str) -> dict[str, Any]:
        """The message, verified; raises WebhookVerificationError where it is not."""
        verified: dict[str, Any] = Webhook(secret).verify(self.body, self.headers)
        return verified


Answer = Callable[[Received, int], "int | tuple[int, dict[str, str]] | bytes | None"]
"""What to answer to a request, given how many came before to its path: a status, with headers,
raw bytes in place of HTTP, or None to answer nothing.
"""


class Receiver:
    """Answers 200 to all, until `answer` is set."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Answer = lambda request, before: 200
        self._lock = threading.Lock()
        self.port = 0
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, request: Received) -> int:
        with self._lock:
            before = sum(one.path == request.path for one in self.received)
            self.received.append(request)
        return before

    def at(self, path: str) -> list[Received]:
        """What came to a path."""
        with self._lock:
            return [one for one in self.received if one.path == path]

    def data(self, path: str) -> list[Any]:
        """The data of the messages that came to a path, in their order."""
        return [one.message["data"] for one in self.at(path)]


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """A receiver on loopback."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Received(self.path, headers, body, time.monotonic())
            answer = receiver.answer(request, receiver.take(request))
            if answer is None:
                receiver.stopping.wait(60)
                self.close_connection = True
                return
            if isinstance(answer, bytes):
                self.wfile.write(answer)
                self.close_connection = True
                return
            status, extra = answer if isinstance(answer, tuple) else (answer, {})
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name, value)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield receiver
    finally:
        receiver.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
