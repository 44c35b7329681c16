"""How a reward function is found and called: TRL's signature, and what its results may be.

    def reward(prompts, completions, **columns) -> list[float | None]

Each argument is a list with an entry a completion. A completion is a text where its prompt is one,
and a list with one assistant message where the prompt is a list of messages. None: the function
does not apply to that row. Source: TRL's GRPOTrainer, `reward_funcs`.

Imports nothing heavy: the process that runs a user's function begins here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import math
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Arguments = dict[str, list[Any]]
Rewards = list[float | None]
Faults = dict[int, str]

ALWAYS_GIVEN = ("prompts", "completions", "completion_ids")
_LONGEST_REASON = 300  # characters of what a function raised


def find_function(spec: str) -> Callable[..., Any]:
    """The function that `file.py:name` or `package.module:name` names; its module is run.

    Raises what the module raises, and ImportError, AttributeError or ValueError for no function.
    """
    place, _, name = spec.rpartition(":")
    if not place.endswith(".py"):
        found = pkgutil.resolve_name(f"{place}:{name}")
    else:
        file = Path(place)
        module_spec = importlib.util.spec_from_file_location(file.stem, file)
        if module_spec is None or module_spec.loader is None or not file.is_file():
            raise ImportError(f"there is no file {file}")
        module = importlib.util.module_from_spec(module_spec)
        sys.modules.setdefault(file.stem, module)
        sys.path.insert(0, str(file.parent))  # what lies beside it can be imported, as in a script
        module_spec.loader.exec_module(module)
        found = getattr(module, name)
    if not callable(found):
        raise ValueError(f"{name} is no function but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def missing_arguments(function: Callable[..., Any], given: Sequence[str]) -> list[str]:
    """Parameters without a default that no list is given for."""
    return [
        name
        for name, parameter in _parameters(function).items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in given
    ]


def call(function: Callable[..., Any], arguments: Arguments) -> tuple[Rewards, Faults]:
    """A reward or None for each row, and by row what went wrong there.

    Where the function raises, its rows are judged one at a time, so that one cannot spoil the
    others and the fault has a row.
    """
    rows = len(arguments["completions"])
    try:
        return _checked(function, arguments, rows), {}
    except Exception as error:  # somebody else's code: whatever it raises is a fault of its row
        if rows == 1:
            return [None], {0: described(error)}
    rewards: Rewards = []
    faults: Faults = {}
    for row in range(rows):
        one, fault = call(function, {name: [cells[row]] for name, cells in arguments.items()})
        rewards += one
        if fault:
            faults[row] = fault[0]
    return rewards, faults


def described(error: BaseException) -> str:
    """What was raised, on one line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + "..."


def _checked(function: Callable[..., Any], arguments: Arguments, rows: int) -> Rewards:
    result = function(**_accepted(function, arguments))
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    rewards = [None if one is None else float(one) for one in result]
    if len(rewards) != rows:
        raise ValueError(f"it gave {len(rewards)} rewards for {rows} completions")
    for one in rewards:
        if one is not None and not math.isfinite(one):
            raise ValueError(f"it gave the reward {one}; a reward is a finite number or None")
    return rewards


def _accepted(function: Callable[..., Any], arguments: Arguments) -> Arguments:
    """The arguments that the function takes: all, unless it has no **kwargs."""
    parameters = _parameters(function)
    if not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return arguments
    return {name: cells for name, cells in arguments.items() if name in parameters}


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """None where Python cannot tell, as of functions in C."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
