"""Which addresses may be connected to: what others name must not lead into our own network.

A host is looked up here, its addresses are checked, and the very address that was checked is the
one connected to: a name that says something else when it is asked again changes nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpcore

from services.runtime.deadlines import TimedStream, seconds_left

_NAT64 = IPv6Network("64:ff9b::/96")
# Cloud metadata services outside the ranges that are refused anyway.
_METADATA = frozenset({IPv4Address("168.63.129.16"), IPv4Address("169.254.169.254"),
                       IPv4Address("100.100.100.200"), IPv4Address("192.0.0.192"),
                       IPv6Address("fd00:ec2::254"), IPv6Address("fd20:ce::254")})  # fmt: skip

Resolve = Callable[[str, int], Sequence[str]]
"""Addresses of (host, port), as text; raises OSError where there are none."""


def system_addresses(host: str, port: int) -> list[str]:
    """What the system's resolver says, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def forbidden(address: str, allow_private: bool = False) -> str | None:
    """Why nothing may be asked of `address` (IPv4 or IPv6 text); None where it may.

    An IPv4 address inside an IPv6 one (mapped, 6to4, Teredo, NAT64) is judged as well.
    `allow_private` lifts private, shared and loopback addresses, nothing else.
    """
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        inner = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            inner.append(IPv4Address(int(ip) & 0xFFFFFFFF))
        for each in inner:
            if each is not None and (reason := forbidden(str(each), allow_private)):
                return reason
        if ip.ipv4_mapped is not None or ip in _NAT64:
            return None
    if ip in _METADATA:
        return "cloud metadata"
    if ip.is_link_local:
        return "link-local"
    if ip.is_multicast:
        return "multicast"
    if ip.is_unspecified:
        return "unspecified"
    if ip.is_loopback:
        return None if allow_private else "loopback"
    if ip.is_reserved:
        return "reserved"
    if not ip.is_global:
        return None if allow_private else "private"
    return None


class ForbiddenAddress(Exception):
    """A host has an address that may not be connected to; `liftable` where a setting allows it."""

    def __init__(self, host: str, address: str, reason: str) -> None:
        super().__init__(f"{host} is {address} ({reason})")
        self.liftable = forbidden(address, allow_private=True) is None


class CheckedBackend(httpcore.NetworkBackend):
    """Looks a host up, refuses what is forbidden, and connects to the address it has checked.

    Every step ends by `deadline` (monotonic clock). Of the hosts that `inside` names, private
    addresses are allowed. TLS still goes by the name: httpcore asks the certificate for the host
    of the URL. Raises ForbiddenAddress, beside what httpcore raises.
    """

    def __init__(self, deadline: float, resolve: Resolve, inside: Callable[[str], bool]) -> None:
        self._deadline = deadline
        self._resolve = resolve
        self._inside = inside
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        try:
            addresses = list(self._resolve(host, port))
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host}: cannot be resolved") from error
        inside = self._inside(host)
        for address in addresses:
            if reason := forbidden(address, inside):
                raise ForbiddenAddress(host, address, reason)
        failure: Exception = httpcore.ConnectError(f"{host}: no address")
        for address in addresses:
            try:
                stream = self._sockets.connect_tcp(
                    address, port, seconds_left(self._deadline, timeout), None, socket_options
                )
                return TimedStream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def sleep(self, seconds: float) -> None:
        self._sockets.sleep(seconds)
