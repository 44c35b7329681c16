"""Subjectivity: python jobs/subjectivity.py [--config FILE.toml] [--task.labels 10] ..."""

import sys

from gfn_ray.shell import run_job

if __name__ == "__main__":
    sys.exit(run_job("subjectivity", "jobs/subjectivity.py"))
