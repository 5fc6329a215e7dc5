"""Where a webhook may go: a host's addresses, each checked, so that the one that is called is one that was checked."""

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
"""Prefixes whose last 32 bits are an IPv4 address that a translator calls."""
COMPATIBLE = IPv6Network("::/96")
"""The same, by an older rule; holds `::` and `::1` too."""


class Forbidden(Exception):
    """The host has an address that may not be called; the message names it."""


def _called(address: Address) -> Iterable[Address]:
    """The addresses that are called in the end: the IPv4 addresses that an IPv6 one stands for, else itself."""
    if isinstance(address, IPv4Address):
        return [address]
    embedded = [each for each in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())) if each is not None]
    if any(address in network for network in (*NAT64, COMPATIBLE)):
        embedded.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return embedded or [address]


def is_public(address: Address) -> bool:
    """Whether it is an address of the public internet, seen through every way of writing an IPv4 address as IPv6."""
    return all(
        each.is_global
        and not (each.is_multicast or each.is_reserved)
        # An old range of addresses inside, which `ipaddress` takes for global.
        and not (isinstance(each, IPv6Address) and each.is_site_local)
        for each in _called(address)
    )


def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of a host, in the order in which they are to be tried, without doubles.

    Raises Forbidden when one of them, not only the first, may not be called, and OSError when there are none. The wait
    is the resolver's own (resolv.conf: 5 s, twice).
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A link-local address comes with its interface: `fe80::1%eth0`.
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private:
        for each in addresses:
            if not is_public(ip_address(each.partition("%")[0])):
                raise Forbidden(f"{host} is at {each}, which is no public address (BILLING_WEBHOOK_ALLOW_PRIVATE)")
    return addresses
