"""Does all this work on the GPU of this machine? Eight minutes at most.

    make gpu-smoke
    make gpu-smoke ARGS="--device cpu"      # what it checks, without a GPU

Learner and reward on the embedded model against the same on the CPU in float32; their speed on
packed trees; then a whole run of infilling with vLLM, whose engine must agree with the learner.
Prints a line a check, with its seconds, and ends with 1 if one fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench_gpu import GpuBench
from gfn_ray.cli import parse
from gfn_ray.config import ModelConfig
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.models.loading import load_causal_lm, load_tokenizer, resolve_model, vocab_size
from gfn_ray.policy.adapter import add_adapter, read_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.tasks.demonstrations import demonstration_trajectories
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.infill.task import InfillTask

ROOT = Path(__file__).resolve().parents[1]
QUERIES, UPDATES = 4, 3
# In float32 on both. A GPU adds up in another order, and an update passes that on.
REWARD_TOLERANCE, LOG_Q_TOLERANCE, ADAPTER_TOLERANCE = 2e-2, 2e-2, 2e-2
# Of a run whose engine computes in bfloat16: some tenths of a nat a z.
MISMATCH, MOST_MISMATCH = "policy/mismatch_kl", 1.0
RUN_LIMIT_S = 300.0


@dataclass(frozen=True)
class Learned:
    """log_reward, log_q: of each whole z, in nats. adapter: all of its weights in a row."""

    log_reward: np.ndarray[Any, Any]
    log_q: np.ndarray[Any, Any]
    adapter: np.ndarray[Any, Any]


class Smoke:
    def __init__(self, device: str, model: str) -> None:
        self._device = device
        self._model = model
        self.failed = 0

    def check(self, name: str, work: Callable[[], str]) -> None:
        """Prints what a check found; counts it if it raised."""
        began = time.monotonic()
        try:
            found = work()
        except Exception as error:  # whatever it is, the other checks are worth running
            self.failed += 1
            found = f"FAILED: {type(error).__name__}: {str(error).splitlines()[0]}"
        print(f"{time.monotonic() - began:6.1f} s  {name}: {found}", flush=True)

    def agrees(self) -> str:
        """Learner and reward on this device and on the CPU, from the same start."""
        there, here = self._learned(self._device), self._learned("cpu")
        worst = {
            "log R": (there.log_reward - here.log_reward, REWARD_TOLERANCE),
            "log q": (there.log_q - here.log_q, LOG_Q_TOLERANCE),
        }
        for what, (off, tolerance) in worst.items():
            if not np.abs(off).max() <= tolerance:
                raise AssertionError(
                    f"{what} is off by {np.abs(off).max():.3g} nats, more than {tolerance:g}"
                )
        off = np.linalg.norm(there.adapter - here.adapter) / np.linalg.norm(here.adapter)
        if not off <= ADAPTER_TOLERANCE:
            raise AssertionError(f"the adapter is off by {off:.3g} of its norm after {UPDATES}")
        shown = ", ".join(f"{what} to {np.abs(off).max():.2g}" for what, (off, _) in worst.items())
        return f"{shown} nats; the adapter to {off:.2g} of its norm after {UPDATES} updates"

    def _learned(self, device: str) -> Learned:
        config = parse(InfillJob, ["--model.name", self._model])
        path = resolve_model(config.model)
        data = InfillTask(config).load(load_tokenizer(path, False), vocab_size(path, False))
        base = load_causal_lm(path, "float32", device, False)
        reward = LikelihoodReward(config.reward.tokens_per_forward)
        reward.load(lambda: base)
        demonstrations = demonstration_trajectories(data.train, data.support)[:QUERIES]
        by_id = {query.query_id: query for query in data.train}
        queries = [by_id[one.query_id] for one in demonstrations]
        scored = reward.score(list(zip(queries, demonstrations, strict=True)))
        # Twice each: the root's flow is a mean over a group.
        groups = [
            TrajectoryGroup(query.prompt_ids, [one, one])
            for query, one in zip(queries, scored, strict=True)
        ]
        model = add_adapter(base, config.policy, config.seed)
        trainer = PolicyTrainer(model, config, data.support)
        for _ in range(UPDATES):
            trainer.step(groups)
        return Learned(
            np.array([one.final_log_reward for one in scored]),
            np.asarray(trainer.score(groups).log_q),
            np.concatenate([a.ravel() for a in read_adapter(model, 0).tensors.values()]),
        )

    def run(self) -> str:
        """A whole run: sampler, reward, replay and learner."""
        with tempfile.TemporaryDirectory() as home:
            settings = {
                "runtime.device": self._device,
                "model.name": self._model,
                "run-dir": f"{home}/run",
                "tracking.uri": f"sqlite:///{home}/mlflow.db",
                "tune-base.steps": 0,
                "sft.steps": 0,
                "steps": 8,
                "eval.queries": 2,
                "eval.samples": 4,
                "eval.diagnostic-queries": 0,
            }
            flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
            done = subprocess.run(
                [sys.executable, str(ROOT / "jobs" / "infill.py"), *flags],
                capture_output=True,
                text=True,
                timeout=RUN_LIMIT_S,
            )
            if done.returncode:
                raise AssertionError(f"exit code {done.returncode}: {done.stderr.strip()[-300:]}")
            summary = json.loads((Path(home) / "run" / "summary.json").read_text())
            rows = [json.loads(line) for line in (Path(home) / "run" / "metrics.jsonl").open()]
        mismatch = max(abs(row[MISMATCH]) for row in rows if MISMATCH in row)
        if not mismatch <= MOST_MISMATCH:
            raise AssertionError(f"engine and learner differ by {mismatch:.3g} nats a z")
        return (
            f"{summary['steps']} updates, {summary['seconds_per_step']:.2f} s each; engine and "
            f"learner differ by {mismatch:.2g} nats a z"
        )


def speed() -> dict[str, Callable[[], str]]:
    """What packing into blocks brings on this GPU, once each and small."""

    def shown(figure: Callable[[], Any]) -> str:
        found = figure()
        return f"{found.ours:.3g} {found.unit}, {found.other:.3g} {found.unit} without"

    figures = GpuBench(rounds=1, quick=True).figures()
    return {name: lambda figure=figure: shown(figure) for name, figure in figures.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--model", default=ModelConfig().name)
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: torch finds no CUDA device; make setup PROFILE=gpu says what is missing, and "
            '--device cpu (ARGS="--device cpu") runs the same checks without one',
            file=sys.stderr,
        )
        return 2
    smoke = Smoke(asked.device, asked.model)
    smoke.check("learner and reward as on the CPU", smoke.agrees)
    for name, work in speed().items():
        smoke.check(name, work)
    smoke.check("a whole run", smoke.run)
    print("all is well" if not smoke.failed else f"{smoke.failed} checks failed")
    return bool(smoke.failed)


if __name__ == "__main__":
    sys.exit(main())
