"""The built-in tasks by name, for adapters that name the task they were trained on.

A stored name is only ever looked up here: no file can have code imported by naming it. A task's
module is imported when it is asked for.
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
"""Task name to a function that imports its class; a class names its settings as `job`."""
