"""Tuning a base model: python jobs/tune_base.py [--data.path FILE.csv] [--steps 60] ..."""

import sys

from gfn_ray.cli import main, parse
from gfn_ray.config import TuneBaseJob


def tune() -> int:
    config = parse(TuneBaseJob, prog="jobs/tune_base.py")
    # Imported only after the settings are checked: this imports torch.
    from gfn_ray.runs.tune_base import tune_base

    return tune_base(config)


if __name__ == "__main__":
    sys.exit(main(tune))
