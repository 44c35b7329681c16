"""Which addresses processes accept connections on."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

import psutil

Address = IPv4Address | IPv6Address


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
