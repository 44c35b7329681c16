"""Figures of random numbers: seconds of training until a policy is close to its posterior.

Three ways to train the same policy: gfn_ray's job as a user runs it, through Ray; the same job with
`max_staleness` 0, one update after another; and the textbook in this process. They share
SmolLM2-135M, LoRA rank 16, float32, the trajectories of an update, the learning rate and its
schedule, the target and the support. A seed is a round.

Closeness is total variation to the uniform distribution, with the probability of every integer read
off the policy after every few updates. The clock starts after the evaluation of the untrained
policy and stands still during later ones; gfn_ray's samplers do not, and may draw two calls ahead
meanwhile, as they may at any time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.models.loading import load_causal_lm, load_tokenizer, resolve_model, vocab_size
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.rewards.table import TableReward
from gfn_ray.support import Support
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.random_number.task import RandomNumberTask
from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import Query
from measure import ROOT, Figure, figure
from textbook import Rollout, Textbook

GOALS = (0.1, 0.05)
# Of an update. With the job's own 64, the textbook needs half an hour a seed.
PER_UPDATE = 16
EVERY = 5  # updates between two looks at the policy
STEPS = 300  # over which the learning rate falls, and most that a way may need
QUICK_HIGH = 9  # 0 to 9 instead of 0 to 100, for a quick look
SETTINGS: dict[str, Any] = {
    "steps": STEPS,
    "sampler.trajectories-per-query": PER_UPDATE,
    "learner.trajectories-per-query": PER_UPDATE,
    "replay.min-replay": 4 * PER_UPDATE,  # as many updates' worth as the job has
    # Total variation is exact without samples, so there are as few as can be.
    "eval.samples": 2,
    "eval.tempered-samples": 2,
    "eval.diagnostic-queries": 0,
    "eval.simulated-queries": 0,
    "eval.every": EVERY,
    "stop.metric": "tv",
    "stop.below": min(GOALS),
}
POLL_S = 0.05
LIMIT_S = 3600.0  # longest that a job may take

Reached = dict[float, float]  # training seconds, by goal
Row = dict[str, Any]


class PosteriorBench:
    """All three ways with the same seed in turn, the first of them another each round, whichever
    figure is asked for: what they found is kept for the others."""

    def __init__(self, rounds: int, quick: bool) -> None:
        self._rounds = rounds
        self._high = QUICK_HIGH if quick else RandomNumberJob().task.high

    def figures(self) -> dict[str, Callable[[], Figure]]:
        found = {}
        for goal in GOALS:
            name = f"posterior, TV {goal:g}".replace("0.", ".")
            found[name] = partial(self._figure, name, goal, "textbook")
            name = f"{name}, synchronous"
            found[name] = partial(self._figure, name, goal, "synchronous")
        return found

    def _figure(self, name: str, goal: float, other: str) -> Figure:
        ours = [one["asynchronous"][goal] for one in self._measured]
        theirs = [one[other][goal] for one in self._measured]
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        return figure(name, ours, theirs, ratios, "s")

    @cached_property
    def _measured(self) -> list[dict[str, Reached]]:
        ways = {
            "asynchronous": partial(job, self._high, max_staleness=None),
            "synchronous": partial(job, self._high, max_staleness=0),
            "textbook": partial(by_the_book, self._high),
        }
        found = []
        for seed in range(self._rounds):
            names = sorted(ways, key=lambda name: (list(ways).index(name) - seed) % len(ways))
            found.append({name: ways[name](seed) for name in names})
        return found


def job(high: int, seed: int, max_staleness: int | None) -> Reached:
    """jobs/random_number.py in a process of its own. max_staleness: None for the job's own."""
    settings = SETTINGS | {"task.high": high, "seed": seed}
    if max_staleness is not None:
        settings["max-staleness"] = max_staleness
    with tempfile.TemporaryDirectory() as home:
        settings["run-dir"] = f"{home}/run"
        settings["tracking.uri"] = f"sqlite:///{home}/mlflow.db"
        flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        with Path(home, "out").open("w") as out:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "jobs" / "random_number.py"), *flags],
                cwd=home,
                env={**os.environ, "GFN_RAY_HOME": home},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            found = reached(followed(Path(home, "run", "metrics.jsonl"), process), GOALS)
        finally:
            process.terminate()  # its own end has come before, unless something failed
            process.wait()
        if process.returncode or found.keys() != set(GOALS):
            said = Path(home, "out").read_text()[-2000:]
            raise RuntimeError(f"the job ended with {process.returncode}, at {found}: {said}")
    return found


