"""A z while it is being written, by the policy and its tools in turn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from gfn_ray.sampling.exploration import ProposalPlan
from gfn_ray.seeds import Stream, generator, seed_of
from gfn_ray.support import Support
from gfn_ray.trajectory import Query, Trajectory


@dataclass
class Draft:
    """token_ids and tool_mask: z so far. log_pf: the engine's log q summed over the policy's
    own tokens. log_stop: of stopping after them; 0 where nothing else is legal and the engine
    is not asked. stopped: the policy chose the terminator. turn: of the policy, from 0."""

    query: Query
    plan: ProposalPlan
    token_ids: list[int] = field(default_factory=list)
    tool_mask: list[bool] = field(default_factory=list)
    log_pf: float = 0.0
    log_stop: float = 0.0
    stopped: bool = False
    turn: int = 0

    def append(self, token_ids: Iterable[int], *, by_tool: bool) -> None:
        tokens = [int(token) for token in token_ids]
        self.token_ids += tokens
        self.tool_mask += [by_tool] * len(tokens)

    @property
    def seed(self) -> int:
        """The plan's for the first turn of the policy; later ones must not repeat its random
        numbers."""
        if self.turn == 0:
            return self.plan.seed
        rng = generator(seed_of(Stream.LATER_TURN, self.plan.seed, self.turn))
        return int(rng.integers(2**31 - 1))

    def trajectory(self, support: Support, version: int) -> Trajectory:
        """The record of the finished z, unscored."""
        tokens = np.array(self.token_ids, dtype=np.int32)
        # Of other proposals the engine's numbers are not log q.
        on_policy = self.plan.proposal == "policy"
        return Trajectory(
            query_id=self.query.query_id,
            token_ids=tokens,
            tool_mask=np.array(self.tool_mask, dtype=np.bool_),
            terminable=support.terminable(tokens),
            policy_version=version,
            proposal=self.plan.proposal,
            temperature=self.plan.temperature,
            epsilon=self.plan.epsilon,
            stopped=self.stopped,
            sampler_log_pf=self.log_pf if on_policy else float("nan"),
            sampler_log_stop=self.log_stop if on_policy else float("nan"),
        )
