"""Which addresses processes accept connections on, and ports at which nobody does."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address, ip_address

import psutil

Address = IPv4Address | IPv6Address


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback address that nobody has yet."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def listening(processes: Iterable[psutil.Process]) -> dict[str, set[Address]]:
    """By the name of the process; an IPv4 address in IPv6's form is given as what it is."""
    found: dict[str, set[Address]] = {}
    for process in processes:
        try:
            sockets = process.net_connections(kind="tcp")
            name = " ".join(process.cmdline())
        except psutil.Error:  # it ended meanwhile, is a zombie, or somebody else's
            continue
        for one in sockets:
            if one.status == psutil.CONN_LISTEN:
                address = ip_address(one.laddr.ip)
                plain = getattr(address, "ipv4_mapped", None) or address
                found.setdefault(name, set()).add(plain)
    return found
