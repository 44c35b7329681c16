"""The whole algorithm in one process and one file: no Ray, no vLLM.

    python docs/examples/loop.py                          # SmolLM2-135M, integers from 0 to 100
    python docs/examples/loop.py --task.high 9 --steps 40

A policy q(z | prompt) learns to write integers in proportion to a reward, here equal for all.
A distributed run does the same: it puts these objects (sampler, reward, replay, learner) into
actors, and gfn_ray/runtime/training/ passes records between them. Settings of actors, such as
--samplers or --resume, have no effect here.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from gfn_ray.cli import main, parse
from gfn_ray.config import LearnerConfig, SamplerConfig
from gfn_ray.errors import RunFailed
from gfn_ray.replay import ReplayBuffer
from gfn_ray.tasks.random_number.config import RandomNumberJob


class Job(RandomNumberJob):
    """The settings of jobs/random_number.py, with as many samples as trajectories per update."""

    steps: int = 60
    sampler: SamplerConfig = SamplerConfig(
        backend="transformers", trajectories_per_query=32, queries_per_call=1
    )
    learner: LearnerConfig = LearnerConfig(
        queries_per_step=1, trajectories_per_query=32, lr=2e-3, lr_end=0.1
    )


def train(config: Job) -> float:
    """Trains, and returns the total variation between policy and target at the end."""
    from gfn_ray.learners.learner import SkippedUpdate
    from gfn_ray.learners.trainer import PolicyTrainer
    from gfn_ray.models import loading
    from gfn_ray.policy.adapter import add_adapter
    from gfn_ray.policy.log_q import TrajectoryGroup
    from gfn_ray.sampling.backend import SampleRequest
    from gfn_ray.sampling.exploration import exploration_behaviours
    from gfn_ray.sampling.transformers_sampler import TransformersSampler
    from gfn_ray.tasks.demonstrations import demonstration_trajectory
    from gfn_ray.tasks.random_number.task import RandomNumberTask

    # The task: one prompt, the support (which tokens z may have), log R, and every possible z.
    path = loading.resolve_model(config.model)
    loading.hide_loading_bars(path)
    tokenizer, size = loading.load_tokenizer(path, False), loading.vocab_size(path, False)
    data = RandomNumberTask(config).load(tokenizer, size)
    (query,), (enumeration,), support = data.train, data.enumerations, data.support
    prompt, every_z, reward = query.prompt_ids, enumeration.outcomes, data.reward

    def model() -> Any:
        return loading.load_causal_lm(path, "float32", "cpu", False)

    # The policy: a LoRA adapter on the model, one copy to train and one to sample from.
    learner = PolicyTrainer(add_adapter(model(), config.policy, config.seed), config, support)
    sampler = TransformersSampler(
        path, support, config.sampler, config.policy, device="cpu", seed=config.seed
    )
    reward.load(model)  # used only with --task.support full, which also asks the frozen model
    per_update = config.learner.trajectories_per_query
    replay = ReplayBuffer(config.replay, config.seed, group=per_update)
    rng = np.random.default_rng(config.seed)

    def total_variation() -> float:
        outcomes = [demonstration_trajectory(query.query_id, z, support) for z in every_z]
        q = np.exp(learner.score([TrajectoryGroup(prompt, outcomes)]).log_q)
        p = np.exp(enumeration.log_reward - np.logaddexp.reduce(enumeration.log_reward))
        return float(0.5 * (np.abs(p - q).sum() + 1 - q.sum()))  # q's mass outside counts, too

    for step in range(1, config.steps + 1):
        # The newest weights; half of the trajectories on policy, half exploring.
        adapter = learner.publish()
        sampler.load(adapter)
        (plans,) = exploration_behaviours(config.sampler, 1, rng)
        drawn = sampler.sample([SampleRequest(query, plans)])
        # log R at every prefix that may stop, then a batch from replay.
        replay.add(reward.score([(query, one) for one in drawn]))
        batch = replay.sample(1, per_update, current_version=adapter.version)
        if batch is None:
            continue
        # One step on the batch's sub-trajectory balance (gfn_ray/objectives).
        update = learner.step([TrajectoryGroup(prompt, batch.trajectories)])
        if isinstance(update, SkippedUpdate):
            raise RunFailed(f"update {step}: {update.reason}; lower --learner.lr")
        if step % 10 == 0:
            loss = update.metrics["loss"]
            print(f"update {step} | loss {loss:.3f} | TV {total_variation():.3f}", flush=True)
    return total_variation()


def loop() -> int:
    print(f"total variation {train(parse(Job, prog='docs/examples/loop.py')):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(loop))
