"""Addresses that a webhook may not reach, in every spelling (reliability R4)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from cloud.forwarders.addresses import literal, networks, objection

FORBIDDEN = {
    "127.0.0.1": "loopback", "127.1": "loopback", "0x7f000001": "loopback", "0x7f.1": "loopback",
    "2130706433": "loopback", "017700000001": "loopback", "127.0.0.1.": "loopback", "::1": "loopback",
    "0:0:0:0:0:0:0:1": "loopback", "::ffff:127.0.0.1": "loopback", "::ffff:7f00:1": "loopback",
    "::127.0.0.1": "reserved", "64:ff9b::7f00:1": "loopback", "2002:7f00:1::": "loopback", "0.0.0.0": "unspecified",
    "0": "unspecified", "::": "unspecified", "169.254.169.254": "link-local", "0xa9fea9fe": "link-local",
    "2852039166": "link-local", "::ffff:169.254.169.254": "link-local", "fe80::1": "link-local",
    "fe80::1%eth0": "link-local", "fd00:ec2::254": "private", "10.0.0.1": "private", "192.168.1.1": "private",
    "172.16.0.1": "private", "::ffff:10.0.0.1": "private", "100.64.0.1": "reserved", "224.0.0.1": "multicast",
    "ff02::1": "multicast", "240.0.0.1": "private", "255.255.255.255": "private", "168.63.129.16": "metadata",
    "100.100.100.200": "metadata", "192.0.0.192": "metadata", "198.18.0.1": "private", "2001:db8::1": "private",
    "fec0::1": "private", "64:ff9b:1:7f00:0:100:5db8:d70e": "private", "::ffff:0:127.0.0.1": "reserved",
}  # fmt: skip


@pytest.mark.parametrize(("text", "kind"), FORBIDDEN.items())
def test_what_is_not_public_is_refused_in_every_spelling(text: str, kind: str) -> None:
    """Loopback, private, link-local, metadata, multicast, wrapped in IPv6 or written as one number: refused."""
    address = literal(text)
    assert address is not None
    assert kind in objection(address, [])


@pytest.mark.parametrize("text", ["93.184.215.14", "2606:2800:220:1::1", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e"])
def test_public_addresses_pass(text: str) -> None:
    """A public address is taken, also wrapped."""
    assert objection(ip_address(text), []) == ""


def test_networks_of_the_settings_are_allowed_and_nothing_beside() -> None:
    """10.0.0.0/8 allows 10.1.2.3, also mapped, and neither 127.0.0.1 nor ::1."""
    allowed = networks(["10.0.0.0/8", "::1/128"])
    assert not objection(ip_address("10.1.2.3"), allowed)
    assert not objection(ip_address("::ffff:10.1.2.3"), allowed)
    assert not objection(ip_address("::1"), allowed)
    assert objection(ip_address("127.0.0.1"), allowed)
    assert objection(ip_address("fd00::1"), allowed)


@pytest.mark.parametrize("text", ["example.com", "localhost", "", "1.2.3.4.example", "0x7f.example"])
def test_names_are_no_addresses(text: str) -> None:
    """A name is not taken for an address: the resolver decides."""
    assert literal(text) is None
