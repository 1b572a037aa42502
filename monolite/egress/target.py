"""A URL taken apart, and the addresses behind it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from monolite.egress.addresses import PORTS, Address, Allowed, parsed, why_refused
from monolite.egress.errors import refused, unresolved

URL_CHARACTERS_MAX = 2048

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads; `path` begins with a slash and has the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """What connections are kept by."""
        return self.scheme, self.host, self.port

    @property
    def host_header(self) -> str:
        """The value of `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = 443 if self.scheme == "https" else 80
        return host if self.port == usual else f"{host}:{self.port}"


def parse_url(url: str) -> Target:
    """A URL's parts; ValueError, with the reason, for one that can't be called."""
    if len(url) > URL_CHARACTERS_MAX:
        raise ValueError(f"longer than {URL_CHARACTERS_MAX} characters")
    if any(character <= " " or character == "\x7f" for character in url):
        raise ValueError("holds a blank or a control character")
    try:
        split = urlsplit(url)
        host, port = split.hostname, split.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    if split.scheme not in ("http", "https"):
        raise ValueError("begins with https:// or http://")
    if not host:
        raise ValueError("names no host")
    if split.username is not None or split.password is not None:
        raise ValueError(
            "holds a user or a password; put a secret into the path, or use signatures"
        )
    if parsed(host) is None:
        try:
            host = host.rstrip(".").encode("idna").decode("ascii").lower()
        except UnicodeError:
            raise ValueError("its host is no host name") from None
        if not host:
            raise ValueError("names no host")
    path = quote(split.path or "/", safe="/%:@!$&'()*+,;=-._~")
    if split.query:
        path += "?" + quote(split.query, safe="/%:@!$&'()*+,;=-._~?")
    return Target(split.scheme, host, port or (443 if split.scheme == "https" else 80), path)


class Guard:
    """Decides which addresses of a target may be called."""

    def __init__(
        self,
        allowed: Allowed,
        resolve: Resolve | None = None,
        setting: str = "MONOLITE_ALLOW_PRIVATE_WEBHOOKS",
    ) -> None:
        self._allowed = allowed
        self._setting = setting
        self._resolve = resolve or resolve_host

    async def addresses(self, target: Target) -> Sequence[Address]:
        """The addresses to connect to, resolved now.

        Raises EgressError where the name has none, or any of them is refused: a name with a public
        and a private address is an attempt at the second.
        """
        literal = parsed(target.host)
        found = [literal] if literal is not None else await self._resolve(target.host, target.port)
        if self._allowed.has_host(target.host):
            return found
        strict = False
        for address in found:
            if self._allowed.has_address(address):
                continue
            strict = True
            why = why_refused(address)
            if why is not None:
                raise refused(
                    f"{target.host} is {address}, and {why}; {self._setting}"
                    " names hosts and networks that may be called"
                )
        if strict and target.port not in PORTS:
            raise refused(f"port {target.port} is neither 80 nor 443")
        return found


async def resolve_host(host: str, port: int) -> Sequence[Address]:
    """A name's addresses, as the system resolves it."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise unresolved(f"{host} can't be resolved: {error}") from None
    addresses: dict[Address, None] = {}
    for family, _, _, _, where in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            address = parsed(str(where[0]))
            if address is not None:
                addresses[address] = None
    if not addresses:
        raise unresolved(f"{host} has no address")
    return list(addresses)
