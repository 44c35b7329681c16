"""Sentence continuation: python jobs/continuation.py [--config FILE.toml] [--steps 60] ..."""

import sys

from gfn_ray.cli import main, parse
from gfn_ray.tasks.continuation.config import ContinuationJob


def continuation() -> int:
    config = parse(ContinuationJob, prog="jobs/continuation.py")
    # Imported only after the settings are checked: these import torch and Ray.
    from gfn_ray.runtime.run import run
    from gfn_ray.tasks.continuation.task import ContinuationTask

    return run(config, ContinuationTask(config))


if __name__ == "__main__":
    sys.exit(main(continuation))
