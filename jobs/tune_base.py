"""Tuning a base on stories: python jobs/tune_base.py [--data.path FILE.csv] [--steps 60] ..."""

import sys

from gfn_ray.cli import main, parse
from gfn_ray.config import TuneBaseJob


def tune() -> int:
    config = parse(TuneBaseJob, prog="jobs/tune_base.py")
    # Imported once the settings are known to be sound: this brings in torch.
    from gfn_ray.runs.tune_base import tune_base

    return tune_base(config)


if __name__ == "__main__":
    sys.exit(main(tune))
