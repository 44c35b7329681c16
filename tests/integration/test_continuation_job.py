"""The continuation job, end to end on real parts: decoders of the frozen LM beside the policy, of a
model that vLLM has no adapter for, so that its engine takes merged weights."""

import json

import pytest

from testing.job_runner import mlflow_run, run, summary, tiny_flags
from testing.tiny import tiny_gpt

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PLAIN = ["tempered 0.7", "nucleus 0.95", "beam", "diverse beam", "greedy"]
SEARCHING = ["best of 2", "resampled from 2", "SMC 2"]
DECODERS = [*PLAIN, *SEARCHING]
METRICS = {
    "log_p_mean",
    "log_p_max",
    "diversity",
    "length_mean",
    "distinct_fraction",
    "stopped_fraction",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One finished run: its home and what it printed."""
    home = tmp_path_factory.mktemp("finished")
    flags = tiny_flags(
        tiny_gpt(home / "gpt2"),
        home,
        policy__lora_targets="all-linear",
        task__temperatures=0.7,
        task__max_len=10,
        task__baselines="tempered,nucleus,beam,diverse_beam,greedy,best_of,resample,smc",
        eval__candidates=2,
        steps=3,
    )
    code, out, err = run(flags, home, "continuation")
    assert code == 0, err
    return home, out


def test_policy_and_decoders_are_measured_alike(finished):
    home, _ = finished
    written = summary(home)
    assert list(written["baselines"]) == DECODERS
    for metrics in (written["before"], written["after"], *written["baselines"].values()):
        assert set(metrics) >= METRICS
        assert metrics["log_p_mean"] <= metrics["log_p_max"]
        assert 4 <= metrics["length_mean"] <= 10


def test_a_merged_sampler_and_the_learner_agree_on_log_q(finished):
    assert "the sampling engine takes the policy as merged weights" in finished[1]
    rows = [json.loads(line) for line in (finished[0] / "run" / "metrics.jsonl").open()]
    found = [row["policy/mismatch_kl"] for row in rows if row["phase"] in ("before", "after")]
    assert len(found) == 2 and all(0 <= value < 1e-6 for value in found)


def test_greedy_is_one_sample_and_beam_search_the_likeliest(finished):
    found = summary(finished[0])["baselines"]
    assert found["greedy"]["diversity"] == 0
    assert found["greedy"]["log_p_mean"] == found["greedy"]["log_p_max"]
    assert found["beam"]["log_p_mean"] > found["tempered 0.7"]["log_p_mean"]
    assert found["beam"]["distinct_fraction"] == 1


def test_decoders_tell_what_they_cost_and_those_that_select_share_their_samples(finished):
    found = summary(finished[0])["baselines"]
    tempered, best, resampled, smc = (found[name] for name in (PLAIN[0], *SEARCHING))
    cost = ("tokens_sampled", "texts_scored")
    assert [best[name] for name in cost] == [resampled[name] for name in cost]
    assert best["tokens_sampled"] > 1.5 * tempered["tokens_sampled"]
    assert tempered["texts_scored"] == 0 < best["texts_scored"] < smc["texts_scored"]
    assert "tokens_sampled" not in found["beam"]  # beams share beginnings


def test_mlflow_and_the_run_directory_have_the_decoders_and_the_plane(finished):
    from mlflow import MlflowClient

    home, _ = finished
    assert "baseline/diverse beam/diversity" in mlflow_run(home).data.metrics
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    artifacts = {file.path for file in client.list_artifacts(summary(home)["mlflow_run_id"])}
    assert {"plane.png", "plane.svg"} <= artifacts
    rows = [json.loads(line) for line in (home / "run" / "samples.jsonl").open()]
    assert {f"baseline/{name}" for name in DECODERS} <= {row["phase"] for row in rows}


def test_the_report_has_a_row_for_each_decoder(finished):
    _, out = finished
    lines = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
    assert [name for name in lines if name in DECODERS] == DECODERS
    assert "GFlowNet (after)" in lines
