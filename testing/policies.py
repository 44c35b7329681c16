"""Policies on the tiny model, groups that they learn from, and log q by one forward a prefix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM

from gfn_ray.config import LearnerConfig, PolicyConfig, RewardConfig
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.objectives import FlowBatch
from gfn_ray.policy.adapter import add_adapter, read_adapter, write_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.support import Support
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.trajectory import IntArray, Trajectory
from testing.makers import make_trajectory, random_query, random_z

EMPTY = np.zeros(0, dtype=np.int32)


def load(directory: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model.eval().requires_grad_(False)


def job(
    objective: dict[str, Any] | None = None, temperature: float = 1.0, **learner: Any
) -> InfillJob:
    return InfillJob(
        policy=PolicyConfig(lora_rank=8),
        objective={"kind": "subtb", **(objective or {})},
        learner=LearnerConfig(**{"lr": 1e-2, "warmup_steps": 0, **learner}),
        reward=RewardConfig(temperature_start=temperature, temperature_end=temperature),
    )


def lora_trainer(base: Any, config: InfillJob, support: Support) -> PolicyTrainer:
    return PolicyTrainer(add_adapter(base, config.policy, config.seed), config, support)


def write_random_adapter(
    base: Path, directory: Path, seed: int = 0, policy: PolicyConfig | None = None
) -> Path:
    """A trained-looking adapter of the model in `base`, as files: its B are random, not 0."""
    settings = policy or PolicyConfig(lora_rank=8)
    model = add_adapter(load(base), settings, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    directory.mkdir()
    write_adapter(read_adapter(model, 1), directory)
    return directory


def groups_of(
    support: Support, count: int = 4, queries: int = 2, seed: int = 0
) -> list[TrajectoryGroup]:
    """Random z of several lengths, half of them the start of another, and the empty z where the
    support has it; a random reward for each different prefix."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(queries):
        query = random_query(rng, f"q{index}")
        texts: list[IntArray] = []
        while len(texts) < count:
            z = random_z(rng, support)
            ends = np.flatnonzero(support.terminable(z))
            texts += [z, z[: rng.choice(ends[:-1])] if len(ends) > 1 else z]
        if support.min_len == 0:
            texts[0] = EMPTY
        rewards: dict[bytes, float] = defaultdict(lambda: rng.normal(-30, 5))
        scored = [
            make_trajectory(support, query.query_id, z).scored(
                [rewards[z[:t].tobytes()] for t in range(len(z) + 1)]
            )
            for z in texts[:count]
        ]
        made.append(TrajectoryGroup(query.prompt_ids, scored))
    return made


@torch.no_grad()
def log_pf_differences(trainer: PolicyTrainer, group: TrajectoryGroup) -> npt.NDArray[np.float32]:
    """The engine's log q of each token less the learner's, of all z one after another."""
    q = trainer._loss._log_q_of(group)
    rows = zip(group.trajectories, q.log_pf.numpy(), strict=True)
    return np.concatenate([t.sampler_log_pf - row[: len(t)] for t, row in rows])


@torch.no_grad()
def naive_log_probs(
    model: Any, support: Support, prompt: IntArray, trajectory: Trajectory
) -> tuple[list[float], list[float]]:
    """log_pf [T] and log_stop [T+1], masked and renormalised; NaN where z may not stop."""
    tokens, log_pf, log_stop = trajectory.token_ids.tolist(), [], []
    for t in range(len(tokens) + 1):
        logits = model(torch.tensor([[*prompt.tolist(), *tokens[:t]]])).logits[0, -1]
        row = support.mask_row(t, tokens[t - 1] if t else None)
        logits[torch.from_numpy(~support.masks[row])] = -torch.inf
        log_probs = torch.log_softmax(logits.double(), dim=-1)
        stop = torch.logsumexp(log_probs[support.stop_ids.tolist()], dim=0)
        log_stop.append(float(stop) if trajectory.terminable[t] else float("nan"))
        if t < len(tokens):
            log_pf.append(0.0 if trajectory.tool_mask[t] else float(log_probs[tokens[t]]))
    return log_pf, log_stop


def naive_batch(
    model: Any, support: Support, groups: Sequence[TrajectoryGroup], temperature: float
) -> FlowBatch:
    """What a loss should be given, from naive forwards, in float64; NaN where it may not look.

    p_ref is the model itself, and log_z one number: the mean of
    log R/T - log q over all z.
    """
    rows: list[tuple[list[float], list[float], list[float]]] = []
    nodes, written, group_of, ratios = [], [], [], []
    for index, group in enumerate(groups):
        for trajectory in group.trajectories:
            log_pf, log_stop = naive_log_probs(model, support, group.prompt_ids, trajectory)
            rewards = [float(value) / temperature for value in trajectory.log_reward]
            rows.append((log_pf, log_stop, rewards))
            nodes.append(torch.from_numpy(trajectory.terminable))
            written.append(torch.from_numpy(~trajectory.tool_mask))
            group_of.append(index)
            ratios.append(rewards[-1] - sum(log_pf) - log_stop[-1])

    def padded(column: int, filler: float) -> torch.Tensor:
        values = [torch.tensor(row[column], dtype=torch.float64) for row in rows]
        return pad_sequence(values, batch_first=True, padding_value=filler)

    log_pf, log_stop = padded(0, 0.0), padded(1, float("nan"))
    return FlowBatch(
        log_pf=log_pf,
        log_stop=log_stop,
        log_reward=padded(2, float("nan")),
        terminable=pad_sequence(nodes, batch_first=True, padding_value=False),
        group=torch.tensor(group_of),
        by_policy=pad_sequence(written, batch_first=True, padding_value=False),
        temperature=temperature,
        log_z=torch.full((len(rows),), float(np.mean(ratios)), dtype=torch.float64),
        log_pf_reference=log_pf,
        log_stop_reference=log_stop,
    )


def assert_merged(merged, base):
    """A model in the first directory is the one in the other no longer."""
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        one, other = (load(path)(ids).logits for path in (merged, base))
    assert not torch.allclose(one, other, atol=1e-2)
