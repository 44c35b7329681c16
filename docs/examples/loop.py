"""The whole algorithm in one process and one file: no Ray, no vLLM.

    python docs/examples/loop.py                          # SmolLM2-135M, integers from 0 to 100
    python docs/examples/loop.py --task.high 9 --steps 40

A policy q(z | prompt) learns to write integers in proportion to a reward, here the same for each.
An update is five lines, and so they are in the distributed run: samplers, reward actors, replay
and the learner are these objects, each in an actor of its own, and gfn_ray/runtime/training/
hands the records on between them.
"""

from __future__ import annotations

import sys

import numpy as np

from gfn_ray.cli import main, parse
from gfn_ray.config import LearnerConfig, RandomNumberJob, SamplerConfig
from gfn_ray.replay import ReplayBuffer

GROUP = 32  # trajectories sampled, and learned from, in an update


class Job(RandomNumberJob):
    """The settings of jobs/random_number.py, for updates that sample as much as they learn from."""

    steps: int = 60
    sampler: SamplerConfig = SamplerConfig(
        backend="transformers", trajectories_per_query=GROUP, queries_per_call=1
    )
    learner: LearnerConfig = LearnerConfig(
        queries_per_step=1, trajectories_per_query=GROUP, lr=2e-3, lr_end=0.1
    )


def train(config: Job) -> float:
    """The total variation between policy and target at the end."""
    from gfn_ray.learners.trainer import PolicyTrainer
    from gfn_ray.models.loading import load_causal_lm, load_tokenizer, resolve_model, vocab_size
    from gfn_ray.policy.adapter import add_adapter
    from gfn_ray.policy.log_q import TrajectoryGroup
    from gfn_ray.sampling.backend import SampleRequest, start_backend
    from gfn_ray.sampling.exploration import exploration_plans
    from gfn_ray.tasks.random_number.task import RandomNumberTask
    from gfn_ray.tasks.references import known_trajectory

    # The task: one prompt, which tokens z may have, log R of every z, and all z there are.
    path = resolve_model(config.model)
    data = RandomNumberTask(config).load(load_tokenizer(path, False), vocab_size(path, False))
    (query,), (enumeration,), support = data.train, data.enumerations, data.support
    prompt, every_z = query.prompt_ids, enumeration.outcomes

    # The policy: a LoRA adapter on the model, once to be trained and once to be sampled from.
    model = add_adapter(load_causal_lm(path, "float32", "cpu", False), config.policy, config.seed)
    learner = PolicyTrainer(model, config, support)
    sampler = start_backend(config, path, support, device="cpu", tool=None)
    replay = ReplayBuffer(config.replay, config.seed, group=GROUP)
    rng = np.random.default_rng(config.seed)

    def total_variation() -> float:
        outcomes = [known_trajectory(query.query_id, z, support) for z in every_z]
        q = np.exp(learner.score([TrajectoryGroup(prompt, outcomes)]).log_q)
        p = np.exp(enumeration.log_reward - np.logaddexp.reduce(enumeration.log_reward))
        return float(0.5 * (np.abs(p - q).sum() + 1 - q.sum()))  # what q writes besides counts, too

    for step in range(1, config.steps + 1):
        # The newest weights, and trajectories by them: most of q itself, some more adventurous.
        sampler.load(learner.publish())
        (plans,) = exploration_plans(config.sampler, 1, rng)
        drawn = sampler.sample([SampleRequest(query, plans)])
        # log R at every prefix that may stop, and a batch of what is known by now.
        replay.add(data.reward.score([(query, one) for one in drawn]))
        batch = replay.sample(1, GROUP, current_version=step)
        if batch is None:
            continue
        # One step on the subtrajectory balance of the batch (gfn_ray/objectives).
        update = learner.step([TrajectoryGroup(prompt, batch.trajectories)])
        if step % 10 == 0:
            loss = update.metrics["loss"]
            print(f"update {step} | loss {loss:.3f} | TV {total_variation():.3f}", flush=True)
    return total_variation()


def loop() -> int:
    print(f"total variation {train(parse(Job, prog='docs/examples/loop.py')):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(loop))
