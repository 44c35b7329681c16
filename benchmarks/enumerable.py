"""A posterior small enough to list: what the learner and the replay buffer make of it, exactly.

A random two-layer Llama over a dozen tokens is policy and reward model; every z of up to
four of eight tokens is a candidate, so p(z | x, y) in proportion to p(x z y)^(1/T) is known to
the last digit. The learner, the objectives, the reward and the replay buffer are gfn_ray's own;
only vLLM and Ray are left out, since drawing four tokens from a toy needs neither.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gfn_ray.config import JobConfig
from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.replay.buffer import ReplayBuffer
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.support import BoundedSupport, Support
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.trajectory import IntArray, Query, Trajectory

BOS, STOP, FIRST = 0, 1, 2  # tokens; content tokens follow
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Toy:
    """One enumerable posterior. seed: of the model and the query, not of the training."""

    tokens: int = 8
    max_len: int = 4
    min_len: int = 1
    seed: int = 0

    @cached_property
    def model(self) -> Any:
        """The frozen LM, far from uniform and dependent on its context."""
        config = LlamaConfig(
            vocab_size=FIRST + self.tokens,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=64,
            tie_word_embeddings=False,
            initializer_range=0.15,
            bos_token_id=BOS,
            eos_token_id=STOP,
            dtype=torch.float32,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return LlamaForCausalLM(config).eval().requires_grad_(False)

    @cached_property
    def support(self) -> Support:
        ids = np.arange(FIRST + self.tokens)
        content = ids >= FIRST
        return BoundedSupport(
            content=content,
            opening=content,
            enders=content,
            stop_ids=np.array([STOP], dtype=np.int32),
            min_len=self.min_len,
            max_len=self.max_len,
        )

    @cached_property
    def query(self) -> Query:
        rng = np.random.default_rng(self.seed)

        def text(length: int) -> IntArray:
            return rng.integers(FIRST, FIRST + self.tokens, length).astype(np.int32)

        x = np.concatenate([[np.int32(BOS)], text(5)])
        return Query("toy", prompt_ids=x, context_ids=x, answer_ids=text(3))

    @cached_property
    def outcomes(self) -> list[Trajectory]:
        """Every z, scored with its untempered log R."""
        content = range(FIRST, FIRST + self.tokens)
        texts = itertools.chain.from_iterable(
            itertools.product(content, repeat=n) for n in range(self.min_len, self.max_len + 1)
        )
        unscored = [
            demonstration_trajectory("toy", np.array(z, dtype=np.int32), self.support)
            for z in texts
        ]
        return self.scored(unscored)

    def scored(self, trajectories: list[Trajectory]) -> list[Trajectory]:
        """log R by the reward that the reward actors run."""
        reward = LikelihoodReward(tokens_per_forward=1024)
        reward.load(lambda: self.model)
        return reward.score([(self.query, t) for t in trajectories])


class ToyRun:
    """One training run on a toy. full: train every weight of the model instead of an adapter."""

    def __init__(self, toy: Toy, config: JobConfig, *, full: bool = False) -> None:
        self.toy = toy
        self._config = config
        base = copy.deepcopy(toy.model)
        model = base.requires_grad_(True) if full else add_adapter(base, config.policy, config.seed)
        self.trainer = PolicyTrainer(model, config, toy.support)
        self.replay = ReplayBuffer(
            config.replay, config.seed, group=config.learner.trajectories_per_query
        )
        self._by_tokens = {t.token_ids.tobytes(): t for t in toy.outcomes}
        self._masks = torch.from_numpy(toy.support.masks)
        self._rng = np.random.default_rng([config.seed, 0])
        self._generator = torch.Generator().manual_seed(config.seed)
        self.trajectories = 0

    def update(self) -> None:
        """Draw a group, half of it tempered; store it; learn from a batch of the replay."""
        count = self._config.sampler.trajectories_per_query
        low, high = self._config.sampler.temperature_low, self._config.sampler.temperature_high
        temperatures = self._rng.uniform(low, high, count)
        temperatures[: count // 2] = 1.0
        drawn = self._draw(temperatures)
        self.trajectories += count
        self.replay.add([self._by_tokens[tokens.tobytes()] for tokens in drawn])
        batch = self.replay.sample(1, self._config.learner.trajectories_per_query, 0)
        assert batch is not None
        self.trainer.step([TrajectoryGroup(self.toy.query.prompt_ids, batch.trajectories)])

    def metrics(self) -> dict[str, float]:
        """Exact distances of the policy to the posterior at the final reward temperature."""
        outcomes = self.toy.outcomes
        # By first token, so that each forest is a branch of the whole tree.
        branches = itertools.groupby(
            sorted(outcomes, key=lambda t: t.token_ids.tolist()),
            key=lambda t: t.token_ids[:1].tolist(),
        )
        groups = [TrajectoryGroup(self.toy.query.prompt_ids, list(ts)) for _, ts in branches]
        scores = self.trainer.score(groups)
        flat = [t for group in groups for t in group.trajectories]
        log_reward = np.array([t.final_log_reward for t in flat], dtype=np.float64)
        log_target = log_reward / self._config.reward.temperature_end + scores.log_reference
        return ExactComparison.unnormalised(log_target, scores.log_q).metrics()

    @torch.no_grad()
    def _draw(self, temperatures: Array) -> list[IntArray]:
        """One z for each temperature, token by token from the policy's own logits."""
        support = self.toy.support
        prompt = torch.as_tensor(self.toy.query.prompt_ids).long()
        rows: list[list[int]] = [[] for _ in temperatures]
        running = list(range(len(rows)))
        while running:
            ids = torch.stack([torch.cat([prompt, torch.tensor(rows[r]).long()]) for r in running])
            logits = self.trainer.model(ids).logits[:, -1]
            last = [rows[r][-1] if rows[r] else None for r in running]
            kinds = [support.mask_row(ids.shape[1] - len(prompt), token) for token in last]
            logits = logits.masked_fill(~self._masks[kinds], -torch.inf)
            heat = torch.as_tensor(temperatures[running], dtype=logits.dtype)[:, None]
            probabilities = torch.softmax(logits / heat, dim=-1)
            drawn = torch.multinomial(probabilities, 1, generator=self._generator)[:, 0].tolist()
            for row, token in zip(running, drawn, strict=True):
                if token != STOP:
                    rows[row].append(token)
            running = [r for r, token in zip(running, drawn, strict=True) if token != STOP]
        return [np.array(row, dtype=np.int32) for row in rows]
