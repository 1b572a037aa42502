"""Whom calls to elsewhere reach: one resolution, and a connection to that very address."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import pytest

from monolite.egress.addresses import Address, Allowed, why_refused
from monolite.egress.client import Client
from monolite.egress.connection import KEPT_BYTES_MAX
from monolite.egress.errors import EgressError
from monolite.egress.target import Guard, parse_url


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1",  # private
        "172.16.5.4",
        "192.168.1.1",
        "127.0.0.1",  # loopback
        "127.8.8.8",
        "::1",
        "169.254.169.254",  # link-local
        "fe80::1",
        "100.64.0.1",  # carrier-grade NAT
        "100.127.255.255",
        "0.0.0.0",  # 0/8
        "0.1.2.3",
        "64:ff9b::5db8:d822",  # NAT64, of a public address
        "64:ff9b:1::a00:1",
        "2002:5db8:d822::1",  # 6to4, of a public address
        "::ffff:93.184.216.34",  # v4-mapped, of a public address
        "fc00::1",  # unique-local
        "fd12:3456::1",
        "fec0::1",  # site-local
        "224.0.0.1",  # multicast
        "ff02::1",
        "255.255.255.255",
        "192.0.2.1",  # documentation
        "2001:db8::1",
        "2001::1",  # Teredo
    ],
)
def test_what_is_no_public_address_is_refused(text: str) -> None:
    assert why_refused(ip_address(text)) is not None


@pytest.mark.parametrize("text", ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111"])
def test_a_public_address_is_not(text: str) -> None:
    assert why_refused(ip_address(text)) is None


def test_this_machines_own_addresses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: list[Any] = []

    class Bindable(socket.socket):
        def bind(self, where: Any) -> None:
            bound.append(where)

    monkeypatch.setattr("monolite.egress.addresses.socket.socket", Bindable)
    assert why_refused(ip_address("93.184.216.34")) == "it is this machine's own"
    assert bound == [("93.184.216.34", 0)]


class Rebinding:
    """A name server whose answer is another one each time."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked += 1
        return [ip_address(text) for text in self.answers.pop(0).split()]


def test_a_name_that_rebinds_is_asked_once_and_called_at_what_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolve = Rebinding("93.184.216.34", "127.0.0.1", "127.0.0.1")
    called: list[tuple[str, int, Any]] = []

    async def call() -> None:
        loop = asyncio.get_running_loop()

        async def connect(make: Any, host: str, port: int, **options: Any) -> Any:
            called.append((host, port, options.get("server_hostname")))
            raise OSError("unreachable from a test")

        monkeypatch.setattr(loop, "create_connection", connect)
        client = Client(Guard(Allowed(), resolve))
        target = parse_url("https://rebinding.example/in")
        with pytest.raises(EgressError, match="can't be reached"):
            await client.call("POST", target, [], b"{}", deadline_s=5)
        # The next call asks again, and is refused by what the name is by then.
        with pytest.raises(EgressError) as refused:
            await client.call("POST", target, [], b"{}", deadline_s=5)
        assert refused.value.code == "address_refused"

    asyncio.run(call())
    assert called == [("93.184.216.34", 443, "rebinding.example")]
    assert resolve.asked == 2


def test_a_name_with_a_private_address_among_public_ones_is_refused() -> None:
    guard = Guard(Allowed(), Rebinding("93.184.216.34 10.0.0.1"))
    with pytest.raises(EgressError, match="public"):
        asyncio.run(guard.addresses(parse_url("https://both.example/")))


@pytest.mark.parametrize("url", ["http://93.184.216.34:8080/", "https://93.184.216.34:22/"])
def test_other_ports_are_refused_unless_the_address_is_allowed(url: str) -> None:
    with pytest.raises(EgressError, match="port"):
        asyncio.run(Guard(Allowed()).addresses(parse_url(url)))
    allowing = Guard(Allowed.parse("93.184.216.0/24"))
    assert asyncio.run(allowing.addresses(parse_url(url))) == [ip_address("93.184.216.34")]


@pytest.mark.parametrize("end", [b"", None], ids=["ends", "never ends"])
def test_of_an_answer_a_kilobyte_is_kept_and_proxies_are_not_asked(
    monkeypatch: pytest.MonkeyPatch, end: bytes | None
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%b\r\n" % (5000, b"x" * 5000))
        if end is not None:
            writer.write(b"0\r\n\r\n")
        with suppress(ConnectionError):
            await reader.read()
            writer.close()
            await writer.wait_closed()
        ended.set()

    async def call() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = Client(Guard(Allowed.parse("127.0.0.1")))
        target = parse_url(f"http://127.0.0.1:{port}/in")
        answer = await client.call("POST", target, [], b"{}", deadline_s=5)
        assert (answer.status, answer.body) == (200, b"x" * KEPT_BYTES_MAX)
        client.close()
        await ended.wait()
        server.close()
        await server.wait_closed()

    asyncio.run(call())
