"""The infill job, end to end on real parts: what a run leaves, and how it ends."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

import gfn_ray
from gfn_ray.cli import parse
from gfn_ray.policy.adapter import load_adapter
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.runs.published import newest_complete
from gfn_ray.serving.description import read_description
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.infill.task import InfillTask
from testing.job_runner import (
    LIMIT,
    await_output,
    merged_base,
    mlflow_run,
    run,
    run_make,
    start,
    summary,
    tiny_infill_flags,
)
from testing.policies import assert_merged, load, lora_trainer

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

METRICS = {
    "log_reward_mean",
    "log_ratio_var",
    "tempered_ratio_var",
    "elbo",
    "log_z",
    "log_z_gap",
    "ess_fraction",
    "diagnostic_log_z_gap",
    "diagnostic_ess_fraction",
    "pareto_k_above",
    "pareto_k_unfitted",
    "log_pf_reference",
    "log_pf_reference_per_token",
    "bert_score",
    "bleu4",
    "gleu4",
    "stopped_fraction",
    "distinct_fraction",
    "copy_fraction",
    "length_mean",
}
SUMMARY = {
    "task",
    "model",
    "base_adapter",
    "init_adapter",
    "objective",
    "steps",
    "sft_steps",
    "ended_by",
    "trajectories",
    "wall_seconds",
    "cpu_seconds",
    "training_seconds",
    "seconds_per_step",
    "policy_versions",
    "max_staleness_seen",
    "restarts",
    "nonfinite_batches",
    "peak_mib",
    "mlflow_run_id",
    "adapter",
    "baselines",
    "before",
    "after",
    "warnings",
    "data_notes",
}


def default_flags(model, home):
    """Of `make infill` as it comes: on a base that is tuned first, with diagnostic samples."""
    return tiny_infill_flags(
        model,
        home,
        tune_base__steps=10,
        tune_base__lr="1e-2",
        eval__diagnostic_queries=2,
    )


@pytest.fixture(scope="module")
def finished(tiny_dir, tmp_path_factory):
    """One finished asynchronous run by `make infill`: its home and what it printed."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("GFN_RAY_CACHE", str(home / "cache"))
        code, out, err = run_make("infill", default_flags(tiny_dir, home), home)
        assert code == 0, err
        yield home, out


def test_the_summary_has_the_same_metrics_before_and_after(finished):
    home, _ = finished
    written = summary(home)
    assert set(written) == SUMMARY
    assert set(written["before"]) == set(written["after"]) == METRICS
    assert all(np.isfinite(list(written[phase].values())).all() for phase in ("before", "after"))
    assert written["steps"] == 6
    assert written["policy_versions"] == 7
    assert 0 <= written["max_staleness_seen"] <= InfillJob().max_staleness


def test_the_peak_memory_of_every_process_is_told(finished):
    home, out = finished
    peaks = summary(home)["peak_mib"]
    assert set(peaks) == {"sampler_0", "reward_actor_0", "replay", "learner", "controller"}
    assert all(20 < mib < 10_000 for mib in peaks.values())
    logged = mlflow_run(home).data.metrics
    assert {name: logged[f"memory/peak_mib_{name}"] for name in peaks} == peaks
    assert f"peak memory: sampler 0 {peaks['sampler_0']:,.0f} MiB" in out


def test_the_resolved_settings_are_stored_and_read_back(finished, tiny_dir):
    home, _ = finished
    given = parse(InfillJob, default_flags(tiny_dir, home))
    stored = parse(InfillJob, ["--config", str(home / "run" / "config.toml")])
    assert stored == given.on_base(Path(summary(home)["base_adapter"]))


def test_the_base_is_tuned_first_and_is_policy_and_reward(finished, tiny_dir):
    home, out = finished
    assert "tuning the base model on 214 texts, once: update 10/10 | loss" in out
    (line,) = [line for line in out.splitlines() if line.startswith("base model tuned on 214")]
    before, after = re.search(r"validation texts ([\d.,]+), then ([\d.,]+)$", line).groups()
    assert float(after.replace(",", "")) < 0.8 * float(before.replace(",", ""))
    assert summary(home)["base_adapter"].startswith(str(home / "cache"))
    assert_merged(merged_base(home), tiny_dir)


def test_every_update_and_both_evaluations_are_in_the_metrics_file(finished):
    home, _ = finished
    lines = [json.loads(line) for line in (home / "run" / "metrics.jsonl").open()]
    assert [line["step"] for line in lines if line["phase"] == "train"] == [1, 2, 3, 4, 5, 6]
    evaluations = [line for line in lines if line["phase"] in ("before", "after")]
    assert [line["phase"] for line in evaluations] == ["before", "after"]
    for line in evaluations:  # float32 on both sides: sampler and learner agree
        assert 0 <= line["policy/mismatch_kl"] < 1e-6
    assert lines == sorted(lines, key=lambda line: line["time"])


