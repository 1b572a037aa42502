"""Which addresses are refused.

Everything that is not a public unicast address: private, loopback, link-local, carrier-grade NAT,
0.0.0.0/8, unique-local, documentation and reserved ranges (IANA's special-purpose registries, by
way of `ipaddress`); whatever carries an IPv4 address inside an IPv6 one, since who unpacks it is
not known; and this machine's own addresses, public or not.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PORTS = (80, 443)

_CARRIES_IPV4 = tuple(
    ip_network(text)
    for text in (
        "::ffff:0:0/96",  # v4-mapped
        "::/96",  # v4-compatible
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64, local
        "2002::/16",  # 6to4
        "2001::/32",  # Teredo
    )
)
_ALSO_REFUSED = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",
        "fec0::/10",  # site-local
    )
)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the operator allows though it would be refused: host names, and networks."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Allowed:
        """From a list with commas or blanks; an address is a network of one."""
        hosts: set[str] = set()
        networks: list[Network] = []
        for word in text.replace(",", " ").split():
            try:
                networks.append(ip_network(word.strip("[]"), strict=False))
            except ValueError:
                hosts.add(word.lower().rstrip("."))
        return cls(frozenset(hosts), tuple(networks))

    def has_host(self, host: str) -> bool:
        """Whether the name itself is allowed."""
        return host in self.hosts

    def has_address(self, address: Address) -> bool:
        """Whether an address lies in an allowed network."""
        return any(address in network for network in self.networks)


def why_refused(address: Address) -> str | None:
    """Why an address may not be called; None where it may."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return "it is link-local"
        if not address.is_loopback and _within(address, _CARRIES_IPV4):
            return "it carries an IPv4 address inside an IPv6 one"
    if address.is_multicast:
        return "it is a multicast address"
    if not address.is_global or _within(address, _ALSO_REFUSED):
        return "it is not a public address"
    if is_own(address):
        return "it is this machine's own"
    return None


def is_own(address: Address) -> bool:
    """Whether a socket here can be bound to it, which is so for this machine's addresses alone."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno not in (
            errno.EADDRNOTAVAIL,
            errno.EAFNOSUPPORT,
            errno.EINVAL,
            errno.ENODEV,
        )
    return True


def parsed(text: str) -> Address | None:
    """An address in its usual notation; None for a name, or any other way of writing one."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
