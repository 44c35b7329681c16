"""Figures of a GPU: what packing into blocks brings there to the learner and to the reward.

The model has the shape of a 7B Llama and random weights in bfloat16, LoRA rank 16; time does not
ask what it says. 256 z of 4 to 20 tokens, which may stop after each, on 16 prompts of 60 tokens
with answers of 15. Against ours: the same forest under a dense mask, and no forest at all, each
path a row of padded batches of 16. On a machine without a GPU there are no such figures.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from gfn_ray.config.sections import LearnerConfig, PolicyConfig, RewardConfig
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.packing.forward import Ways, attends_in_blocks, read_by
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.support import BoundedSupport
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.tasks.infill.config import InfillConfig, InfillJob
from gfn_ray.trajectory import Query, Trajectory
from measure import Figure, seconds, side_by_side

DEVICE = "cuda"
VOCABULARY = 32_000
SHAPE = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
LAYERS, QUICK_LAYERS = 32, 2
PROMPTS, PER_PROMPT = 16, 16
PROMPT, ANSWER, SHORTEST, LONGEST = 60, 15, 4, 20
PACKED, BY_PATH = Ways(trees=True, plain_head=True), Ways(trees=False, plain_head=True)
OTHERS = {"dense mask": PACKED, "padded paths": BY_PATH}
# Tree tokens of one forward and backward. By path, a prompt at a time: 80 GiB hold no more.
BUDGETS = {PACKED: 8192, BY_PATH: 256}


class GpuBench:
    """quick: two layers instead of 32."""

    def __init__(self, rounds: int, quick: bool) -> None:
        self._rounds = rounds
        self._layers = QUICK_LAYERS if quick else LAYERS

    def figures(self) -> dict[str, Callable[[], Figure]]:
        if not torch.cuda.is_available():
            return {}
        return {
            f"gpu, {what}, {other}": partial(self._compare, f"gpu, {what}, {other}", work, ways)
            for what, work in (("update", self._update), ("reward", self._score))
            for other, ways in OTHERS.items()
        }

    def _compare(self, name: str, work: Callable[[Ways], object], other: Ways) -> Figure:
        def by(ways: Ways, in_blocks: bool) -> Callable[[], float]:
            def run() -> None:
                read_by(self._model, ways, in_blocks=in_blocks)
                work(ways)
                torch.cuda.synchronize()

            return seconds(run)

        return side_by_side(name, by(PACKED, True), by(other, False), rounds=self._rounds, unit="s")

    def _update(self, ways: Ways) -> None:
        by_prompt = zip(self._queries, self._scored, strict=True)
        self._trainers[ways].step([TrajectoryGroup(query.prompt_ids, z) for query, z in by_prompt])

    def _score(self, _: Ways) -> None:
        by_prompt = zip(self._queries, self._scored, strict=True)
        self._reward.score([(query, z) for query, group in by_prompt for z in group])

    @cached_property
    def _model(self) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCABULARY, num_hidden_layers=self._layers, dtype=torch.bfloat16, **SHAPE
        )
        with torch.device(DEVICE):
            base = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
        base.eval().requires_grad_(False)
        model = add_adapter(base, PolicyConfig(lora_rank=16), seed=0)
        if not attends_in_blocks(model):
            raise RuntimeError("nothing to compare: no attention in blocks here")
        return model

    @cached_property
    def _trainers(self) -> dict[Ways, PolicyTrainer]:
        def trainer(budget: int) -> PolicyTrainer:
            config = InfillJob(
                task=InfillConfig(terminable="every", min_len=SHORTEST, max_len=LONGEST),
                learner=LearnerConfig(lr=1e-7, warmup_steps=0, tokens_per_forward=budget),
                reward=RewardConfig(temperature_start=1.0, temperature_end=1.0),
            )
            return PolicyTrainer(self._model, config, self._support)

        return {ways: trainer(budget) for ways, budget in BUDGETS.items()}

    @cached_property
    def _reward(self) -> LikelihoodReward:
        reward = LikelihoodReward(BUDGETS[PACKED])
        reward.load(lambda: self._model)
        return reward

    @cached_property
    def _support(self) -> BoundedSupport:
        legal = np.arange(VOCABULARY) > 0
        return BoundedSupport(
            content=legal,
            opening=legal,
            enders=legal,
            stop_ids=np.array([0], dtype=np.int32),
            min_len=SHORTEST,
            max_len=LONGEST,
        )

    @cached_property
    def _queries(self) -> list[Query]:
        rng = np.random.default_rng(0)
        return [
            Query(f"q{number}", *(_tokens(rng, count) for count in (PROMPT, PROMPT, ANSWER)))
            for number in range(PROMPTS)
        ]

    @cached_property
    def _scored(self) -> list[list[Trajectory]]:
        rng = np.random.default_rng(1)
        return [
            [
                demonstration_trajectory(
                    query.query_id, _tokens(rng, length), self._support
                ).scored(rng.normal(-30.0, 5.0, length + 1))
                for length in rng.integers(SHORTEST, LONGEST + 1, PER_PROMPT)
            ]
            for query in self._queries
        ]


def _tokens(rng: np.random.Generator, count: int) -> Any:
    return rng.integers(1, VOCABULARY, count).astype(np.int32)