def followed(file: Path, process: subprocess.Popen[Any]) -> Iterator[tuple[float, Row]]:
    """The rows of a file that a process writes, each with the time at which it was there."""
    deadline = time.monotonic() + LIMIT_S
    seen, ended = 0, False
    while not ended:
        ended = process.poll() is not None  # before the file is read for the last time
        now = time.monotonic()
        if now > deadline:
            raise RuntimeError(f"the job was not done within {LIMIT_S:g} s")
        text = file.read_text() if file.exists() else ""
        whole = text[seen : text.rfind("\n") + 1]
        seen += len(whole)
        yield from ((now, json.loads(line)) for line in whole.splitlines())
        time.sleep(POLL_S)


def reached(rows: Iterable[tuple[float, Row]], goals: Iterable[float]) -> Reached:
    """Seconds of training, without evaluations, after which the total variation was first at or
    below each goal. rows: a run's metrics, with the time of each."""
    wanted, found = list(goals), Reached()
    begun = updated = evaluating = 0.0
    for at, row in rows:
        if row["phase"] == "before":
            begun = at
        elif row["phase"] == "train":
            updated = at
        elif row["phase"] == "during":
            for goal in wanted:
                if row["eval/tv"] <= goal:
                    found.setdefault(goal, updated - begun - evaluating)
            evaluating += at - updated
    return found


def by_the_book(high: int, seed: int) -> Reached:
    """The textbook in this process, with every core."""
    config = RandomNumberJob(task={"high": high}, steps=STEPS)
    path = resolve_model(config.model)
    tokenizer = load_tokenizer(path, False)
    data = RandomNumberTask(config).load(tokenizer, vocab_size(path, False))
    policy = add_adapter(load_causal_lm(path, "float32", "cpu", False), config.policy, seed)
    learner = config.learner
    book = Textbook(
        policy,
        data.reward,
        data.support,
        lr=learner.lr,
        seed=seed,
        pace=partial(pace, config),
        score=partial(listed, support=data.support),
    )
    trainer = PolicyTrainer(policy, config, data.support)  # to read log q off, as the job does
    found, taken = Reached(), 0.0
    for step in range(1, STEPS + 1):
        started = time.perf_counter()
        book.update(data.train, PER_UPDATE, config.reward.temperature_end)
        taken += time.perf_counter() - started
        if step % EVERY == 0:
            distance = total_variation(trainer, data)
            for goal in GOALS:
                if distance <= goal:
                    found.setdefault(goal, taken)
            if len(found) == len(GOALS):
                return found
    raise RuntimeError(f"the textbook had come to {found} only after {STEPS} updates")


def pace(config: RandomNumberJob, step: int) -> float:
    """The learner's learning rate of an update (0-based), as a share of its full size."""
    warm_up = min(1.0, (step + 1) / (config.learner.warmup_steps + 1))
    done = min(1.0, step / (config.steps - 1))
    return warm_up * (1 - done * (1 - config.learner.lr_end))


def listed(reward: TableReward, query: Query, rollout: Rollout, support: Support) -> torch.Tensor:
    """log R [B, T+1] of a table at terminable prefixes, 0 elsewhere."""
    lengths, ids = rollout.lengths.tolist(), rollout.token_ids.numpy().astype("int32")
    written = [z[:length] for z, length in zip(ids, lengths, strict=True)]
    pairs = [(query, demonstration_trajectory(query.query_id, z, support)) for z in written]
    rewards = torch.zeros_like(rollout.log_stop)
    for row, trajectory in enumerate(reward.score(pairs)):
        rewards[row, : len(trajectory) + 1] = torch.from_numpy(trajectory.log_reward)
    return torch.where(rollout.terminable, rewards, 0.0)


def total_variation(trainer: PolicyTrainer, data: TaskData) -> float:
    """Of the policy to the target, exactly."""
    target = data.enumerations[0]
    outcomes = [demonstration_trajectory(target.query_id, z, data.support) for z in target.outcomes]
    scores = trainer.score([TrajectoryGroup(data.train[0].prompt_ids, outcomes)])
    return ExactComparison.unnormalised(target.log_reward, scores.log_q, target.target).tv
