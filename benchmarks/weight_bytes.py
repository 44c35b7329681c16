"""Bytes that a published adapter costs, as samplers and their nodes grow in number.

    PYTHONPATH=. python benchmarks/weight_bytes.py

Real: Ray, its object stores and what raylets send each other, over this machine's loopback device;
a node is a raylet with a store of its own. Not real: the tensors, and samplers, without engines.
Anything else on the loopback device counts, so run it alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median

import ray
from ray.experimental import get_object_locations
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bench_weights import SAMPLERS, SHAPES
from testing.nodes import nodes
from weight_actors import Learner, Reader

SHAPE = SHAPES["7B r16"]
PUBLICATIONS = 5
MIB = 2**20


def loopback() -> int:
    """Bytes that the loopback device has sent."""
    found = re.search(r"^\s*lo:\s*(.+)$", Path("/proc/net/dev").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1].split()[8])


def measure(samplers: int, others: int) -> None:
    """Prints what one publication moves. others: nodes beside the learner's, on which the samplers
    are; none: they are on its own."""
    with nodes(1 + others) as cluster:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
        try:
            first, *further = (n["NodeID"] for n in ray.nodes() if n["Resources"].get("CPU"))
            homes = further or [first]

            def on(node: str) -> dict[str, object]:
                return {
                    "num_cpus": 0,
                    "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
                }

            learner = ray.remote(Learner).options(**on(first)).remote(SHAPE)
            readers = [
                ray.remote(Reader).options(**on(homes[i % len(homes)])).remote()
                for i in range(samplers)
            ]
            sizes, places, sent = [], [], []
            for _ in range(1 + PUBLICATIONS):
                before = loopback()
                adapter = learner.publish.remote()
                ray.get([reader.receive.remote(adapter) for reader in readers])
                sent.append((loopback() - before) / MIB)
                found = get_object_locations([adapter])[adapter]
                sizes.append(found["object_size"] / MIB)
                places.append(len(found["node_ids"]))
        finally:
            ray.shutdown()
    print(
        f"{samplers} samplers on {len(homes)} node{'s' if len(homes) > 1 else ''} "
        f"{'beside' if others else 'with'} the learner: object of {median(sizes):.1f} MiB, in "
        f"{max(places)} stores, {median(sent[1:]):.1f} MiB on the loopback device",
        flush=True,
    )


def main() -> None:
    for others in (0, 1, 2):
        for samplers in SAMPLERS:
            if samplers >= others:
                measure(samplers, others)


if __name__ == "__main__":
    main()
