"""Arithmetic: python jobs/arithmetic.py [--config FILE.toml] [--steps 200] ..."""

import sys

from gfn_ray.shell import run_job

if __name__ == "__main__":
    sys.exit(run_job("arithmetic", "jobs/arithmetic.py"))
