"""Litestream's control socket: HTTP over a Unix socket, one connection a call."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

from monolite.replication.errors import ReplicationUnavailable

ANSWER_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True)
class SyncAnswer:
    """Litestream's position after a sync: its local transaction id, and the one S3 holds."""

    txid: int
    replicated_txid: int


class NotListening(ReplicationUnavailable):
    """Nothing answers at the socket: Litestream is starting, or has gone."""


class ControlSocket:
    """Calls to one Litestream. Every method raises ReplicationUnavailable."""

    def __init__(self, path: Path, database: Path) -> None:
        self._path = path
        self._database = str(database)

    async def sync(self, *, wait: bool, timeout_s: float) -> SyncAnswer:
        """Takes new commits out of the log; with `wait`, returns only once they lie in S3."""
        # Litestream counts in whole seconds and takes 0 for its own default of 30.
        asked = {"path": self._database, "wait": wait, "timeout": max(1, round(timeout_s))}
        answer = await self._call("POST", "/sync", asked, timeout_s)
        try:
            return SyncAnswer(int(answer["txid"]), int(answer["replicated_txid"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ReplicationUnavailable("Litestream's answer to a sync can't be read.") from error

    async def _call(
        self, method: str, path: str, body: dict[str, object], timeout_s: float
    ) -> dict[str, int | str]:
        try:
            async with asyncio.timeout(timeout_s):
                raw = await self._exchange(method, path, json.dumps(body).encode())
        except TimeoutError:
            raise ReplicationUnavailable(
                f"Litestream did not finish within {timeout_s:g} s; S3 is slow or out of reach. "
                "Try again; the write itself is committed locally."
            ) from None
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotListening(
                "Litestream does not listen yet; it is started by itself. "
                "Try again; the write itself is committed locally."
            ) from error
        except OSError as error:
            raise ReplicationUnavailable(
                f"Litestream is not running ({error.strerror or error}); it is restarted by "
                "itself. Try again; the write itself is committed locally."
            ) from error
        head, _, content = raw.partition(b"\r\n\r\n")
        try:
            status = int(head.split(b" ", 2)[1])
            answer = json.loads(content)
        except (IndexError, ValueError) as error:
            raise ReplicationUnavailable("Litestream closed its control socket.") from error
        if status != 200:
            raise ReplicationUnavailable(
                f"Litestream could not sync: {answer.get('error', f'status {status}')}"
            )
        return dict(answer)

    async def _exchange(self, method: str, path: str, body: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        try:
            # HTTP/1.0: the answer comes unchunked and ends with the connection.
            head = (
                f"{method} {path} HTTP/1.0\r\nHost: litestream\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            return await _to_the_end(reader)
        finally:
            writer.close()


async def _to_the_end(reader: asyncio.StreamReader) -> bytes:
    parts = bytearray()
    while len(parts) < ANSWER_BYTES_MAX:
        part = await reader.read(65_536)
        if not part:
            break
        parts += part
    return bytes(parts)
