"""The real learner, reward and replay reach a posterior that can be listed."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import exactness
from enumerable import Toy, ToyRun
from exactness import RUNS, job, shortest, table
from gfn_ray.config import RewardConfig

UPDATES, GROUP = 150, 64
SLOWER = {"subtb, lambda 0.9", "db", "tb"}  # like their neighbours here; tested by definition


@pytest.fixture(autouse=True)
def one_thread():
    """A toy is too small to share out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(min_len=1):
    """84 texts of up to three of four tokens."""
    return Toy(tokens=4, max_len=3, min_len=min_len)


def trained(name, **changes):
    """The total variation before, and the run after, a few seconds of one of RUNS."""
    settings = job(name, seed=0, updates=UPDATES, group=GROUP).model_copy(update=changes)
    run = ToyRun(small(shortest(name)), settings, full=RUNS[name][2])
    before = run.metrics()["tv"]
    for _ in range(UPDATES):
        run.update()
    return before, run


@pytest.mark.parametrize("name", [name for name in RUNS if name not in SLOWER])
def test_every_objective_brings_the_policy_to_its_posterior(name):
    """The benchmark's targets are stricter, and it takes the time to reach them."""
    before, run = trained(name)
    assert before > 0.3
    assert run.metrics()["tv"] < 0.16


def test_the_policy_of_one_temperature_is_not_the_posterior_of_another():
    _, run = trained("subtb, T = 0.5")
    cold = run.metrics()["tv"]
    hot = RewardConfig(temperature_start=2.0, temperature_end=2.0)
    run._config = run._config.model_copy(update={"reward": hot})
    assert run.metrics()["tv"] > cold + 0.2


def test_annealing_the_temperature_ends_at_the_last_one_and_changes_nothing_stored():
    stored = {t.token_ids.tobytes(): t.log_reward.copy() for t in small().outcomes}
    annealed = RewardConfig(temperature_start=2.0, temperature_end=0.5, temperature_steps=40)
    _, run = trained("subtb, T = 0.5", reward=annealed)
    assert run.metrics()["tv"] < 0.16
    held = run.replay.trajectories_of("toy")
    assert len(held) > 60
    for trajectory in held:
        kept = stored[trajectory.token_ids.tobytes()]
        assert np.array_equal(trajectory.log_reward, kept, equal_nan=True)


def test_the_listed_posterior_is_the_frozen_models_own():
    """Against a plain forward of x z y, for a few z."""
    toy = small()
    query = toy.query
    for trajectory in toy.outcomes[::17]:
        ids = torch.tensor([[*query.context_ids, *trajectory.token_ids, *query.answer_ids]]).long()
        with torch.no_grad():
            log_probs = torch.log_softmax(toy.model(ids[:, :-1]).logits[0], dim=-1)
        scored = range(len(query.context_ids), ids.shape[1])
        expected = sum(float(log_probs[k - 1, ids[0, k]]) for k in scored)
        assert trajectory.final_log_reward == pytest.approx(expected, abs=1e-4)


def test_the_table_has_a_row_for_each_objective_and_a_mean_over_seeds():
    results = [
        {"objective": "tb", "seed": seed, "tv_after": {"0": 0.5, "256": tv}}
        for seed, tv in enumerate((0.1, 0.3))
    ]
    assert table(results).splitlines()[-1] == "| tb | 0.5000 | 0.2000 | 0.1000, 0.3000 |"


def test_the_benchmark_runs_from_the_command_line_and_keeps_its_runs(tmp_path):
    out = tmp_path / "runs.jsonl"
    command = [sys.executable, exactness.__file__, "--seeds", "1", "--updates", "4"]
    done = subprocess.run(
        [*command, "--only", "tb", "--out", str(out)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (kept,) = [json.loads(line) for line in out.open()]
    assert list(kept["tv_after"]) == ["0", "256", "512", "1024"]
    assert f"| tb | {kept['tv_after']['0']:.4f} |" in done.stdout
