"""The random number job, end to end on real parts: exact metrics, plots and early stopping."""

import json

import pytest

import gfn_ray
from testing.job_runner import mlflow_run, run, run_make, summary, tiny_number_flags

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

EXACT = {"tv", "kl_uniform_q", "kl_q_uniform", "valid_mass"}


@pytest.fixture(scope="module")
def finished(tiny_dir, tmp_path_factory):
    """A run by `make random-number` that ends once its metric is low enough: its home and what it
    printed."""
    home = tmp_path_factory.mktemp("finished")
    flags = tiny_number_flags(
        tiny_dir,
        home,
        steps=100_000,
        learner__lr="1e-2",
        learner__publish_every=2,  # the learner is ahead of the samplers at odd steps
        eval__every=10,
        stop__metric="tv",
        stop__below=0.2,
    )
    code, out, err = run_make("random-number", flags, home)
    assert code == 0, err
    return home, out


def test_the_policy_comes_close_to_the_uniform_distribution(finished):
    """Ten digits and a 2-layer model: TV falls from .5 and more to below .2 in some 40 updates."""
    home, out = finished
    written = summary(home)
    assert written["before"]["tv"] > 0.4
    assert written["after"]["tv"] < 0.2
    assert written["after"]["valid_mass"] > 0.9
    assert written["ended_by"] == "tv"
    assert written["steps"] <= 200
    assert f"below 0.2: enough after {written['steps']} updates" in out


def test_the_summary_and_mlflow_have_the_exact_metrics(finished):
    home, _ = finished
    assert set(summary(home)["after"]) >= EXACT | {"tempered_ratio_var", "ess_fraction"}
    assert set(mlflow_run(home).data.metrics) >= {f"eval/{name}" for name in EXACT}


def test_evaluations_on_the_way_are_recorded_and_shown(finished):
    home, out = finished
    lines = [json.loads(line) for line in (home / "run" / "metrics.jsonl").open()]
    during = [line["step"] for line in lines if line["phase"] == "during"]
    assert during == list(range(10, summary(home)["steps"] + 1, 10))
    assert out.count("evaluation | tv ") == len(during)
    rows = [json.loads(line) for line in (home / "run" / "diagnostics.jsonl").open()]
    assert {row["phase"] for row in rows} == {"before", "during", "after"}
    assert all(row["samples"] == 32 for row in rows)


def test_the_histogram_is_in_the_run_directory_and_in_mlflow(finished):
    from mlflow import MlflowClient

    home, out = finished
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    artifacts = {file.path for file in client.list_artifacts(summary(home)["mlflow_run_id"])}
    assert {"histogram.png", "histogram.svg"} <= artifacts
    assert (home / "run" / "histogram.png").stat().st_size > 10_000
    assert "most under-weighted integers" in out


def test_predictions_are_shares_of_the_samples_and_follow_the_trained_policy(finished):
    """TV below .2 exactly, so the shares of 256 samples are not far from a tenth each."""
    home, _ = finished
    found = gfn_ray.predict(home / "run" / "adapter", n=256)
    assert len(found.samples) == 256
    weights = dict(found.answers)
    assert set(weights) <= set("0123456789")
    assert sum(weights.values()) + found.unanswered == pytest.approx(1)
    texts = [one.text for one in found.samples]
    assert all(weights[digit] == texts.count(digit) / 256 for digit in weights)
    assert list(weights.values()) == sorted(weights.values(), reverse=True)
    assert 0.5 * sum(abs(weights.get(d, 0) - 0.1) for d in "0123456789") < 0.3


def test_a_policy_gradient_learns_from_the_policys_own_samples_as_they_came(tiny_dir, tmp_path):
    """Its ratios are of what the engine said when it sampled, through reward and replay."""
    flags = tiny_number_flags(
        tiny_dir,
        tmp_path,
        objective__kind="ppo",
        sampler__tempered_fraction=0,
        sampler__epsilon_fraction=0,
        replay__edit_distance="none",
        replay__max_times_sampled=2,
        replay__samples_per_insert=1.5,
        learner__lr="3e-3",
        max_staleness=2,
        eval__every=0,
    )
    flags[flags.index("--steps") + 1] = "60"
    code, _, err = run(flags, tmp_path, "random_number")
    assert code == 0, err
    written = summary(tmp_path)
    assert written["after"]["tv"] < 0.75 * written["before"]["tv"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    updates = [line for line in lines if line["phase"] == "train"]
    assert updates[0]["train/clip_fraction"] == 0, "the policy is still the one that sampled"
    assert any(line["train/clip_fraction"] > 0 for line in updates)
    assert updates[-1]["train/replay_duplicates"] == 0


def test_likelihood_updates_alone_are_a_whole_run(tiny_dir, tmp_path):
    """All ten integers are known: likelihood on them is as good a teacher as the objective."""
    flags = tiny_number_flags(tiny_dir, tmp_path, sft__steps=30, sft__lr="1e-2")
    flags[flags.index("--steps") + 1] = "0"
    code, out, err = run(flags, tmp_path, "random_number")
    assert code == 0, err
    written = summary(tmp_path)
    assert (written["sft_steps"], written["steps"], written["trajectories"]) == (30, 0, 0)
    assert written["after"]["tv"] < 0.5 * written["before"]["tv"]
    assert "SFT 30/30 | loss" in out and "SFT: 30 updates" in out
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert sum(line["phase"] == "SFT" for line in lines) == 30
