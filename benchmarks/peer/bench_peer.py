"""Figures of gfn_ray's running job beside TRL's RLOO and GRPO trainers.

Both train the same model in float32 with a LoRA of the same rank on the same layers, on infilling's
own prompts, two queries of eight z of at most 20 tokens an update, on all cores; an adapter hardly
changes, so that lengths stay what they are. Ours is `jobs/infill.py` as a user runs it, through
Ray, with sampler, reward and learner at work at the same time; theirs is one process. What an
update takes is read from outside, from all processes of a side (process_tree.py), over a window of
updates in the middle of a run.

Theirs does less in an update and more: z has one reward, either its text's length or, as
"posterior", log p(z answer | context) without the prefixes at which it could have ended, while ours
has the posterior's at each of them; RLOO and GRPO train on each z once, and ours on 1.5 of 1, so
`trajectories` counts those that are new. Ratios above 1 are in our favour.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench_infill import LR, PER_QUERY, QUERIES
from gfn_ray.models.loading import load_tokenizer, resolve_model, vocab_size
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.infill.task import InfillTask
from measure import ROOT, Figure, figure
from peer.course import Cost, Moment, cost, course
from peer.trl_updates import Case

# Kind of trainer and of reward, by the name in a figure.
PEERS = {
    "RLOO": ("RLOO", "length"),
    "GRPO": ("GRPO", "length"),
    "RLOO, posterior": ("RLOO", "posterior"),
}
PROMPTS = 32
# Updates before and in the window. Ours samples 64 z a call, so a window is whole calls.
OURS, OURS_QUICK = (6, 18), (1, 3)
THEIRS, THEIRS_QUICK = (1, 3), (1, 2)
PER_UPDATE = QUERIES * PER_QUERY
FLAGS: dict[str, Any] = {
    "steps": 10_000,  # it is stopped
    "tune-base.steps": 0,
    "sft.steps": 0,
    "replay.seed-demonstrations": "false",
    "learner.lr": LR,
    "learner.dtype": "float32",  # TRL's
    "reward.dtype": "float32",
    "eval.queries": 1,
    "eval.samples": 2,
    "eval.tempered-samples": 2,
    "eval.diagnostic-queries": 0,
    "eval.simulated-queries": 0,
    "checkpoint.every": 10_000,
}
INTERRUPTED = 130  # what a job exits with that was asked to end
ABSENT = (
    "peer: trl is not installed, and make installs it nowhere by itself; to measure it, run "
    ".venv/bin/pip install --no-deps -r requirements/bench.txt"
)


def is_installed() -> bool:
    return find_spec("trl") is not None


@dataclass(frozen=True)
class Side:
    """Of an update. new: z sampled for it. tokens: of such a z, in the mean. sampling, rewarding,
    learning: CPU seconds."""

    cost: Cost
    new: float
    tokens: float
    sampling: float
    rewarding: float
    learning: float


class PeerBench:
    """quick: a few updates of each. Both sides in every round, whoever was first going last next;
    what a round found is kept for all figures of a peer."""

    def __init__(self, rounds: int, quick: bool) -> None:
        self._rounds = rounds
        self._ours, self._theirs = (OURS_QUICK, THEIRS_QUICK) if quick else (OURS, THEIRS)
        self._found: dict[str, list[tuple[Side, Side]]] = {}

    def figures(self) -> dict[str, Callable[[], Figure]]:
        if not is_installed():
            return {}
        lower: dict[str, tuple[str, Callable[[Side], float]]] = {
            "update": ("s", lambda one: one.cost.seconds),
            "CPU": ("s", lambda one: one.cost.cpu_seconds),
            "CPU, sampler": ("s", lambda one: one.sampling),
            "CPU, reward": ("s", lambda one: one.rewarding),
            "CPU, learner": ("s", lambda one: one.learning),
            "memory": ("MiB", lambda one: one.cost.peak_mib),
        }
        higher: dict[str, tuple[str, Callable[[Side], float]]] = {
            "new trajectories": ("1/CPU-s", lambda one: one.new / one.cost.cpu_seconds),
            "new tokens": ("1/CPU-s", lambda one: one.new * one.tokens / one.cost.cpu_seconds),
        }
        found = {}
        for peer in PEERS:
            for what, (unit, value) in {**lower, **higher}.items():
                if what == "CPU, reward" and PEERS[peer][1] == "length":
                    continue  # theirs takes no time
                name = f"peer, {peer}, {what}"
                found[name] = partial(self._figure, name, peer, unit, value, what in higher)
        return found

    def _figure(
        self, name: str, peer: str, unit: str, value: Callable[[Side], float], higher: bool
    ) -> Figure:
        pairs = [(value(ours), value(theirs)) for ours, theirs in self._measured(peer)]
        ours, theirs = zip(*pairs, strict=True)
        ratios = [a / b if higher else b / a for a, b in pairs]
        return figure(name, ours, theirs, ratios, unit)

    def _measured(self, peer: str) -> list[tuple[Side, Side]]:
        if peer not in self._found:
            ours = partial(running_job, *self._ours)
            theirs = partial(self._trl, *PEERS[peer])
            rounds = []
            for number in range(self._rounds):
                if number % 2 == 0:
                    mine, other = ours(), theirs()
                else:
                    other, mine = theirs(), ours()
                rounds.append((mine, other))
            self._found[peer] = rounds
        return self._found[peer]

    def _trl(self, trainer: str, reward: str) -> Side:
        config, first, last = InfillJob(), *self._theirs
        with tempfile.TemporaryDirectory() as home:
            rows = Path(home, "rows.jsonl")
            case = Case(
                trainer=trainer,
                reward=reward,
                model=self._model,
                dtype=config.learner.precision,
                rank=config.policy.lora_rank,
                alpha=config.policy.lora_alpha,
                targets=config.policy.lora_targets,
                prompts=self._prompts,
                queries=QUERIES,
                per_query=PER_QUERY,
                longest=config.task.max_len,
                lr=LR,
                updates=last,
                threads=len(os.sched_getaffinity(0)),
                rows=str(rows),
            )
            case.write(Path(home, "case.json"))
            command = [sys.executable, "-m", "peer.trl_updates", str(Path(home, "case.json"))]
            moments = _followed(command, Path(home), rows, last, stop=False)
        taken = cost(moments, first, last)

        def within(key: str) -> float:
            by_step = {one.row["step"]: one.row[key] for one in moments}
            return float(by_step[last] - by_step[first]) / (last - first)

        sampling, rewarding = within("sampling"), within("rewarding")
        tokens = sum(one.row["tokens"] for one in moments) / len(moments)
        rest = taken.cpu_seconds - sampling - rewarding
        return Side(taken, PER_UPDATE, tokens, sampling, rewarding, rest)

    @cached_property
    def _model(self) -> str:
        return resolve_model(InfillJob().model)

    @cached_property
    def _prompts(self) -> list[dict[str, Any]]:
        tokenizer = load_tokenizer(self._model, False)
        data = InfillTask(InfillJob()).load(tokenizer, vocab_size(self._model, False))
        return [
            {
                "prompt": tokenizer.decode(query.prompt_ids),
                "own_ids": query.prompt_ids.tolist(),
                "context_ids": query.context_ids.tolist(),
                "answer_ids": query.answer_ids.tolist(),
            }
            for query in data.train[:PROMPTS]
        ]


def running_job(first: int, last: int) -> Side:
    """jobs/infill.py with every setting its own but those in FLAGS."""
    with tempfile.TemporaryDirectory() as home:
        settings = FLAGS | {"run-dir": f"{home}/run", "tracking.uri": f"sqlite:///{home}/m.db"}
        flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        command = [sys.executable, str(ROOT / "jobs" / "infill.py"), *flags]
        rows = Path(home, "run", "metrics.jsonl")
        moments = _followed(command, Path(home), rows, last, stop=True)
    taken = cost(moments, first, last)
    replayed = InfillJob().replay.samples_per_insert
    tokens = sum(one.row["train/replay_mean_length"] for one in moments) / len(moments)
    by_role = taken.cpu
    return Side(
        taken,
        PER_UPDATE / replayed,
        tokens + 1,  # TRL counts the stop token, and it takes a forward
        by_role["Sampler"],
        by_role["Reward"],
        by_role["Learner"],
    )


def _followed(command: list[str], home: Path, rows: Path, last: int, stop: bool) -> list[Moment]:
    """The course of a process, which has to end well. stop: whether it is asked to end after the
    last update, as by Ctrl-C."""
    log = home / "out"
    paths = [str(ROOT / "benchmarks"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "GFN_RAY_HOME": str(home), "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        asked = partial(process.send_signal, signal.SIGINT) if stop else lambda: None
        found = course(process, rows, last, asked)
    finally:
        process.terminate()  # its own end has come before, unless something failed
        process.wait()
    if process.returncode != (INTERRUPTED if stop else 0):
        raise RuntimeError(f"{command} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return found
