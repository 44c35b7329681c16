"""The comparison with TRL reads both sides alike, and what it counts is there."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from gfn_ray.config import PolicyConfig
from gfn_ray.models.loading import load_tokenizer
from gfn_ray.rewards.likelihood import LikelihoodReward
from peer.bench_peer import PeerBench
from peer.course import Moment, cost
from peer.posterior_reward import PosteriorReward
from peer.process_tree import MAIN, OTHER, ProcessTree
from peer.trl_updates import Case
from testing.job_runner import ROOT
from testing.makers import make_trajectory, random_query, random_trajectories
from testing.policies import load

SPIN = "import time\nwhile time.process_time() < 1.0: pass"
PARENT = f"""import subprocess, sys
subprocess.run([sys.executable, "-c", {SPIN!r}])
sys.stdin.read()"""
LIMIT = 120


def moment(step, at, memory, **cpu):
    return Moment(at, cpu, memory, {"phase": "train", "step": step})


def test_an_update_costs_the_mean_of_its_window():
    moments = [
        moment(1, 10.0, 900.0, main=5.0),
        moment(2, 13.0, 950.0, main=6.0, Sampler=2.0),
        moment(3, 18.0, 800.0, main=7.0, Sampler=3.0),
    ]
    found = cost(moments, 1, 3)
    assert (found.seconds, found.cpu, found.peak_mib) == (4.0, {"main": 1.0, "Sampler": 1.5}, 950.0)
    assert found.cpu_seconds == 2.5


def test_a_process_that_ended_early_has_no_cost():
    with pytest.raises(RuntimeError, match=r"1 and 3 .* \[1, 2\]"):
        cost([moment(1, 0.0, 1.0), moment(2, 1.0, 1.0)], 1, 3)


def test_a_process_below_another_counts_while_it_runs_and_after():
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE)
    tree, deadline = ProcessTree(process.pid), time.monotonic() + LIMIT
    try:
        while (seen := tree.cpu_seconds().get(OTHER, 0.0)) < 0.3:
            assert time.monotonic() < deadline
        assert tree.memory_mib() > 1
        process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    after = tree.cpu_seconds()
    assert after[OTHER] >= seen and after.keys() == {MAIN, OTHER}


def test_the_reward_for_trl_is_log_r_of_a_whole_z(tiny_dir, support):
    rng, model = np.random.default_rng(3), load(tiny_dir)
    queries = [random_query(rng, name) for name in "ab"]
    queries[1] = replace(queries[1], context_ids=queries[1].context_ids[:4])  # rows are padded
    drawn = [z.token_ids for q in queries for z in random_trajectories(rng, support, q.query_id, 4)]
    of_each = [query for query in queries for _ in range(4)]
    ours = LikelihoodReward(tokens_per_forward=1024)
    ours.load(lambda: model)
    pairs = [
        (query, make_trajectory(support, query.query_id, z))
        for query, z in zip(of_each, drawn, strict=True)
    ]
    expected = [one.log_reward[-1] for one in ours.score(pairs)]
    found = PosteriorReward(model)(
        completion_ids=[z.tolist() for z in drawn],
        context_ids=[query.context_ids.tolist() for query in of_each],
        answer_ids=[query.answer_ids.tolist() for query in of_each],
        prompts=["ignored"] * 8,
    )
    assert np.allclose(found, expected, atol=1e-3)


@pytest.mark.skipif(find_spec("trl") is not None, reason="TRL is installed")
def test_without_trl_there_are_no_such_figures():
    assert PeerBench(rounds=1, quick=True).figures() == {}


@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed")
@pytest.mark.parametrize(("trainer", "reward"), [("RLOO", "posterior"), ("GRPO", "length")])
def test_trl_trains_on_the_prompts_and_reports_each_update(tiny_dir, tmp_path, trainer, reward):
    tokenizer = load_tokenizer(str(tiny_dir), False)
    texts = ["One day, Ann went out.", "It was late."]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    prompts = [
        {"prompt": text, "own_ids": own, "context_ids": own, "answer_ids": own[-3:]}
        for text, own in zip(texts, ids, strict=True)
    ]
    rows, file = tmp_path / "rows.jsonl", tmp_path / "case.json"
    Case(
        trainer=trainer,
        reward=reward,
        model=str(tiny_dir),
        dtype="float32",
        rank=8,
        alpha=16.0,
        targets=PolicyConfig().lora_targets,
        prompts=prompts,
        queries=2,
        per_query=2,
        longest=5,
        lr=1e-3,
        updates=2,
        threads=1,
        rows=str(rows),
    ).write(file)
    said = subprocess.run(
        [sys.executable, "-m", "peer.trl_updates", str(file)],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert said.returncode == 0, said.stderr

    found = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["step"] for row in found] == [1, 2]
    assert all(0 < row["tokens"] <= 5 and row["sampling"] > 0 for row in found)
    assert (found[-1]["rewarding"] > found[0]["rewarding"]) or reward == "length"
