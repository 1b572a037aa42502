"""SIGTERM under load.

HTTP/1.1 lets a server close a keep-alive connection between two requests (RFC 9112, 9.6), and a
request that crosses that close on the wire was never read: its client sees an end without one byte
of an answer and sends it again. What must not happen: an answer cut off, or an effect without an
answer.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

from tests.system.installation import Installation
from tests.system.wire import Closed, Connection, Truncated
from tests.system.writers import PATH, Ledger, all_documents


async def _write_and_read(port: int, key: str, ledger: Ledger) -> None:
    async with Connection(port, key) as connection:
        while True:
            write, document = ledger.next()
            try:
                made = await connection.send("POST", PATH, document)
                assert made.status == 201, made
                ledger.acknowledged[write] = made.body
                read = await connection.send("GET", f"{PATH}/{made.json()['id']}")
                assert read.status == 200, read
            except Truncated:
                ledger.truncated += 1
                return
            except Closed:
                return


async def _terminate_under_load(installation: Installation, key: str, after_s: float) -> Ledger:
    ledger = Ledger()
    clients = [
        asyncio.create_task(_write_and_read(installation.port, key, ledger)) for _ in range(64)
    ]
    await asyncio.sleep(after_s)
    installation.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(asyncio.gather(*clients), 30)
    return ledger


def test_sigterm_under_load_answers_whatever_it_commits_and_cuts_no_answer_off(
    tmp_path: Path,
) -> None:
    installation = Installation(tmp_path / "data")
    numbers_told: list[tuple[str, int]] = []
    rng = random.Random(20)
    try:
        installation.start()
        key = installation.make_tenant("acme")
        for stop in range(8):
            if stop:
                installation.start(MONOLITE_SYNCHRONOUS=("full", "normal")[stop % 2])
            before = len(asyncio.run(all_documents(installation.port, key)))
            ledger = asyncio.run(_terminate_under_load(installation, key, rng.uniform(0.1, 0.4)))
            assert installation.process.wait(30) == 0, installation.log.read_text()
            assert ledger.truncated == 0
            assert len(ledger.acknowledged) > 64
            numbers_told.append((f"stop {stop}", len(ledger.acknowledged)))
            installation.start()
            documents = asyncio.run(all_documents(installation.port, key))
            # Equal and not at least: a committed write that nobody was told of is a dropped answer.
            assert len(documents) - before == len(ledger.acknowledged), numbers_told
            assert installation.stop() == 0
        assert installation.integrity() == "ok"
    finally:
        installation.end()


def test_sigterm_waits_for_a_request_whose_body_is_still_coming(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "data")

    async def upload() -> bytes:
        key = installation.make_tenant("acme")
        reader, writer = await asyncio.open_connection("127.0.0.1", installation.port)
        writer.write(
            f"POST {PATH} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n".encode()
        )
        await asyncio.sleep(0.3)
        installation.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        writer.write(b'{"late":1}')
        answer = await reader.read()
        writer.close()
        return answer

    try:
        installation.start()
        answer = asyncio.run(upload())
        assert answer.startswith(b"HTTP/1.1 201 "), answer
        assert installation.process.wait(30) == 0
    finally:
        installation.end()


def test_an_idle_connection_does_not_hold_a_stop_up(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "data", MONOLITE_DRAIN_S="30")

    async def stay() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", installation.port)
        used = Connection(installation.port, "none")
        async with used:
            assert (await used.send("GET", "/healthz")).status == 200
            installation.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()

    try:
        installation.start()
        started = time.monotonic()
        asyncio.run(stay())
        assert installation.process.wait(30) == 0
        print(f"stopped in {time.monotonic() - started:.2f} s")
    finally:
        installation.end()
