"""The built-in tasks by name, for adapters that name the task they were trained on.

A stored name is only looked up here, so no file can cause code to be imported by naming it. A
task's module is imported on use.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

BUILT_IN: dict[str, Callable[[], type[Any]]] = {
    "arithmetic": lambda: import_module("gfn_ray.tasks.arithmetic.task").ArithmeticTask,
    "continuation": lambda: import_module("gfn_ray.tasks.continuation.task").ContinuationTask,
    "infill": lambda: import_module("gfn_ray.tasks.infill.task").InfillTask,
    "prompts": lambda: import_module("gfn_ray.tasks.prompts.task").PromptsTask,
    "random_number": lambda: import_module("gfn_ray.tasks.random_number.task").RandomNumberTask,
    "subjectivity": lambda: import_module("gfn_ray.tasks.subjectivity.task").SubjectivityTask,
}
"""Maps a task's name to a function that imports its class; the class has its settings as `job`."""
