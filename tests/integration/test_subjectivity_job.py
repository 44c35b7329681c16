"""The subjectivity job, end to end on real parts: two rounds of EM through two reward actors."""

import json

import numpy as np
import pytest

from job_runner import mlflow_run, run, summary, tiny_flags
from refusals import check, contents, put

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

BASELINES = ["zero-shot", "4-shot", "tuned on labels"]
QUALITY = {"accuracy", "auc", "log_loss", "ece"}


@pytest.fixture(scope="module")
def finished(tiny_dir, tmp_path_factory):
    """One finished run: its home and what it printed."""
    home = tmp_path_factory.mktemp("finished")
    flags = tiny_flags(
        tiny_dir,
        home,
        steps=5,
        reward_actors=2,
        task__labels=4,
        task__max_len=10,
        task__calibration_rows=6,
        em__rounds=2,
        em__m_steps=6,
        em__m_lr="5e-3",
        em__samples=2,
        eval__queries=12,
    )
    code, out, err = run(flags, home, "subjectivity")
    assert code == 0, err
    return home, out


def rows(home, phase):
    lines = [json.loads(line) for line in (home / "run" / "metrics.jsonl").open()]
    return [line for line in lines if line["phase"] == phase]


def test_every_round_trains_the_policy_for_its_share_and_then_tunes_the_labels(finished):
    home, _ = finished
    written = summary(home)
    assert written["steps"] == 5
    m_steps = rows(home, "m-step")
    assert [(row["round"], row["step"]) for row in m_steps] == [(1, 2), (2, 5)]
    assert all(np.isfinite(row["m_step/loss"]) for row in m_steps)
    assert [row["step"] for row in rows(home, "train")] == [1, 2, 3, 4, 5]


def test_an_m_step_leaves_replay_empty(finished):
    """The first batch after it is drawn from less than the last one before."""
    train = rows(finished[0], "train")
    assert train[2]["train/replay_inserted"] < train[1]["train/replay_inserted"] + 8
    assert train[2]["train/replay_size"] <= train[2]["train/trajectories_sampled"] - 8


def test_policy_and_baselines_are_measured_alike(finished):
    written = summary(finished[0])
    assert list(written["baselines"]) == BASELINES
    for metrics in (written["before"], written["after"], *written["baselines"].values()):
        assert set(metrics) >= QUALITY
        assert 0 <= metrics["accuracy"] <= 1 and 0 <= metrics["ece"] <= 1
        assert np.isfinite(metrics["log_loss"])
    assert written["after"]["log_loss"] != written["before"]["log_loss"]
    assert 0 <= written["after"]["named_label_fraction"] <= 1


def test_sampler_and_learner_agree_after_the_rounds(finished):
    (after,) = rows(finished[0], "after")
    assert abs(after["policy/mismatch_kl"]) < 1e-3


def test_the_label_adapter_is_stored_and_has_been_tuned(finished):
    from safetensors.numpy import load_file

    tensors = load_file(finished[0] / "run" / "label_adapter" / "adapter_model.safetensors")
    assert any(np.any(array) for name, array in tensors.items() if "lora_B" in name)


def test_the_report_and_mlflow_have_the_baselines_and_the_curve(finished):
    from mlflow import MlflowClient

    home, out = finished
    lines = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("| ")]
    assert [name for name in lines if name in BASELINES] == BASELINES
    assert "accuracy by number of rationales averaged over: 1: " in out
    assert "baseline/tuned on labels/accuracy" in mlflow_run(home).data.metrics
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    artifacts = {file.path for file in client.list_artifacts(summary(home)["mlflow_run_id"])}
    assert {"accuracy.png", "accuracy.svg"} <= artifacts


def test_bad_data_ends_the_job_before_it_has_started_or_written_anything(tiny_dir, tmp_path):
    put(tmp_path / "data", '{"text": "A man rows home.", "label": 2}\n')
    before = contents(tmp_path)
    flags = ["--data.path", "data", "--model.name", str(tiny_dir)]
    code, _, err = run(flags, tmp_path, "subjectivity")
    check(code, err, ["data, line 1, label: expected 0 (objective) or 1 (subjective), got 2"])
    left = contents(tmp_path)
    assert {name: left.pop(name) for name in ("out", "err")}
    assert left == before
