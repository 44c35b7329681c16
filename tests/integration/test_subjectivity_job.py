"""The subjectivity job, end to end on real parts: two rounds of EM through two reward actors."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

import gfn_ray
from gfn_ray.errors import UserError
from gfn_ray.runs.published import newest_complete
from gfn_ray.storage.serialization import unpack
from testing.job_runner import mlflow_run, run, summary, tiny_flags

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

BASELINES = ["zero-shot", "4-shot", "tuned on labels"]
SENTENCE = {"text": "A slow film that I would gladly see again."}
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
        checkpoint__every=6,
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


def test_a_run_goes_on_after_its_last_m_step_and_not_before_it(finished, tmp_path):
    """Else replay, which is not put back, would hold rewards of a label model that is lost."""
    run_dir = Path(shutil.copytree(finished[0] / "run", tmp_path / "run"))
    checkpoints = run_dir / "checkpoints"
    after_round = {path: unpack((path / "training").read_bytes()) for path in checkpoints.iterdir()}
    done = {path.name: training["schedule"]["done"] for path, training in after_round.items()}
    assert done == {"step-000002": 1, "step-000005": 2}
    for path, training in after_round.items():
        known = (run_dir / "metrics.jsonl").read_bytes()[: training["files"]["metrics.jsonl"]]
        m_steps = [row for row in map(json.loads, known.splitlines()) if row["phase"] == "m-step"]
        assert m_steps[-1]["round"] == done[path.name]

    shutil.rmtree(checkpoints / "step-000005")
    (run_dir / "summary.json").unlink()
    again = ["--resume", str(run_dir), "--tracking.uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    (run_dir / "tracking.json").unlink()
    code, out, err = run(again, tmp_path, "subjectivity")
    assert code == 0, err
    assert "resuming after update 2" in out
    assert [(row["round"], row["step"]) for row in rows(tmp_path, "m-step")] == [(1, 2), (2, 5)]
    assert [row["step"] for row in rows(tmp_path, "train")] == [1, 2, 3, 4, 5]


def test_policy_and_baselines_are_measured_alike(finished):
    written = summary(finished[0])
    assert list(written["baselines"]) == BASELINES
    for metrics in (written["before"], written["after"], *written["baselines"].values()):
        assert set(metrics) >= QUALITY
        assert 0 <= metrics["accuracy"] <= 1 and 0 <= metrics["ece"] <= 1
        assert np.isfinite(metrics["log_loss"])
    assert written["after"]["log_loss"] != written["before"]["log_loss"]
    assert 0 <= written["after"]["named_label_fraction"] <= 1


def test_no_mean_has_a_sentence_that_is_there_to_calibrate(finished):
    run_dir = finished[0] / "run"
    for name in ("queries", "diagnostics"):
        lines = [json.loads(line) for line in (run_dir / f"{name}.jsonl").open()]
        assert len({line["query_id"] for line in lines}) == 12
    (after,) = rows(finished[0], "after")
    own = [one["elbo"] for one in lines if one["phase"] == "after"]
    assert after["eval/elbo"] == pytest.approx(np.mean(own))


def test_sampler_and_learner_agree_after_the_rounds(finished):
    (after,) = rows(finished[0], "after")
    assert 0 <= after["policy/mismatch_kl"] < 1e-6


def test_the_label_adapter_is_stored_and_has_been_tuned(finished):
    from safetensors.numpy import load_file

    tensors = load_file(finished[0] / "run" / "adapter" / "labels" / "adapter_model.safetensors")
    assert any(np.any(array) for name, array in tensors.items() if "lora_B" in name)


def test_a_prediction_is_the_mean_over_rationales_of_the_tuned_models_labels(finished, tiny_dir):
    """Against one forward for each rationale and label of the base with the stored adapter."""
    adapter = finished[0] / "run" / "adapter"
    with gfn_ray.open(adapter) as policy:
        found = policy.predict(SENTENCE, 3, seed=1)
        task, config = policy._task, policy._config
        query = task.query(SENTENCE, policy._tokenizer)
        answers = task.label_answers(policy._tokenizer)
    base = AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()
    model = PeftModel.from_pretrained(base, str(adapter / "labels"))

    @torch.no_grad()
    def log_p(z, answer):
        ids = torch.tensor([[*query.context_ids, *z, *answer]])
        read = model(ids[:, :-1]).logits[0].log_softmax(-1)
        return float(read.gather(1, ids[0, 1:, None])[-len(answer) :].sum())

    logs = np.array([[log_p(one.token_ids, a) for a in answers] for one in found.samples])
    odds = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)).mean(axis=0)
    offset = tomllib.loads((adapter / "labels" / "labels.toml").read_text())["offset"]
    subjective = odds[1] / (odds[1] + odds[0] * np.exp(offset))
    weights = dict(found.answers)
    assert config.task.calibration == "validation" and offset != 0.0
    assert weights["subjective"] == pytest.approx(subjective, abs=1e-4)
    assert sum(weights.values()) == pytest.approx(1.0)
    assert found.answers[0][1] >= 0.5


def test_a_checkpoint_has_no_label_model_to_predict_by(finished):
    checkpoint = newest_complete(finished[0] / "run" / "checkpoints")
    with pytest.raises(UserError, match="has no label model"):
        gfn_ray.predict(checkpoint, SENTENCE)


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
