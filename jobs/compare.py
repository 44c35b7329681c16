"""Comparison of runs: python jobs/compare.py --runs runs/a,runs/b"""

import sys

from gfn_ray.cli import main, parse
from gfn_ray.config import CompareJob


def compare() -> int:
    config = parse(CompareJob, prog="jobs/compare.py")
    from gfn_ray.runs.compare_runs import compare_runs

    return compare_runs(config)


if __name__ == "__main__":
    sys.exit(main(compare))
