"""Comparison of runs: python jobs/compare.py --runs runs/a,runs/b"""

import sys

from gfn_ray.shell import run_job

if __name__ == "__main__":
    sys.exit(run_job("compare", "jobs/compare.py"))
