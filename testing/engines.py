"""What tests of a sampling engine share: versions far apart, and log q by transformers and PEFT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gfn_ray.config import JobConfig
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.policy.adapter import Adapter, add_adapter, put_adapter, read_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.sampling.backend import SamplerBackend, SampleRequest
from gfn_ray.sampling.exploration import BehaviourPolicy, on_policy_behaviour
from gfn_ray.support import Support
from gfn_ray.trajectory import Query, Trajectory
from testing.policies import load, log_pf_differences


def random_versions(directory: Path, job: JobConfig, count: int = 2) -> list[Adapter]:
    """The untrained adapter of the model in a directory, and some with random B, far apart."""
    model = add_adapter(load(directory), job.policy, job.seed)
    made = [read_adapter(model, 0)]
    torch.manual_seed(1)
    for version in range(1, count + 1):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
        made.append(read_adapter(model, version))
    return made


def requests(queries: Sequence[Query], plans: list[BehaviourPolicy]) -> list[SampleRequest]:
    return [SampleRequest(query, plans) for query in queries]


def sample_version(
    engine: SamplerBackend, adapter: Adapter, queries: Sequence[Query], seed: int = 0
) -> list[Trajectory]:
    engine.load(adapter)
    return engine.sample(requests(queries, on_policy_behaviour(6, np.random.default_rng(seed))))


def policy_of(directory: Path, support: Support, job: JobConfig, adapter: Adapter) -> PolicyTrainer:
    """transformers + PEFT with exactly this adapter's weights."""
    model: Any = add_adapter(load(directory), job.policy, job.seed)
    put_adapter(model, adapter)
    return PolicyTrainer(model, job, support)


def mismatch(
    trajectories: Sequence[Trajectory], queries: Sequence[Query], policy: PolicyTrainer
) -> float:
    """Largest difference between the engine's log q and the learner's, in nats: of each content
    token, and of the whole z with its stop, which two tokens spell here."""
    worst = 0.0
    for query in queries:
        own = [t for t in trajectories if t.query_id == query.query_id]
        group = TrajectoryGroup(query.prompt_ids, own)
        whole = np.array([t.sampler_log_content + t.sampler_log_stop for t in own])
        for differences in (
            log_pf_differences(policy, group),
            whole - policy.score([group]).log_q,
        ):
            worst = max(worst, float(np.abs(differences).max()))
    return worst
