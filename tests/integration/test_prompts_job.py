"""gfn_ray.train in a script, by the installed wheel, end to end on real parts: a function of the
script's beside one of a file, which has a process below the reward actor's; demonstrations in
replay; a support whose z have one node; z of hundreds of tokens, in forward passes of fewer than a
query's z have. No other job has any of these, so none of these promises could be read off another.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import pytest

import gfn_ray
from gfn_ray.cli import parse
from gfn_ray.replay.journal.store import ReplayStore
from gfn_ray.tasks.prompts.config import PromptsJob
from testing.job_runner import LIMIT, ROOT, start, summary, tiny_flags
from testing.tiny import tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]

HELD_OUT, SAMPLES, TEMPERED, CANDIDATES = (13, 14, 15), 3, 2, 2
UPDATES, LONGEST, BUDGET = 4, 512, 1024

# As TRL calls it: a's in a completion. A fourth of the training rows cannot be judged.
REWARD = """
from pathlib import Path

Path(__file__).with_name("imported").touch()


def count_a(prompts, completions, number, **kwargs):
    with Path(__file__).with_name("judged").open("a") as out:
        out.writelines(f"{n}\\n" for n in number)
    if any(n % 4 == 0 for n in number):
        raise ValueError("fours are not judged")
    return [float(text.count("a")) for text in completions]
"""

SCRIPT = """
import sys
from pathlib import Path

import gfn_ray
from gfn_ray.cli import parse
from gfn_ray.tasks.prompts.config import PromptsJob


def one(prompts, completions, **kwargs):
    return [1.0 for _ in completions]


run = gfn_ray.train(
    prompts="train.jsonl", reward=[one, "mine.py:count_a"], config=parse(PromptsJob), task__beta=0.5
)
print("package", Path(gfn_ray.__file__).parent)
print("updates", run.summary["steps"], "adapter", run.adapter.is_dir())
print("texts", [type(z.text).__name__ for z in run.sample("Number 30:", n=2)])
"""


def write(file, numbers):
    rows = [{"prompt": f"Number {n}:", "number": n, "demonstration": " a"} for n in numbers]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def pip(*words):
    subprocess.run([sys.executable, "-m", "pip", *map(str, words)], check=True, timeout=120)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built from a copy and installed by itself outside of the clone."""
    place = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "gfn_ray", place / "clone" / "gfn_ray")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "clone")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, place / "clone")
    (wheel,) = place.glob("*.whl")
    pip("install", "--no-deps", "--target", place / "packages", wheel)
    return place / "packages"


@pytest.fixture(scope="module")
def finished(installed, tmp_path_factory):
    """One finished run: its home and what it printed."""
    home = tmp_path_factory.mktemp("finished")
    model = tiny_model(home / "model", max_position_embeddings=1024)
    (home / "mine.py").write_text(REWARD)
    (home / "script.py").write_text(SCRIPT)
    write(home / "train.jsonl", range(1, 13))
    flags = tiny_flags(
        model,
        home,
        steps=UPDATES,
        sampler__backend="transformers",
        sampler__max_prompt_tokens=40,
        data__test_path=write(home / "test.jsonl", HELD_OUT),
        task__stop="\\n",
        task__max_len=LONGEST,
        task__baselines="best_of",
        eval__samples=SAMPLES,
        eval__tempered_samples=TEMPERED,
        eval__candidates=CANDIDATES,
        learner__queries_per_step=2,
        learner__tokens_per_forward=BUDGET,
        reward__tokens_per_forward=BUDGET,
        replay__seed_demonstrations="true",
        runtime__max_nonfinite_batches=100,
    )
    command = ("env", f"PYTHONPATH={installed}", sys.executable, "script.py")
    process = start(flags, home, command=command)
    try:
        code = process.wait(LIMIT)
    finally:
        process.kill()
    assert code == 0, (home / "err").read_text()
    return home, (home / "out").read_text()


def test_a_script_gets_the_run_that_it_asked_for(finished, installed):
    assert f"package {installed / 'gfn_ray'}" in finished[1]
    assert f"updates {UPDATES} adapter True" in finished[1]
    assert "texts ['str', 'str']" in finished[1]


