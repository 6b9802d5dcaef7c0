"""Addresses of pictures to fetch, one rule for both sides: the door refuses what can be seen without asking DNS; the
worker, which fetches, looks at every redirect the same way, and at every address that a name stands for."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

__all__ = ["is_public", "why_not_fetched"]

PORTS = (80, 443)  # and any above WELL_KNOWN
WELL_KNOWN = 1023
UNICAST = ipaddress.ip_network("2000::/3")  # all that is routed; every other IPv6 prefix is for somewhere near
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # the last 32 bits are an IPv4 address


def why_not_fetched(url: str, allowed_hosts: str) -> str:
    """Why this URL is refused; empty if it is not. `allowed_hosts`: comma-separated, may be private."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return "it is not a URL"
    if parts.scheme not in ("http", "https") or not host:
        return "only http and https addresses are fetched"
    if "@" in parts.netloc:
        return "an address with a user's name or password is not fetched"
    if port is not None and port not in PORTS and port <= WELL_KNOWN:
        return f"port {port} is not fetched from: only 80, 443 and those above {WELL_KNOWN}"
    is_allowed = host in {name.strip().lower() for name in allowed_hosts.split(",")}
    return "" if is_allowed or not _is_seen_private(host) else "its address is not a public one"


def _is_seen_private(host: str) -> bool:
    """Whether the name alone, unresolved, says that this host is not a public one."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _literal(host)
    return address is not None and not is_public(address)


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `host` spells, in every way that a resolver takes: 127.1, 0x7f000001 and 2130706433, too."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Global unicast, also inside the forms of IPv6 that carry an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped
        if address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address not in UNICAST or address.sixtofour or address.teredo:  # tunnels lead to whatever they carry
            return False
    return address.is_global and not address.is_multicast
