"""Demonstrations as trajectories: seeds for replay, and a reference for the policy."""

from __future__ import annotations

from typing import Any

from gfn_ray.errors import UserError
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import IntArray, Query, Trajectory


def demonstration_trajectory(query_id: str, token_ids: IntArray, support: Support) -> Trajectory:
    """Returns a given z as an unscored record; the support must contain it."""
    return Trajectory.demonstration(
        query_id,
        token_ids,
        support.tool_mask(token_ids),
        support.terminable(token_ids),
        stopped=len(token_ids) < support.max_len,
    )


def check_demonstrations(name: str, data: TaskData, tokenizer: Any) -> None:
    """Raises UserError if a demonstration contains a tool's answer that the tool would not give:
    its log q would be that of another z."""
    if data.tool is None:
        return
    loop = ToolLoop(data.tool, tokenizer, data.support)
    for query in (*data.train, *data.held_out):
        for z in query.demonstrations:
            if data.support.contains(z) and not loop.contains(query.prompt_ids, z):
                raise UserError(
                    f"load() of task {name} gave query {query.query_id!r} the demonstration "
                    f"{tokenizer.decode(z)!r}, in which the {type(data.tool).__name__} gives an "
                    "answer that it would not give; correct that demonstration or leave it out"
                )


def demonstration_trajectories(queries: list[Query], support: Support) -> list[Trajectory]:
    """Returns the demonstrations of each query that are inside the support."""
    return [
        demonstration_trajectory(query.query_id, tokens, support)
        for query in queries
        for tokens in query.demonstrations
        if support.contains(tokens)
    ]
