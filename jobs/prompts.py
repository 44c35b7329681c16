"""Your prompts, your reward: python jobs/prompts.py [--data.path FILE] [--task.reward R] ..."""

import sys

from gfn_ray.shell import run_job

if __name__ == "__main__":
    sys.exit(run_job("prompts", "jobs/prompts.py"))
