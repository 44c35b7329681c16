"""log q of trajectories under the policy, recomputed from its current weights.

Turns records into padded tensors: packed prefix trees per chunk of queries, the support masked
exactly as the sampler masks it, tool-written tokens at log q = 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gfn_ray.objectives.flows import path_log_pf
from gfn_ray.packing.forward import LegalTokens, tree_log_probs
from gfn_ray.packing.prefix_tree import PrefixTree, shared_length
from gfn_ray.support import Support
from gfn_ray.trajectory import IntArray, Trajectory


@dataclass(frozen=True)
class TrajectoryGroup:
    """Trajectories of one query, with the prompt that the policy reads."""

    prompt_ids: IntArray
    trajectories: list[Trajectory]

    @property
    def packed_tokens(self) -> int:
        """Upper bound on the group's nodes, before any prefixes are shared."""
        return len(self.prompt_ids) + sum(len(t) for t in self.trajectories)


@dataclass(frozen=True)
class LogQ:
    """Rows are trajectories, in the order of the groups.

    log_pf [B, T]: log q(z_k | s_{k-1}), 0 at padding and tool tokens.
    log_stop [B, T+1]: log q(stop | s_t) at terminable prefixes, 0 elsewhere.
    terminable [B, T+1]: the nodes, False at padding. group [B]: index of the query.
    by_policy [B, T]: tokens that the policy wrote, False at padding. lengths [B]: tokens of each z.
    """

    log_pf: Tensor
    log_stop: Tensor
    terminable: Tensor
    group: Tensor
    by_policy: Tensor
    lengths: Tensor

    @property
    def log_q(self) -> Tensor:
        """log q of each whole z, including its stop [B]."""
        ends = self.log_stop.gather(1, self.lengths[:, None])[:, 0]
        return self.log_pf.sum(dim=1) + ends

    @property
    def prefix_log_q(self) -> Tensor:
        """log q of each prefix as a whole z, including its stop [B, T+1]; 0 if not terminable."""
        return torch.where(self.terminable, path_log_pf(self.log_pf) + self.log_stop, 0.0)

    def prefix_matrix(self, values: Sequence[np.ndarray]) -> Tensor:
        """Pads one [T_i+1] array per trajectory to [B, T+1], in log_pf's dtype.

        Zero wherever a prefix is not terminable; non-finite values elsewhere are kept.
        """
        return torch.where(self.terminable, _padded(values, self.log_stop), 0.0)

    def token_matrix(self, values: Sequence[np.ndarray]) -> Tensor:
        """Pads one [T_i] array per trajectory to [B, T], in log_pf's dtype; 0 at padding."""
        return _padded(values, self.log_pf)


def _padded(values: Sequence[np.ndarray], like: Tensor) -> Tensor:
    padded = torch.zeros_like(like)
    for row, array in enumerate(values):
        padded[row, : len(array)] = torch.from_numpy(array).to(padded)
    return padded


def chunks(groups: Sequence[TrajectoryGroup], budget: int) -> Iterator[list[TrajectoryGroup]]:
    """Yields whole groups that fit a token budget together; a larger group goes alone.

    What a prompt shares with the one before it, such as few-shot examples, is counted once.
    """
    chunk: list[TrajectoryGroup] = []
    used = 0
    for group in groups:
        shared = shared_length(chunk[-1].prompt_ids[:-1], group.prompt_ids[:-1]) if chunk else 0
        if chunk and used + group.packed_tokens - shared > budget:
            yield chunk
            chunk, used, shared = [], 0, 0
        chunk.append(group)
        used += group.packed_tokens - shared
    if chunk:
        yield chunk


def log_q(model: Any, groups: Sequence[TrajectoryGroup], support: Support, masks: Tensor) -> LogQ:
    """Computes log q along every trajectory of the groups, in one forward pass.

    masks [M, V]: support.masks on the model's device. Differentiable in the model.
    """
    tree = PrefixTree()
    paths: list[list[int]] = []  # nodes at prefixes 0..T: the prompt's last node, then z
    rows: dict[int, int] = {}
    roots: dict[bytes, int] = {}
    flat = [(group, t) for group in groups for t in group.trajectories]
    for group, trajectory in flat:
        # Each prompt has its own last node: a node of one prompt must not also be a node of
        # another's z, whose legal tokens differ.
        prompt = group.prompt_ids.tobytes()
        if prompt not in roots:
            roots[prompt] = tree.add_prompt(group.prompt_ids)
        root = roots[prompt]
        path = [root, *tree.add_path(trajectory.token_ids, root)]
        rows.update(zip(path, support.mask_rows(trajectory.token_ids).tolist(), strict=True))
        paths.append(path)

    policy_nodes = {
        node
        for path, (_, trajectory) in zip(paths, flat, strict=True)
        for node, by_tool in zip(path[1:], trajectory.tool_mask, strict=True)
        if not by_tool
    }
    stop_ids = torch.as_tensor(support.stop_ids, device=masks.device).long()
    # If only stopping is legal, as at the longest z, log q(stop) = 0 without asking the model.
    must_stop = (masks.sum(dim=1) == masks[:, stop_ids].sum(dim=1)).tolist()
    stop_nodes = {
        node
        for path, (_, trajectory) in zip(paths, flat, strict=True)
        for node, may_stop in zip(path, trajectory.terminable, strict=True)
        if may_stop and not must_stop[rows[node]]
    }
    legal = LegalTokens(masks, rows, stop_ids)
    probs = tree_log_probs(
        model, tree, sorted(policy_nodes), legal=legal, stop_nodes=sorted(stop_nodes)
    )

    # Padding points one past the last node, at an appended zero.
    longest = max(len(path) for path in paths)
    padded = np.full((len(paths), longest), len(tree), dtype=np.int64)
    terminable = np.zeros((len(paths), longest), dtype=np.bool_)
    # Per trajectory: a token written by a tool in one may be the policy's in another.
    by_policy = np.zeros((len(paths), longest - 1), dtype=np.bool_)
    for index, (path, (_, trajectory)) in enumerate(zip(paths, flat, strict=True)):
        padded[index, : len(path)] = path
        terminable[index, : len(path)] = trajectory.terminable
        by_policy[index, : len(trajectory)] = ~trajectory.tool_mask
    nodes = torch.as_tensor(padded, device=masks.device)
    is_node = torch.as_tensor(terminable, device=masks.device)
    zero = probs.log_prob.new_zeros(1)
    log_pf = torch.cat([probs.log_prob, zero])[nodes[:, 1:]]
    policys = torch.as_tensor(by_policy, device=masks.device)
    log_pf = log_pf * policys
    log_stop = torch.cat([probs.log_stop, zero])[nodes] * is_node
    sizes = [len(group.trajectories) for group in groups]
    group_of = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(sizes))
    lengths = torch.tensor([len(trajectory) for _, trajectory in flat])
    on_device = (group_of.to(masks.device), policys, lengths.to(masks.device))
    return LogQ(log_pf, log_stop, is_node, *on_device)
