"""Sentence continuation: python jobs/continuation.py [--config FILE.toml] [--steps 60] ..."""

import sys

from gfn_ray.shell import run_job

if __name__ == "__main__":
    sys.exit(run_job("continuation", "jobs/continuation.py"))
