"""Where webhooks may be sent. A host is resolved once, and only an address that was checked is called."""

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
"""Prefixes of NAT64: the last 32 bits are the IPv4 address that the translator calls."""
COMPATIBLE = IPv6Network("::/96")
"""IPv4-compatible addresses, an older form; `::` and `::1` are among them."""


class Forbidden(Exception):
    """The host has an address that is not public; the message names it."""


def _called(address: Address) -> Iterable[Address]:
    """The addresses reached in the end: the IPv4 addresses embedded in an IPv6 one, else the address itself."""
    if isinstance(address, IPv4Address):
        return [address]
    embedded = [each for each in (address.ipv4_mapped, address.sixtofour, *(address.teredo or ())) if each is not None]
    if any(address in network for network in (*NAT64, COMPATIBLE)):
        embedded.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return embedded or [address]


def is_public(address: Address) -> bool:
    """Whether it is an address of the public internet; IPv4 addresses embedded in IPv6 are checked too."""
    return all(
        each.is_global
        and not (each.is_multicast or each.is_reserved)
        # Site-local, an old private range that `ipaddress` takes for global.
        and not (isinstance(each, IPv6Address) and each.is_site_local)
        for each in _called(address)
    )


def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of a host, in the order in which to try them, without duplicates.

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
