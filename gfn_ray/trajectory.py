"""The records that flow between actors: queries and trajectories.

Defines what a latent text z is. Arrays are numpy; independent of torch, Ray and vLLM.
`storage/trajectories.py` serializes trajectories.

Conventions. z = z_1..z_T are the content tokens of a trajectory; the terminator is
not stored. Prefix t is z_1..z_t, so per-prefix arrays have T+1 entries and entry 0
is the empty prefix.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

Proposal = Literal["policy", "tempered", "epsilon", "seed"]
"""How z was proposed. It never changes log q: SubTB is off-policy."""


@dataclass(frozen=True, eq=False)
class Query:
    """One posterior p(z | query) to sample from.

    prompt_ids: what the policy reads before z. context_ids and answer_ids: what the frozen LM
    scores around z, log p(z answer | context). references: demonstrations, as many as the data
    has. texts: named strings for display and metrics.
    """

    query_id: str
    prompt_ids: IntArray
    context_ids: IntArray
    answer_ids: IntArray
    demonstrations: tuple[IntArray, ...] = ()
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One sampled z with everything that reward, replay and learner need.

    token_ids [T]: content tokens, without the terminator.
    tool_mask [T]: True where a tool, not the policy, wrote the token (log q = 0 there).
    terminable [T+1]: True where the prefix may end; these are the nodes of the loss.
    log_reward [T+1]: untempered log R in nats at terminable prefixes, NaN elsewhere;
        None until a reward actor has scored the trajectory.
    policy_version: adapter version that proposed z (-1: not a policy sample).
    stopped: whether the policy chose the terminator, rather than reaching max_len.
    sampler_log_pf [T]: log q of each content token in nats, by the engine and the policy version
        that sampled it; 0 where a tool wrote the token. NaN if unknown: always, unless `proposal`
        is "policy", because for other proposals the engine reports their own probabilities.
    sampler_log_stop: likewise log q of stopping after them.
    """

    query_id: str
    token_ids: IntArray
    tool_mask: BoolArray
    terminable: BoolArray
    policy_version: int
    proposal: Proposal
    temperature: float
    epsilon: float
    stopped: bool
    sampler_log_pf: FloatArray
    sampler_log_stop: float
    log_reward: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @staticmethod
    def demonstration(
        query_id: str,
        token_ids: IntArray,
        tool_mask: BoolArray,
        terminable: BoolArray,
        *,
        stopped: bool,
    ) -> Trajectory:
        """Makes an unscored z that no policy sampled."""
        return Trajectory(
            query_id=query_id,
            token_ids=token_ids,
            tool_mask=tool_mask,
            terminable=terminable,
            policy_version=-1,
            proposal="seed",
            temperature=1.0,
            epsilon=0.0,
            stopped=stopped,
            sampler_log_pf=np.full(len(token_ids), np.nan, dtype=np.float32),
            sampler_log_stop=float("nan"),
        )

    @property
    def sampler_log_content(self) -> float:
        """The sum of sampler_log_pf, in nats: the engine's log q of z, without the stop."""
        return float(self.sampler_log_pf.sum(dtype=np.float64))

    @property
    def final_log_reward(self) -> float:
        """Untempered log R of the whole z, in nats."""
        if self.log_reward is None:
            raise ValueError(f"trajectory of query {self.query_id!r} has not been scored yet")
        return float(self.log_reward[-1])

    @property
    def reward_fault(self) -> str | None:
        """Why a scored trajectory cannot be learned from, as in "log R is nan"; None if it can."""
        if self.log_reward is None:
            raise ValueError(f"trajectory of query {self.query_id!r} has not been scored yet")
        if not self.terminable[-1]:
            return "z ends where it may not stop, so it has no log R"
        values = self.log_reward[self.terminable]
        wrong = values[~np.isfinite(values)]
        return f"log R is {wrong[0]}" if len(wrong) else None

    def scored(self, log_reward: npt.ArrayLike) -> Trajectory:
        """Returns the trajectory with log R [T+1], set to NaN where not terminable. Other NaN or
        infinite values are kept: `reward_fault` reports them."""
        rewards = np.asarray(log_reward, dtype=np.float32)
        if rewards.shape != self.terminable.shape:
            raise ValueError(
                f"log_reward has shape {rewards.shape}, expected {self.terminable.shape}: "
                "one entry per prefix, including the empty one"
            )
        rewards = np.where(self.terminable, rewards, np.float32(np.nan))
        return replace(self, log_reward=rewards)

    def sampled_as(self, other: Trajectory) -> Trajectory:
        """Returns this z and its log R with the other's sampling record. The engine's log q belongs
        to the other's z and is copied only if z is the same."""
        same = np.array_equal(self.token_ids, other.token_ids)
        unknown = np.full(len(self), np.nan, dtype=np.float32)
        return replace(
            self,
            policy_version=other.policy_version,
            proposal=other.proposal,
            temperature=other.temperature,
            epsilon=other.epsilon,
            sampler_log_pf=other.sampler_log_pf if same else unknown,
            sampler_log_stop=other.sampler_log_stop if same else float("nan"),
        )
