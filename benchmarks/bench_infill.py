"""Figures of story infilling: a whole update, its reward and its sampling, each against the plain
way to do the same.

Owns the settings that both sides share: SmolLM2-135M, LoRA rank 16, float32 unless a figure asks
for another precision, two queries of eight trajectories, z of 4 to 20 tokens that may stop after
each. Everything runs in this process with as many threads as there are cores; Ray, which would
overlap our stages, is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from gfn_ray.config.sections import DType, LearnerConfig, RewardConfig, SamplerConfig
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.models.loading import load_causal_lm, load_tokenizer, resolve_model, vocab_size
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.rewards.reward import Reward
from gfn_ray.sampling.environment import vllm_environment
from gfn_ray.support import Support
from gfn_ray.tasks.infill.config import InfillConfig, InfillJob
from gfn_ray.tasks.infill.task import InfillTask
from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import Query, Trajectory
from measure import Figure, seconds, side_by_side
from textbook import Textbook, log_reward, roll_out

QUERIES, PER_QUERY = 2, 8
# So small that lengths stay what they are: rounds must not differ in their work.
LR = 1e-7


def settings(dtype: DType = "float32") -> InfillJob:
    return InfillJob(
        task=InfillConfig(
            terminable="every", min_len=4, max_len=20, copy_penalty=0.0, length_prior="none"
        ),
        sampler=SamplerConfig(
            max_batch=256,
            kv_cache_mb=1024,
            tempered_fraction=0.0,
            epsilon_fraction=0.0,
            dtype=dtype,
        ),
        learner=LearnerConfig(lr=LR, warmup_steps=0, tokens_per_forward=1024, dtype=dtype),
        reward=RewardConfig(
            temperature_start=1.0, temperature_end=1.0, tokens_per_forward=1024, dtype=dtype
        ),
    )


class Bench:
    """The parts of both sides, made when a figure first asks for them. dtype: of all models."""

    def __init__(self, rounds: int, dtype: DType = "float32") -> None:
        self._rounds = rounds
        self.config = settings(dtype)
        self._drawn = 0

    def figures(self) -> dict[str, Callable[[], Figure]]:
        """By name, in the order in which they are best measured."""
        return {
            "step": self.step,
            "reward": self.reward,
            **{f"sampler, batch {size}": partial(self.sampler, size) for size in (16, 64, 256)},
        }

    def step(self) -> Figure:
        """Seconds an update on 16 new trajectories: sampling, reward, loss, gradient, optimizer,
        and for ours the new weights' way into the engine."""
        book = Textbook(self._policy(), self.frozen, self.support, lr=LR, seed=0)
        return side_by_side(
            "step",
            seconds(self._our_update),
            # The same queries each time: rounds must not differ in their work.
            seconds(lambda: book.update(self.queries[:QUERIES], PER_QUERY, 1.0)),
            rounds=self._rounds,
            unit="s",
        )

    def reward(self) -> Figure:
        """Seconds to score 16 trajectories at every prefix that may stop."""
        queries = self.queries[:QUERIES]
        groups = self.sampled()
        rollouts = [
            roll_out(
                self.trainer.model,
                query.prompt_ids,
                self.support,
                PER_QUERY,
                torch.Generator(),
                forced=[t.token_ids.tolist() for t in group],
            )
            for query, group in zip(queries, groups, strict=True)
        ]
        pairs = [(q, t) for q, group in zip(queries, groups, strict=True) for t in group]

        def plain() -> None:
            for query, rollout in zip(queries, rollouts, strict=True):
                log_reward(self.frozen, query, rollout)

        return side_by_side(
            "reward",
            seconds(lambda: self.scorer.score(pairs)),
            seconds(plain),
            rounds=self._rounds,
            unit="s",
        )

    def sampler(self, batch: int) -> Figure:
        """Tokens a second of vLLM with our support, against transformers' generate with PEFT, a
        key-value cache and the same longest z, without a support. Eight z a prompt."""
        from gfn_ray.sampling.backend import SampleRequest

        model, queries = self.trainer.model, self.queries[: batch // PER_QUERY]
        pad = self._tokenizer.eos_token_id
        width = max(len(query.prompt_ids) for query in queries)
        rows = [
            np.pad(query.prompt_ids, (width - len(query.prompt_ids), 0), constant_values=pad)
            for query in queries
            for _ in range(PER_QUERY)
        ]
        ids = torch.from_numpy(np.stack(rows)).long()
        mask = torch.stack(
            [
                (torch.arange(width) >= width - len(query.prompt_ids)).long()
                for query in queries
                for _ in range(PER_QUERY)
            ]
        )

        def ours() -> float:
            requests = [SampleRequest(query, self.plans(PER_QUERY)) for query in queries]
            found: list[Trajectory] = []

            def work() -> None:
                found.extend(self.engine.sample(requests))

            taken = seconds(work)()
            return sum(len(t) + 1 for t in found) / taken

        @torch.no_grad()
        def other() -> float:
            lengths: list[int] = []

            def work() -> None:
                out = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=True,
                    min_new_tokens=self.support.max_len,
                    max_new_tokens=self.support.max_len,
                    pad_token_id=pad,
                )
                lengths.append(out.shape[1] - width)

            taken = seconds(work)()
            return len(ids) * lengths[0] / taken

        return side_by_side(
            f"sampler, batch {batch}",
            ours,
            other,
            rounds=self._rounds,
            unit="tokens/s",
            higher_is_better=True,
        )

    @cached_property
    def _path(self) -> str:
        return resolve_model(self.config.model)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._path, False)

    @cached_property
    def _data(self) -> TaskData:
        return InfillTask(self.config).load(self._tokenizer, vocab_size(self._path, False))

    @property
    def queries(self) -> list[Query]:
        return self._data.train

    @property
    def support(self) -> Support:
        return self._data.support

    @cached_property
    def scorer(self) -> Reward:
        reward = self._data.reward
        reward.load(lambda: self.frozen)
        return reward

    @cached_property
    def frozen(self) -> Any:
        return load_causal_lm(self._path, self.config.reward.precision, "cpu", False)

    @cached_property
    def trainer(self) -> PolicyTrainer:
        return PolicyTrainer(self._policy(), self.config, self.support)

    @cached_property
    def engine(self) -> Any:
        os.environ.update(vllm_environment("cpu"))  # before vLLM is imported
        from gfn_ray.sampling.engine import SamplingEngine

        config = self.config
        engine = SamplingEngine(
            self._path, self.support, config.sampler, config.policy, device="cpu", seed=0
        )
        engine.load(self.trainer.publish())
        return engine

    def _policy(self) -> Any:
        base = load_causal_lm(self._path, self.config.learner.precision, "cpu", False)
        return add_adapter(base, self.config.policy, seed=0)

    def _our_update(self) -> None:
        queries = self.queries[:QUERIES]
        pairs = [(q, t) for q, group in zip(queries, self.sampled(), strict=True) for t in group]
        scored = iter(self.scorer.score(pairs))
        groups = [TrajectoryGroup(q.prompt_ids, list(islice(scored, PER_QUERY))) for q in queries]
        self.trainer.step(groups)
        self.engine.load(self.trainer.publish())

    def sampled(self) -> list[list[Trajectory]]:
        """Of each query, in one call of the engine."""
        from gfn_ray.sampling.backend import SampleRequest

        requests = [SampleRequest(q, self.plans(PER_QUERY)) for q in self.queries[:QUERIES]]
        found = iter(self.engine.sample(requests))
        return [list(islice(found, PER_QUERY)) for _ in requests]

    def plans(self, count: int) -> list[Any]:
        from gfn_ray.sampling.exploration import on_policy_behaviour

        self._drawn += 1
        return on_policy_behaviour(count, np.random.default_rng(self._drawn))
