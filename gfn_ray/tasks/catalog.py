"""The built-in tasks by name, for adapters that name the task they were trained on.

Owns the list. A stored name is only ever looked up here: no file can have code imported by
naming it. A task's module is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _arithmetic() -> type[Any]:
    from gfn_ray.tasks.arithmetic.task import ArithmeticTask

    return ArithmeticTask


def _continuation() -> type[Any]:
    from gfn_ray.tasks.continuation.task import ContinuationTask

    return ContinuationTask


def _infill() -> type[Any]:
    from gfn_ray.tasks.infill.task import InfillTask

    return InfillTask


def _random_number() -> type[Any]:
    from gfn_ray.tasks.random_number.task import RandomNumberTask

    return RandomNumberTask


def _subjectivity() -> type[Any]:
    from gfn_ray.tasks.subjectivity.task import SubjectivityTask

    return SubjectivityTask


BUILT_IN: dict[str, Callable[[], type[Any]]] = {
    "arithmetic": _arithmetic,
    "continuation": _continuation,
    "infill": _infill,
    "random_number": _random_number,
    "subjectivity": _subjectivity,
}
"""Task name to a function that imports its class; a class names its settings as `job`."""
