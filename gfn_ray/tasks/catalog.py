"""The built-in tasks by name, for their jobs and for adapters, which name the task they come from.

A stored name is only ever looked up here: no file can have code imported by naming it. Settings and
classes are imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Entry:
    """about: the job in a sentence. settings: imports their class, and nothing heavy. task: imports
    the task's class, whose `job` those settings are."""

    about: str
    settings: Callable[[], type[Any]]
    task: Callable[[], type[Any]]


CATALOG = {
    "infill": Entry(
        "Train a policy that fills in the missing sentence of a story.",
        lambda: import_module("gfn_ray.tasks.infill.config").InfillJob,
        lambda: import_module("gfn_ray.tasks.infill.task").InfillTask,
    ),
    "prompts": Entry(
        "Train on your prompts and your reward function.",
        lambda: import_module("gfn_ray.tasks.prompts.config").PromptsJob,
        lambda: import_module("gfn_ray.tasks.prompts.task").PromptsTask,
    ),
    "continuation": Entry(
        "Train a policy of likely and different next sentences.",
        lambda: import_module("gfn_ray.tasks.continuation.config").ContinuationJob,
        lambda: import_module("gfn_ray.tasks.continuation.task").ContinuationTask,
    ),
    "arithmetic": Entry(
        "Train chains of calculation, with a calculator.",
        lambda: import_module("gfn_ray.tasks.arithmetic.config").ArithmeticJob,
        lambda: import_module("gfn_ray.tasks.arithmetic.task").ArithmeticTask,
    ),
    "subjectivity": Entry(
        "Train rationales that help to label sentences, by EM.",
        lambda: import_module("gfn_ray.tasks.subjectivity.config").SubjectivityJob,
        lambda: import_module("gfn_ray.tasks.subjectivity.task").SubjectivityTask,
    ),
    "random_number": Entry(
        "Train a policy of random integers.",
        lambda: import_module("gfn_ray.tasks.random_number.config").RandomNumberJob,
        lambda: import_module("gfn_ray.tasks.random_number.task").RandomNumberTask,
    ),
}

BUILT_IN = {name: entry.task for name, entry in CATALOG.items()}
"""Task name to a function that imports its class."""
