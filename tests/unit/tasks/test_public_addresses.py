"""Where a webhook may go."""

import socket
from ipaddress import ip_address

import pytest

from tasks.public_addresses import Forbidden, is_public, resolve

REFUSED = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.1",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "fc00::1",
    "fd12::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
]
TAKEN = ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_inside_are_refused_however_they_are_written(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", TAKEN)
def test_public_addresses_are_taken(address: str) -> None:
    assert is_public(ip_address(address))


def _resolver(*found: str) -> object:
    return lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in found]


def test_one_address_inside_refuses_a_host_with_public_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _resolver("1.1.1.1", "fe80::1%eth0"))
    with pytest.raises(Forbidden, match="fe80::1"):
        resolve("two.example", 443, allow_private=False)
    assert resolve("two.example", 443, allow_private=True) == ["1.1.1.1", "fe80::1%eth0"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "::1"])
def test_other_ways_to_write_loopback_are_seen_through(host: str) -> None:
    with pytest.raises((Forbidden, OSError)):
        resolve(host, 80, allow_private=False)
