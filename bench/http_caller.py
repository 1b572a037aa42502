"""One caller on one connection, as light as Python can be: a socket, whole requests and answers."""

from __future__ import annotations

import json
import socket


class Caller:
    """Requests one after the other; raises RuntimeError where an answer is not 2xx."""

    def __init__(self, port: int, authorization: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = (
            f"HTTP/1.1\r\nHost: bench\r\nAuthorization: {authorization}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._rest = b""

    def post(self, path: str, body: bytes) -> bytes:
        return self._call(b"POST", path, body)

    def get(self, path: str) -> bytes:
        return self._call(b"GET", path, b"")

    def put(self, path: str, body: bytes) -> bytes:
        return self._call(b"PUT", path, body)

    def read(self, group: str, count: int) -> list[str]:
        """Read as a consumer; the tokens."""
        answer = self.post(f"{group}/read", b'{"consumer":"ann","count":%d}' % count)
        return [event["token"] for event in json.loads(answer)["events"]]

    def acknowledge(self, group: str, tokens: list[str]) -> None:
        self.post(f"{group}/ack", json.dumps({"tokens": tokens}).encode())

    def fill(self, stream: str, count: int, batch: bytes) -> None:
        """Events in batches of a hundred."""
        for _ in range(count // 100):
            self.post(f"/v1/streams/{stream}/events", batch)

    def close(self) -> None:
        self._socket.close()

    def _call(self, method: bytes, path: str, body: bytes) -> bytes:
        request = b"%b %b %b%d\r\n\r\n%b" % (method, path.encode(), self._head, len(body), body)
        self._socket.sendall(request)
        while True:
            head, separator, rest = self._rest.partition(b"\r\n\r\n")
            if separator:
                break
            self._receive()
        length = _length(head)
        while len(rest) < length:
            self._receive()
            rest = self._rest.partition(b"\r\n\r\n")[2]
        self._rest = rest[length:]
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")):
            raise RuntimeError(f"{head[:80]!r} {rest[:300]!r}")
        return rest[:length]

    def _receive(self) -> None:
        piece = self._socket.recv(1 << 18)
        if not piece:
            raise RuntimeError("the server closed the connection")
        self._rest += piece


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise RuntimeError(f"no length: {head!r}")
