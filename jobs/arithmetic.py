"""Arithmetic: python jobs/arithmetic.py [--config FILE.toml] [--steps 200] ..."""

import sys

from gfn_ray.cli import main, parse
from gfn_ray.tasks.arithmetic.config import ArithmeticJob


def arithmetic() -> int:
    config = parse(ArithmeticJob, prog="jobs/arithmetic.py")
    # Imported only after the settings are checked: these import torch and Ray.
    from gfn_ray.runtime.run import run
    from gfn_ray.tasks.arithmetic.task import ArithmeticTask

    return run(config, ArithmeticTask(config))


if __name__ == "__main__":
    sys.exit(main(arithmetic))