def test_the_reward_is_measured_before_and_after(finished):
    for metrics in (summary(finished[0])[when] for when in ("before", "after")):
        assert metrics["reward_mean"] >= 1
        assert 0 <= metrics["pass_at_1"] <= metrics["pass_at_k"] <= 1
        assert metrics["log_p_ref_per_token"] < 0
        assert {"majority_at_k", "distinct_correct", "kl_reference", "log_ratio_var"} <= set(
            metrics
        )


def test_a_held_out_sample_is_judged_once(finished):
    """Those of the policy, before and after training, and those that a baseline selects among."""
    judged = Counter(map(int, (finished[0] / "judged").read_text().split()))
    each = 2 * (SAMPLES + TEMPERED) + SAMPLES * CANDIDATES
    assert {n: judged[n] for n in HELD_OUT} == dict.fromkeys(HELD_OUT, each)
    best = summary(finished[0])["baselines"][f"best of {CANDIDATES}"]
    assert best["texts_scored"] == len(HELD_OUT) * SAMPLES * CANDIDATES
    assert best["reward_mean"] >= 1


def test_z_of_hundreds_of_tokens_are_learned_from_in_parts(finished):
    """Of some query they do not fit one forward pass together; test_long_z counts the tokens."""
    copy = shutil.copytree(finished[0] / "run" / "replay", finished[0] / "replay")
    config = parse(PromptsJob, ["--config", str(finished[0] / "run" / "config.toml")])
    store = ReplayStore(
        copy, config.replay, config.seed, group=config.learner.trajectories_per_query
    )
    every = [store.buffer.trajectories_of(f"row-{n}") for n in range(1, 13)]
    store.close()
    lengths = [[len(z) for z in of_query] for of_query in every]
    assert max(map(max, filter(None, lengths))) > 400
    assert max(map(sum, lengths)) > BUDGET == config.learner.tokens_per_forward
    rows = [json.loads(line) for line in (finished[0] / "run" / "metrics.jsonl").open()]
    learned = [row["train/length_mean"] for row in rows if row["phase"] == "train"]
    assert len(learned) == UPDATES and max(learned) > LONGEST / 4


def test_each_query_has_its_own_numbers(finished):
    rows = [json.loads(line) for line in (finished[0] / "run" / "queries.jsonl").open()]
    assert {row["query_id"] for row in rows} == {"test-row-1", "test-row-2", "test-row-3"}
    assert all("pass_at_1" in row for row in rows)


def test_what_the_function_raises_is_a_non_finite_batch_that_names_its_row(finished):
    files = sorted((finished[0] / "run" / "nonfinite_batches").glob("*.json"))
    reasons = {json.loads(file.read_text())["reason"] for file in files}
    assert reasons
    assert all("fours are not judged" in one and "train.jsonl, line " in one for one in reasons)


def test_sampler_and_learner_agree_on_log_q(finished):
    rows = [json.loads(line) for line in (finished[0] / "run" / "metrics.jsonl").open()]
    found = [row["policy/mismatch_kl"] for row in rows if row["phase"] in ("before", "after")]
    assert len(found) == 2 and all(abs(value) < 1e-6 for value in found)


def test_the_report_says_why_the_loss_is_of_whole_completions(finished):
    assert "objective.kind vargrad: a reward function judges whole" in finished[1]


def test_the_adapter_is_served_without_the_users_file(finished):
    home, _ = finished
    (home / "imported").unlink()
    samples = gfn_ray.sample(home / "run" / "adapter", {"prompt": "Number 20:"}, n=2)
    assert len(samples) == 2 and all(1 <= len(one.token_ids) <= LONGEST for one in samples)
    assert not (home / "imported").exists()


def test_the_wheel_has_one_command_for_all_of_it(installed):
    done = subprocess.run(
        [installed / "bin" / "gfn-ray", "--help"],
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "prompts" in done.stdout, done.stderr


def test_the_wheel_has_its_data_and_nothing_else_of_the_clone(installed):
    assert {one.name for one in installed.iterdir() if "dist-info" not in one.name} == {
        "bin",
        "gfn_ray",
    }
    data = {file.name for file in (ROOT / "gfn_ray" / "data").glob("*.csv")}
    assert {file.name for file in (installed / "gfn_ray" / "data").glob("*.csv")} == data
