"""Who listens at a port of loopback: the worker's own processes, or somebody who was there first.

Blocking; callers on an event loop use a thread. Where the system does not say who listens, nobody is accused.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import psutil

from modelyard.loopback import is_loopback
from modelyard.types.address import LOOPBACK

LISTEN = psutil.CONN_LISTEN


@dataclass(frozen=True, slots=True)
class Listening:
    """What was found about one port and one worker."""

    has_stranger: bool = False  # somebody else would be reached at the port
    exposed_at: str = ""  # the worker listens at the port on this address, which is not loopback
    elsewhere: tuple[int, ...] = ()  # the worker's other ports


def look(pid: int, port: int) -> Listening:
    """Look at the worker with this process id, and everything below it."""
    tree = _tree(pid)
    try:
        found = psutil.net_connections("tcp")
    except (psutil.Error, OSError):  # macOS tells everybody's to root alone
        return Listening()
    listeners = [(one.laddr.ip, one.laddr.port, one.pid in tree) for one in found if one.laddr and one.status == LISTEN]
    at_port = [(address, is_own) for address, number, is_own in listeners if number == port]
    others = {number for _address, number, is_own in listeners if is_own and number != port}
    return Listening(
        has_stranger=any(not is_own and _reaches_loopback(address) for address, is_own in at_port),
        exposed_at=next((address for address, is_own in at_port if is_own and not is_loopback(address)), ""),
        elsewhere=tuple(sorted(others)),
    )


def _tree(pid: int) -> frozenset[int]:
    try:
        return frozenset((pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))))
    except psutil.Error:
        return frozenset((pid,))


def _reaches_loopback(address: str) -> bool:
    """Whether a connection to 127.0.0.1 may end there.

    >>> _reaches_loopback("127.0.0.1"), _reaches_loopback("::"), _reaches_loopback("10.0.0.7"), _reaches_loopback("::1")
    (True, True, False, False)
    """
    found = _unmapped(address)
    return found.is_unspecified or str(found) == LOOPBACK


def _unmapped(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """IPv4 written as IPv6 is IPv4."""
    found = ipaddress.ip_address(address)
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found
