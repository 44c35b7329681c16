"""A z while policy and tool write it in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gfn_ray.sampling.exploration import BehaviourPolicy
from gfn_ray.seeds import Stream, generator, seed_of
from gfn_ray.support import Support
from gfn_ray.trajectory import Query, Trajectory


@dataclass
class PartialSequence:
    """token_ids, tool_mask, log_pf: z so far, whether a tool wrote each token, and the engine's
    log q of it, 0 for a tool's. log_stop: log q of stopping after them; 0 if nothing else is legal,
    when the engine is not asked. stopped: the policy chose the terminator. turn: of the policy,
    from 0."""

    query: Query
    plan: BehaviourPolicy
    token_ids: list[int] = field(default_factory=list)
    tool_mask: list[bool] = field(default_factory=list)
    log_pf: list[float] = field(default_factory=list)
    log_stop: float = 0.0
    stopped: bool = False
    turn: int = 0

    def append(self, token_ids: Sequence[int], log_pf: Sequence[float]) -> None:
        """Appends tokens that the policy wrote, with the engine's log q of each."""
        self.token_ids += token_ids
        self.tool_mask += [False] * len(token_ids)
        self.log_pf += log_pf

    def append_by_tool(self, token_ids: Sequence[int]) -> None:
        self.token_ids += token_ids
        self.tool_mask += [True] * len(token_ids)
        self.log_pf += [0.0] * len(token_ids)

    @property
    def seed(self) -> int:
        """The plan's seed in the first turn; later turns must not repeat its random numbers."""
        if self.turn == 0:
            return self.plan.seed
        rng = generator(seed_of(Stream.LATER_TURN, self.plan.seed, self.turn))
        return int(rng.integers(2**31 - 1))

    def trajectory(self, support: Support, version: int) -> Trajectory:
        """Returns the finished z as an unscored trajectory."""
        tokens = np.array(self.token_ids, dtype=np.int32)
        # For other proposals, the engine's log-probabilities are not log q.
        on_policy = self.plan.proposal == "policy"
        log_pf = np.array(self.log_pf, dtype=np.float32)
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
            sampler_log_pf=log_pf if on_policy else np.full_like(log_pf, np.nan),
            sampler_log_stop=self.log_stop if on_policy else float("nan"),
        )
