"""Total variation of every objective on an enumerable posterior, over seeds, at equal samples.

    python benchmarks/exactness.py                        # the whole table, some 30 minutes
    python benchmarks/exactness.py --seeds 1 --updates 100 --only subtb

Prints one line a run as it ends, then a Markdown table; --out also keeps the runs as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from enumerable import Toy, ToyRun
from gfn_ray.config import (
    JobConfig,
    LearnerConfig,
    PolicyConfig,
    ReplayConfig,
    RewardConfig,
    SamplerConfig,
)

GROUP = 256  # trajectories drawn, and learned from, in one update
LR = {False: 3e-3, True: 1e-3}  # of an adapter, where it beat 1e-2, and of all weights
LR_END = 0.05
SHARES = (0.25, 0.5, 1.0)  # of the updates, after which the policy is measured

# name: objective, reward temperature, whether every weight is trained
RUNS: dict[str, tuple[dict[str, Any], float, bool]] = {
    "subtb": ({}, 1.0, False),
    "subtb, learned log Z": ({"root_flow": "learned"}, 1.0, False),
    "subtb, terminable root": ({"root_flow": "terminable"}, 1.0, False),
    "subtb, lambda 0.9": ({"subtb_lambda": 0.9}, 1.0, False),
    "db": ({"kind": "db"}, 1.0, False),
    "tb": ({"kind": "tb"}, 1.0, False),
    "tb, learned log Z": ({"kind": "tb", "root_flow": "learned"}, 1.0, False),
    "vargrad": ({"kind": "vargrad"}, 1.0, False),
    "ref_tb": ({"kind": "ref_tb"}, 1.0, False),
    "subtb, all weights": ({}, 1.0, True),
    "subtb, T = 0.5": ({}, 0.5, False),
    "subtb, T = 2": ({}, 2.0, False),
}


def job(name: str, seed: int, updates: int, *, group: int = GROUP) -> JobConfig:
    """Settings of one of RUNS on a toy."""
    objective, temperature, full = RUNS[name]
    return JobConfig(
        steps=updates,
        seed=seed,
        policy=PolicyConfig(lora_rank=8),
        sampler=SamplerConfig(
            trajectories_per_query=group, temperature_low=1.0, temperature_high=2.0
        ),
        reward=RewardConfig(temperature_start=temperature, temperature_end=temperature),
        # The sharper the posterior, the sharper the replay: at T = 0.5, 0.25 ends at TV .07.
        replay=ReplayConfig(
            per_query=5000,
            min_replay=group,
            max_times_sampled=None,
            alpha=1.0 if temperature < 1 else 0.25,
        ),
        objective={"kind": "subtb", **objective},
        learner=LearnerConfig(
            queries_per_step=1,
            trajectories_per_query=group,
            lr=LR[full],
            lr_end=LR_END,
            tokens_per_forward=4096,
        ),
    )


def shortest(name: str) -> int:
    """Tokens of the shortest z: a root that may stop is an empty z that counts."""
    return 0 if RUNS[name][0].get("root_flow") == "terminable" else 1


def measure(name: str, seed: int, updates: int) -> dict[str, Any]:
    """One run: its exact total variation after each share of its updates."""
    toy = Toy(min_len=shortest(name))
    run = ToyRun(toy, job(name, seed, updates), full=RUNS[name][2])
    started, measured = time.perf_counter(), {"0": run.metrics()["tv"]}
    for update in range(1, updates + 1):
        run.update()
        if update in {round(share * updates) for share in SHARES}:
            measured[str(run.trajectories)] = run.metrics()["tv"]
    return {
        "objective": name,
        "seed": seed,
        "tv_after": measured,
        **run.metrics(),
        "seconds": time.perf_counter() - started,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Mean total variation over seeds at each point, and the final one of every seed."""
    points = list(results[0]["tv_after"])
    lines = [
        "| objective | " + " | ".join(f"{int(p):,}" for p in points) + " | each seed |",
        "|---" * (len(points) + 2) + "|",
    ]
    for name in dict.fromkeys(r["objective"] for r in results):
        own = [r for r in results if r["objective"] == name]
        means = [statistics.mean(r["tv_after"][p] for r in own) for p in points]
        finals = ", ".join(f"{r['tv_after'][points[-1]]:.4f}" for r in own)
        lines.append(f"| {name} | " + " | ".join(f"{m:.4f}" for m in means) + f" | {finals} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--only", choices=RUNS, nargs="+", default=list(RUNS))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for seed in range(given.seeds):
        for name in given.only:
            result = measure(name, seed, given.updates)
            results.append(result)
            print(
                f"{name}, seed {seed}: TV {result['tv']} in {result['seconds']:.0f} s", flush=True
            )
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps(result) + "\n")
    print()
    print(table(results))


if __name__ == "__main__":
    main()
