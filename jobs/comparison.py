"""Comparison of methods: python jobs/comparison.py [--table full] ..."""

import sys

from gfn_ray.shell import run_job

if __name__ == "__main__":
    sys.exit(run_job("comparison", "jobs/comparison.py"))
