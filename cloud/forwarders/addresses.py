"""Which addresses a webhook may reach: a URL of a setting must not open what only this host can (reliability R4).

Everything that is not a public unicast address is refused unless a network of the settings allows it, however it is
spelled or wrapped: IPv4 inside IPv6 (mapped, compatible, 6to4, Teredo, NAT64) counts as both addresses. The addresses
of cloud metadata services are refused also where they are public.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA = {IPv4Address("168.63.129.16"), IPv4Address("192.0.0.192"), IPv4Address("100.100.100.200")}
_RESERVED = ("100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "192.88.99.0/24")  # not so in every Python
_NOT_PUBLIC = [ipaddress.IPv4Network(text) for text in _RESERVED]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")  # where in it the IPv4 address stands, only its network knows
_COMPATIBLE = ipaddress.IPv6Network("::/96")


def networks(texts: Sequence[str]) -> list[Network]:
    """Return the networks of a setting. Raises ValueError."""
    return [ipaddress.ip_network(text) for text in texts]


def objection(address: Address, allowed: Sequence[Network]) -> str:
    """Say why ``address`` may not be reached, or nothing."""
    for inner in _unwrapped(address):
        if any(inner.version == network.version and inner in network for network in allowed):
            continue
        if kind := _kind(inner):
            within = f" in {address}" if inner != address else ""
            return f"{inner}{within} is {kind}; allow_networks can allow it"
    return ""


def literal(host: str) -> Address | None:
    """Return the address that ``host`` spells, in any way that resolvers take (``127.1``, ``0x7f000001``), or None."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host.rstrip(".")))
    except (OSError, ValueError):
        return None


def _unwrapped(address: Address) -> Iterator[Address]:
    yield address
    if isinstance(address, IPv4Address):
        return
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    compatible = address in _COMPATIBLE and int(address) > 0xFFFF  # below are :: and ::1
    if address.ipv4_mapped or compatible or address in _NAT64:
        yield low
    if address.sixtofour:
        yield address.sixtofour
    if address.teredo:
        yield from address.teredo


def _kind(address: Address) -> str:
    if address in _METADATA:
        return "a metadata service"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped or address in _NAT64:
            return ""  # what is inside decides
        if address.is_site_local or address in _NAT64_LOCAL:
            return "private"
    for name, found in (
        ("unspecified", address.is_unspecified),
        ("loopback", address.is_loopback),
        ("link-local", address.is_link_local),
        ("multicast", address.is_multicast),
        ("private", address.is_private),
        ("reserved", address.is_reserved or not address.is_global),
    ):
        if found:
            return name
    return "reserved" if any(address in network for network in _NOT_PUBLIC) else ""
