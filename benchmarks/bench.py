"""Every figure of docs/performance.md, measured side by side with the plain way to do the same.

    make bench                            # all of them, 5 rounds each
    make bench ARGS="--quick"             # one round each, and small: does it run?
    make bench ARGS="--only step"

Prints a line a figure; --record appends each to benchmarks/results.jsonl and shows it in
docs/performance.md.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from bench_gpu import GpuBench
from bench_growth import GrowthBench
from bench_infill import Bench
from bench_packing import PackingBench
from bench_posterior import PosteriorBench
from bench_replay import ReplayBench
from bench_roofline import RooflineBench
from bench_weights import WeightsBench
from measure import Record, has_matrix_units
from peer.bench_peer import ABSENT, PeerBench, is_installed
from render import render


def figures(rounds: int, quick: bool) -> dict[str, Callable[[], Record]]:
    """By name, in the order in which they are best measured. quick: smaller where size is time."""
    infill, in_bfloat16 = Bench(rounds), Bench(rounds, "bfloat16")
    return {
        **infill.figures(),
        **ReplayBench(rounds).figures(),
        **RooflineBench(rounds, infill).figures(),
        **(RooflineBench(rounds, in_bfloat16).figures() if has_matrix_units() else {}),
        **PackingBench(rounds, quick, infill).figures(),
        **WeightsBench(rounds, quick, infill).figures(),
        **GrowthBench(rounds, quick).figures(),
        **PosteriorBench(rounds, quick).figures(),
        **PeerBench(rounds, quick).figures(),
        **GpuBench(rounds, quick).figures(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5, help="of each figure (default 5)")
    parser.add_argument("--quick", action="store_true", help="one round of each, and small")
    parser.add_argument("--only", help="only figures whose name matches this")
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    given = parser.parse_args()
    for name, measured in figures(1 if given.quick else given.rounds, given.quick).items():
        if not given.only or re.search(given.only, name):
            found = measured()
            print(found, flush=True)
            if given.record:
                found.record()
                render()
    if not is_installed():
        print(ABSENT)


if __name__ == "__main__":
    main()
