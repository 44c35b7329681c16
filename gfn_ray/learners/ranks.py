"""The learners that share an update: how many there are, and how they add up what each has.

Owns the exchange between ranks, and what a rank does if an exchange fails. Sums are taken along a
binary tree whose leaves are the chunks of a batch: each of 2^k ranks owns one node of level k, and
k exchanges with the ranks 1, 2, 4, ... apart add up the levels above. The order of additions does
not depend on the number of ranks, so any number of them ends with the same bits.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

EXIT_LOST_RANK = 1
LOOPBACK = "127.0.0.1"
_REPORT = "report"  # a key of the store
_SIOCGIFADDR = 0x8915  # Linux: asks for the IPv4 address of an interface


@dataclass(frozen=True)
class Place:
    """Where ranks find each other: the store's address, and each rank's own in their order.
    timeout_s: limit of one exchange, in seconds."""

    host: str
    port: int
    addresses: tuple[str, ...]
    timeout_s: float


class Ranks(Protocol):
    """rank: of this process, from 0. count: a power of two."""

    @property
    def rank(self) -> int: ...

    @property
    def count(self) -> int: ...

    def add_up(self, numbers: Tensor) -> None:
        """Replaces this rank's numbers by their sum over all ranks, the same bits on each."""
        ...


class Alone:
    """The only learner."""

    rank, count = 0, 1

    def add_up(self, numbers: Tensor) -> None:
        pass


ALONE = Alone()


class Together:
    """One of several learners, in torch's default process group. store: shared by all ranks."""

    def __init__(self, store: dist.Store) -> None:
        self._store = store
        self.rank, self.count = dist.get_rank(), dist.get_world_size()

    def add_up(self, numbers: Tensor) -> None:
        theirs = torch.empty_like(numbers)
        apart = 1
        while apart < self.count:
            other = self.rank ^ apart
            exchange = [
                dist.P2POp(dist.isend, numbers, other),
                dist.P2POp(dist.irecv, theirs, other),
            ]
            for transfer in dist.batch_isend_irecv(exchange):
                transfer.wait()
            numbers += theirs  # a + b and b + a have the same bits
            apart *= 2

    def report(self, error: BaseException) -> None:
        """Leaves word for the other ranks of what this one met, before its process ends."""
        self._store.set(_REPORT, f"{type(error).__name__}: {error}")

    def reported(self) -> str | None:
        """What another rank reported; None if nothing."""
        return self._store.get(_REPORT).decode() if self._store.check([_REPORT]) else None


def share(count: int, rank: int, ranks: int) -> range:
    """The chunks, of `count`, below the tree's node of one of the ranks; there may be none."""
    first, last = 0, count
    while ranks > 1:
        middle, ranks = (first + last) // 2, ranks // 2
        if rank < ranks:
            last = middle
        else:
            first, rank = middle, rank - ranks
    return range(first, last)


def open_store(host: str, timeout_s: float) -> dist.TCPStore:
    """Opens the place where ranks find each other, on this address of this machine only."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        return dist.TCPStore(
            host,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=timeout_s),
            master_listen_fd=listener.detach(),
        )


def join(place: Place, rank: int, device: str) -> Together:
    """Makes this process one of the ranks and waits for all others. Raises torch's errors, after
    the time limit at the latest."""
    timeout = timedelta(seconds=place.timeout_s)
    store = dist.TCPStore(
        place.host, place.port, is_master=False, wait_for_workers=False, timeout=timeout
    )
    # Gloo would listen on the address that this machine's name leads to.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface(place.addresses[rank]))
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=len(place.addresses),
        timeout=timeout,
    )
    return Together(store)


def _interface(address: str) -> str:
    """The name of the network interface of this machine that has an IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    raise OSError(f"no network interface of this machine has the address {address}")


def lost_a_rank(error: BaseException) -> bool:
    """Whether an error comes from an exchange between ranks. Gloo has no type of its own."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def end_process(error: BaseException) -> NoReturn:
    """Ends this process, which cannot learn without the other ranks: its supervisor will see a
    death and start all ranks anew. Not by an exception, which would end the run."""
    line = " ".join(str(error).split())
    print(f"a learner lost another one and ends: {line}", file=sys.stderr, flush=True)
    os._exit(EXIT_LOST_RANK)