def test_samples_of_a_published_version_are_compared_with_the_learner(finished):
    home, _ = finished
    lines = [json.loads(line) for line in (home / "run" / "metrics.jsonl").open()]
    compared = [one["policy/mismatch_kl"] for one in lines if one["phase"] == "engine check"]
    assert compared and all(0 <= value < 1e-6 for value in compared)


def test_mlflow_has_every_number_of_the_metrics_file_at_its_step_and_time(finished):
    from mlflow import MlflowClient

    home, _ = finished
    written = {
        (name, row["step"], int(row["time"] * 1000), value)
        for row in map(json.loads, (home / "run" / "metrics.jsonl").open())
        for name, value in row.items()
        if name not in ("step", "time", "phase") and value is not None
    }
    client, found = MlflowClient(f"sqlite:///{home / 'mlflow.db'}"), mlflow_run(home)
    names = [name for name in found.data.metrics if not name.startswith("system/")]
    logged = {
        (name, one.step, one.timestamp, one.value)
        for name in names
        for one in client.get_metric_history(found.info.run_id, name)
    }
    assert logged == written


def test_no_more_is_sampled_than_the_updates_learn_from(finished):
    """At 1.5 of them for each, 6 updates of 8 are paid for by 4 calls of 8."""
    home, _ = finished
    assert summary(home)["trajectories"] == 32


def test_the_metrics_of_each_held_out_query_average_to_those_of_the_run(finished):
    home, out = finished
    rows = [json.loads(line) for line in (home / "run" / "queries.jsonl").open()]
    for phase in ("before", "after"):
        found = [row for row in rows if row["phase"] == phase]
        assert len(found) == 3
        written = summary(home)[phase]
        for name in METRICS & found[0].keys():
            assert written[name] == pytest.approx(np.mean([row[name] for row in found]))
        assert {"bert_score", "log_pf_reference_per_token", "log_reward_mean"} <= found[0].keys()
    assert "BERTScore F1 (all-minilm-l6-v2)" in out


def test_some_queries_weights_are_judged_at_both_ends_by_more_samples(finished):
    home, out = finished
    rows = [json.loads(line) for line in (home / "run" / "diagnostics.jsonl").open()]
    for phase in ("before", "after"):
        found = [row for row in rows if row["phase"] == phase]
        assert [row["samples"] for row in found] == [3, 3, 3]
        assert [row["diagnostic_samples"] for row in found] == [64, 64, None]
        judged, written = found[:2], summary(home)[phase]
        for name in ("diagnostic_log_z_gap", "diagnostic_ess_fraction"):
            assert written[name] == pytest.approx(np.mean([row[name] for row in judged]))
        fitted = [row for row in judged if row["pareto_k"] is not None]
        above = [row for row in fitted if row["pareto_k"] > row["pareto_k_limit"]]
        assert written["pareto_k_above"] == len(above) / 2
        assert written["pareto_k_unfitted"] == 1 - len(fitted) / 2
    words = " ".join(out.split())
    assert all(said in words for said in summary(home)["warnings"])
    assert "log_z_gap log_z - elbo, a lower bound on KL" in words
    assert "ess_fraction effective share of the samples, an upper bound" in words


def test_a_finished_run_compares_with_itself(finished, tmp_path):
    home, _ = finished
    code, out, err = run(["--runs", f"{home / 'run'},{home / 'run'}"], tmp_path, "compare")
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if "| bert_score" in line]
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    assert cells[1] == "3"
    assert cells[-1] == "0 [0, 0]"


def test_samples_name_their_query_their_proposal_and_their_policy_version(finished):
    home, _ = finished
    rows = [json.loads(line) for line in (home / "run" / "samples.jsonl").open()]
    assert {row["phase"] for row in rows} == {"before", "train", "after"}
    assert len([row for row in rows if row["phase"] == "after"]) == 9
    assert {row["policy_version"] for row in rows if row["phase"] == "after"} == {6}
    assert {row["proposal"] for row in rows if row["phase"] == "train"} >= {"policy"}


def test_mlflow_has_the_run_with_settings_metrics_and_adapter(finished):
    from mlflow import MlflowClient

    home, _ = finished
    found = mlflow_run(home)
    assert found.info.status == "FINISHED"
    assert found.info.run_id == summary(home)["mlflow_run_id"]
    assert found.data.params["learner.lr"] == "0.0005"
    assert {f"eval/{name}" for name in METRICS} <= set(found.data.metrics)
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    assert len(client.get_metric_history(found.info.run_id, "train/loss")) == 6
    artifacts = {
        file.path
        for place in (None, "samples", "diagnostics")
        for file in client.list_artifacts(found.info.run_id, place)
    }
    assert {
        "adapter",
        "config.toml",
        "summary.json",
        "samples/after-000006.json",
        "diagnostics/after-000006.json",
    } <= artifacts


