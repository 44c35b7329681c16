"""Story infilling: python jobs/infill.py [--config FILE.toml] [--steps 60] ..."""

import sys

from gfn_ray.cli import main, parse
from gfn_ray.tasks.infill.config import InfillJob


def infill() -> int:
    config = parse(InfillJob, prog="jobs/infill.py")
    # Imported only after the settings are checked: these import torch and Ray.
    from gfn_ray.runtime.run import run
    from gfn_ray.tasks.infill.task import InfillTask

    return run(config, InfillTask(config))


if __name__ == "__main__":
    sys.exit(main(infill))
