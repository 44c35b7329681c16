"""The seconds to a posterior are those of training, and the textbook learns what gfn_ray learns."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bench_posterior import followed, listed, pace, reached
from gfn_ray.config import LearnerConfig
from gfn_ray.rewards.table import TableReward, table_key
from gfn_ray.tasks.random_number.config import RandomNumberJob
from testing.makers import random_query
from testing.policies import load, lora_trainer
from textbook import roll_out


def train(step):
    return {"phase": "train", "step": step}


def during(tv):
    return {"phase": "during", "eval/tv": tv}


def test_evaluations_and_all_before_training_are_not_counted():
    rows = [
        (100.0, {"phase": "before", "eval/tv": 0.01}),
        (103.0, train(1)),
        (110.0, during(0.2)),
        (112.0, train(2)),
        (120.0, during(0.08)),
        (121.0, train(3)),
        (130.0, during(0.04)),
        (132.0, {"phase": "after", "eval/tv": 0.01}),
    ]
    assert reached(rows, (0.1, 0.05, 0.03)) == {0.1: 5.0, 0.05: 6.0}


def test_a_goal_is_reached_when_it_is_first_reached():
    rows = [(0.0, {"phase": "before"})]
    rows += [(float(n), row) for n in (1, 2, 3) for row in (train(n), during(0.09 + 0.01 * n))]
    assert reached(rows, (0.1,)) == {0.1: 1.0}


def test_every_row_of_a_process_is_followed_to_its_end(tmp_path):
    file = tmp_path / "rows"
    write = "import json, sys\nfor n in range(200):\n print(json.dumps({'n': n}), flush=True)"
    with file.open("w") as out:
        process = subprocess.Popen([sys.executable, "-c", write], stdout=out)
        found = list(followed(file, process))
    assert [row["n"] for _, row in found] == list(range(200))
    assert [at for at, _ in found] == sorted(at for at, _ in found)


@pytest.mark.parametrize("lr_end", [1.0, 0.05])
def test_the_textbook_has_the_learners_learning_rate_at_every_update(base, support, lr_end):
    config = RandomNumberJob(steps=20, learner=LearnerConfig(lr_end=lr_end, warmup_steps=5))
    trainer = lora_trainer(base, config, support)
    assert [pace(config, n) for n in range(20)] == [trainer._pace(n) for n in range(20)]


def test_the_textbook_scores_by_the_same_table(tiny_dir, support):
    query = random_query(np.random.default_rng(0), "q")
    generator = torch.Generator().manual_seed(0)
    rollout = roll_out(load(tiny_dir), query.prompt_ids, support, 8, generator)
    z = rollout.token_ids[3, : rollout.lengths[3]].numpy()
    found = listed(TableReward({table_key(z): -1.5}, -10.0), query, rollout, support)
    ends = found.gather(1, rollout.lengths[:, None])[:, 0]
    assert ends[3] == -1.5
    assert set(found[rollout.terminable].tolist()) == {-1.5, -10.0}
    assert not found[~rollout.terminable].any()
