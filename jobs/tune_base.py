"""Tuning a base model: python jobs/tune_base.py [--data.path FILE.csv] [--steps 60] ..."""

import sys

from gfn_ray.shell import run_job

if __name__ == "__main__":
    sys.exit(run_job("tune-base", "jobs/tune_base.py"))
