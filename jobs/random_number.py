"""Random numbers: python jobs/random_number.py [--config FILE.toml] [--steps 150] ..."""

import sys

from gfn_ray.cli import main, parse
from gfn_ray.tasks.random_number.config import RandomNumberJob


def random_number() -> int:
    config = parse(RandomNumberJob, prog="jobs/random_number.py")
    # Imported only after the settings are checked: these import torch and Ray.
    from gfn_ray.runtime.run import run
    from gfn_ray.tasks.random_number.task import RandomNumberTask

    return run(config, RandomNumberTask(config))


if __name__ == "__main__":
    sys.exit(main(random_number))