def test_the_adapter_loads_as_plain_peft_and_is_not_the_base_model(finished):
    from peft import PeftModel

    home, _ = finished
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(merged_base(home))
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, summary(home)["adapter"])(ids).logits
    assert not torch.allclose(before, after, atol=1e-4)


STORY = {
    "beginning": "Anna lost her key. She looked for it everywhere. It was getting late.",
    "ending": "She went home with a smile.",
}


@pytest.fixture(scope="module")
def served(finished):
    """The policy, open."""
    home, _ = finished
    with gfn_ray.open(home / "run" / "adapter") as policy:
        yield policy


def test_the_adapter_is_served_with_the_learners_log_q_inside_the_support(
    finished, served, tiny_dir
):
    home, _ = finished
    samples = served.sample(STORY, n=12, seed=1)
    again = served.sample(STORY, n=12, seed=1)
    assert [one.token_ids for one in again] == [one.token_ids for one in samples]

    config = parse(InfillJob, tiny_infill_flags(tiny_dir, home))
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    task = InfillTask(config)
    support, query = task.support(tokenizer, len(tokenizer)), task.query(STORY, tokenizer)
    assert all(support.contains(one.token_ids) for one in samples)
    trainer = lora_trainer(load(merged_base(home)), config, support)
    adapter = load_adapter(home / "run" / "adapter")
    weights = {name: torch.from_numpy(array) for name, array in adapter.tensors.items()}
    set_peft_model_state_dict(trainer.model, weights)
    z = [np.array(one.token_ids, dtype=np.int32) for one in samples]
    known = [demonstration_trajectory(query.query_id, tokens, support) for tokens in z]
    scores = trainer.score([TrajectoryGroup(query.prompt_ids, known)])
    assert scores.log_q == pytest.approx([one.log_q for one in samples], abs=1e-3)


def test_the_shell_form_draws_the_same_samples_as_python(finished, served):
    home, _ = finished
    adapter = str(home / "run" / "adapter")
    fields = [part for name, text in STORY.items() for part in (f"--{name}", text)]
    result = subprocess.run(
        [sys.executable, "-m", "gfn_ray", "sample", adapter, *fields, "--n", "3", "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert result.returncode == 0, result.stderr
    printed = [json.loads(line) for line in result.stdout.splitlines()]
    drawn = served.sample(STORY, n=3)
    assert [line["text"] for line in printed] == [one.text for one in drawn]
    assert [line["log_q"] for line in printed] == pytest.approx([one.log_q for one in drawn])


def test_a_checkpoint_is_served_like_the_adapter(finished):
    home, _ = finished
    checkpoint = newest_complete(home / "run" / "checkpoints")
    assert read_description(checkpoint).make_task(None)[1].steps == 6


def test_the_newest_checkpoint_is_the_last_one_and_old_ones_are_gone(finished):
    home, _ = finished
    directory = home / "run" / "checkpoints"
    assert newest_complete(directory).name == "step-000006"
    assert len(list(directory.iterdir())) == InfillJob().checkpoint.keep


def test_a_run_without_a_terminal_prints_plain_lines_and_a_report(finished):
    _, out = finished
    assert "step 6/6" in out
    assert "before" in out and "after" in out
    assert "mlflow ui --backend-store-uri" in out
    assert "\x1b" not in out


def await_line(home, process, text):
    """Blocks until the job has printed a line with this text."""
    await_output(process, home, lambda: text in (home / "out").read_text(), f"no {text!r} in time")


def test_a_stopped_run_leaves_a_checkpoint_and_a_killed_mlflow_run(tiny_dir, tmp_path):
    """By SIGTERM; a run that Ctrl-C ends is in test_chaos.py."""
    process = start(tiny_infill_flags(tiny_dir, tmp_path, steps=100_000), tmp_path)
    try:
        await_line(tmp_path, process, "step 4/")
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 130
    finally:
        process.kill()
    checkpoint = newest_complete(tmp_path / "run" / "checkpoints")
    assert (checkpoint / "adapter_model.safetensors").is_file()
    assert mlflow_run(tmp_path).info.status == "KILLED"
    assert str(checkpoint) in (tmp_path / "out").read_text()
    assert "Traceback" not in (tmp_path / "err").read_text()


def test_a_users_mistake_exits_2_with_one_line(tiny_dir, tmp_path):
    code, _, err = run(tiny_infill_flags(tiny_dir, tmp_path, learner__lr="fast"), tmp_path)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: --learner.lr")
