"""From task.reward to functions that judge, and what they see of a row and of a completion."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

from gfn_ray.errors import UserError
from gfn_ray.rewards.functions.builtin import BUILT_IN
from gfn_ray.rewards.functions.given import GivenFunction
from gfn_ray.rewards.functions.judge import Judge, RewardFunction, Row
from gfn_ray.rewards.functions.process import FunctionProcess
from gfn_ray.tasks.prompts.config import GIVEN, PromptsConfig
from gfn_ray.trajectory import IntArray

RewardSpec = str | Callable[..., Any]
"""A reward function: a built-in one's name, file.py:function, or the function itself."""


def named_functions(
    reward: RewardSpec | Sequence[RewardSpec],
) -> tuple[tuple[str, ...], dict[str, Callable[..., Any]]]:
    """Names for task.reward, and by name the functions that were given as objects."""
    several = [reward] if isinstance(reward, str) or callable(reward) else list(reward)
    specs: list[str] = []
    functions: dict[str, Callable[..., Any]] = {}
    for one in several:
        if isinstance(one, str):
            specs.append(one)
            continue
        name = getattr(one, "__name__", type(one).__name__)
        spec = f"{GIVEN}{name}"
        if not name.isidentifier() or spec in functions:
            spec = f"{GIVEN}reward_{len(specs) + 1}"
        specs.append(spec)
        functions[spec] = one
    return tuple(specs), functions


def completion_text(tokenizer: Any, stops: Sequence[str], token_ids: IntArray) -> str:
    """What a reward function sees of a z: its text, without the stop string that ended it."""
    return cut_at_stop(tokenizer.decode(token_ids), stops)


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def with_defaults(row: Row, task: PromptsConfig, schema: str | None) -> Row:
    """The row with what settings give in place of a column. Raises UserError where a built-in
    reward cannot judge by it."""
    defaults = {"pattern": task.pattern, "schema": schema}
    given = {name: value for name, value in defaults.items() if value is not None}
    row = replace(row, columns={**given, **row.columns})
    for name in task.reward:
        if name not in BUILT_IN:
            continue
        built_in = BUILT_IN[name]
        if missing := [one for one in built_in.needs if row.columns.get(one) is None]:
            raise UserError(
                f"{row.place}: no {missing[0]}, which the reward {name} judges by; give the "
                f"column, or name one that has it by --data.columns FOUND={missing[0]}"
            )
        try:
            built_in.check(row.columns)
        except ValueError as error:
            raise UserError(f"{row.place}: {error}") from None
    return row


def code_of(task: PromptsConfig) -> list[str]:
    """What tells one version of the functions that are code from another: a digest of their file,
    or, where there is none, what no other run has."""
    files = [spec.rpartition(":")[0] for spec in task.reward if spec not in BUILT_IN]
    return [
        hashlib.sha256(Path(file).read_bytes()).hexdigest() if file.endswith(".py") else token_hex()
        for file in files
    ]


def make_judge(
    task: PromptsConfig, columns: Sequence[str], given: Mapping[str, Callable[..., Any]]
) -> Judge:
    """columns: names of the data's columns beside the prompt. given: functions by their spec.
    Raises UserError where a function is not to be had."""
    functions = [_function(spec, columns, given, task.reward_timeout_s) for spec in task.reward]
    return Judge(functions, task.weights)


def _function(
    spec: str, columns: Sequence[str], given: Mapping[str, Callable[..., Any]], timeout_s: float
) -> RewardFunction:
    if spec in BUILT_IN:
        return BUILT_IN[spec]
    if spec in given:
        return GivenFunction(given[spec], timeout_s)
    if spec.startswith(GIVEN):
        raise UserError(
            f"task.reward is {spec}, a function that was handed over in Python; hand it over "
            "again, as gfn_ray.train(..., reward=function)"
        )
    function = FunctionProcess(spec, columns, timeout_s)
    function.start()  # refused now, if at all
    return function
