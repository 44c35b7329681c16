"""Every figure of docs/performance.md, measured side by side with the plain way to do the same.

    python benchmarks/bench.py                  # all of them, 5 rounds each
    python benchmarks/bench.py --quick          # one round each: does it run?
    python benchmarks/bench.py --only step

Prints a line a figure; --record appends each to benchmarks/results.jsonl.
"""

from __future__ import annotations

import argparse
import re

from bench_infill import Bench
from bench_replay import ReplayBench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5, help="of each figure (default 5)")
    parser.add_argument("--quick", action="store_true", help="one round of each")
    parser.add_argument("--only", help="only figures whose name matches this")
    parser.add_argument("--record", action="store_true", help="append to results.jsonl")
    given = parser.parse_args()
    rounds = 1 if given.quick else given.rounds
    figures = {**Bench(rounds).figures(), **ReplayBench(rounds).figures()}
    for name, measured in figures.items():
        if not given.only or re.search(given.only, name):
            figure = measured()
            print(figure, flush=True)
            if given.record:
                figure.record()


if __name__ == "__main__":
    main()
