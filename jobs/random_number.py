"""Random numbers: python jobs/random_number.py [--config FILE.toml] [--steps 150] ..."""

import sys

from gfn_ray.shell import run_job

if __name__ == "__main__":
    sys.exit(run_job("random-number", "jobs/random_number.py"))
