"""Waits until Ray, at $RAY_ADDRESS, has as many nodes as it is to have.

    python clusters/slurm/await_nodes.py NODES SECONDS

A run is refused where the cluster has too few GPUs when it starts, and nodes join one by one.
"""

import os
import sys
import time

import ray

from gfn_ray.runtime.resources.ray_address import check_answers

LOOK_SECONDS = 1.0


def main(nodes: int, seconds: float) -> int:
    """0 once all nodes are there, 1 where they are not within that time."""
    address = os.environ["RAY_ADDRESS"]
    deadline = time.monotonic() + seconds
    while (there := nodes_of(address)) < nodes:
        if time.monotonic() > deadline:
            print(f"await_nodes: {there} of {nodes} nodes after {seconds:g} s", file=sys.stderr)
            return 1
        time.sleep(LOOK_SECONDS)
    return 0


def nodes_of(address: str) -> int:
    """How many nodes are alive; 0 where no head answers yet."""
    try:
        check_answers(address)
    except ConnectionError:
        return 0
    ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
    try:
        return sum(node["Alive"] for node in ray.nodes())
    finally:
        ray.shutdown()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2])))
