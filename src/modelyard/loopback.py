"""Whether a host is this machine and nothing else. Pure: no name is looked up; `localhost` is the only one known."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches a host, as an address bar, a setting or a socket names it.

    >>> [is_loopback(host) for host in ("127.0.0.1", "[::1]", "::ffff:127.0.0.1", "Localhost.")]
    [True, True, True, True]
    >>> [is_loopback(host) for host in ("0.0.0.0", "::", "localhost.example", "127.0.0.1.example", "")]
    [False, False, False, False, False]
    """
    if host in ("127.0.0.1", "::1"):  # nearly always
        return True
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
