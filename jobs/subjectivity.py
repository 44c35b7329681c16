"""Subjectivity: python jobs/subjectivity.py [--config FILE.toml] [--task.labels 10] ..."""

import sys

from gfn_ray.cli import main, parse
from gfn_ray.tasks.subjectivity.config import SubjectivityJob


def subjectivity() -> int:
    config = parse(SubjectivityJob, prog="jobs/subjectivity.py")
    # Imported only after the settings are checked: these import torch and Ray.
    from gfn_ray.runtime.run import run
    from gfn_ray.tasks.subjectivity.task import SubjectivityTask

    return run(config, SubjectivityTask(config))


if __name__ == "__main__":
    sys.exit(main(subjectivity))
