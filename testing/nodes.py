"""A Ray cluster of several nodes on one machine: a head without cores, and nodes of one core, each
with room for one actor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ray.cluster_utils import Cluster

from testing.processes import actor_processes

LIMIT_S = 60.0


class Nodes:
    """address: for RAY_ADDRESS of a job, which then is on the head, as after `ray job submit`."""

    def __init__(self, number: int) -> None:
        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.address: str = self._cluster.address
        for _ in range(number):
            self.add()
        self._cluster.wait_for_nodes(timeout=LIMIT_S)

    def add(self) -> None:
        self._cluster.add_node(num_cpus=1)

    def kill_that_of(self, kind: str) -> None:
        """Ends the node of an actor of a class, with all of its processes, as a power cut does."""
        (actor,) = actor_processes(os.getpid(), kind)
        raylet = actor.parent()
        assert raylet is not None
        family = [raylet, *raylet.children(recursive=True)]
        for one in family:
            one.suspend()  # nobody may see another die first
        for one in family:
            one.kill()

    def end(self) -> None:
        self._cluster.shutdown()


@contextmanager
def nodes(number: int) -> Iterator[Nodes]:
    made = Nodes(number)
    try:
        yield made
    finally:
        made.end()
