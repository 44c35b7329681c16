"""The arithmetic job, end to end on real parts: a calculator writes its share of every chain."""

import json

import pytest

from gfn_ray.sampling.calculator import Calculator
from testing.job_runner import mlflow_run, run, summary, tiny_arithmetic_flags

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

METRICS = {
    "accuracy",
    "accuracy_2",
    "accuracy_3",
    "sample_accuracy",
    "exact_chains",
    "calls_mean",
    "length_mean",
    "log_ratio_var",
    "log_pf_reference",
}


@pytest.fixture(scope="module")
def finished(tiny_dir, tmp_path_factory):
    """One finished run: its home and what it printed."""
    home = tmp_path_factory.mktemp("finished")
    flags = tiny_arithmetic_flags(tiny_dir, home, task__baselines="mh,cot", eval__candidates=2)
    code, out, err = run(flags, home, "arithmetic")
    assert code == 0, err
    return home, out


@pytest.fixture(scope="module")
def rounds(tiny_dir, tmp_path_factory):
    """A run of two rounds of STaR: its home and what it printed. A schedule of its own on the
    actors: samples with hints, the learner set back."""
    home = tmp_path_factory.mktemp("rounds")
    flags = tiny_arithmetic_flags(
        tiny_dir,
        home,
        star__rounds=2,
        star__steps=5,
        star__samples=4,
        star__rationalise="true",
        sft__lr="1e-2",
    )
    flags[flags.index("--steps") + 1] = "0"
    code, out, err = run(flags, home, "arithmetic")
    assert code == 0, err
    return home, out


def test_each_round_of_star_tunes_anew_on_the_right_samples(rounds):
    home, out = rounds
    lines = [json.loads(line) for line in (home / "run" / "metrics.jsonl").open()]
    found = [line for line in lines if line["phase"] == "star round"]
    assert [line["round"] for line in found] == [1, 2]
    assert all(0 <= line["star_round/right_fraction"] <= 1 for line in found)
    assert f"STaR round {2}: right_fraction" in out
    likelihood = [line["sft/loss"] for line in lines if line["phase"] == "SFT"]
    first, second = likelihood[3:8], likelihood[8:13]  # after the 3 before all rounds
    assert len(likelihood) == 13
    assert first[-1] < first[0] and second[-1] < second[0]
    assert second[0] > first[-1], "the second round does not go on from the first"


def test_a_run_of_rounds_ends_with_another_policy_than_it_began_with(rounds):
    home, _ = rounds
    written = summary(home)
    assert written["steps"] == 0
    assert written["policy_versions"] == 4  # untrained, after SFT, and one a round
    assert written["after"]["log_pf_reference"] != written["before"]["log_pf_reference"]


def samples_of(home):
    rows = [json.loads(line) for line in (home / "run" / "samples.jsonl").open()]
    return [row for row in rows if row["phase"] in ("before", "after")]


def test_every_value_in_every_sample_is_the_calculators(finished):
    home, _ = finished
    texts = [row["text"] for row in samples_of(home)]
    assert texts
    for text in texts:
        written = ""
        for step in text.split(","):
            written += ("," if written else "") + step.split("=")[0] + "="
            written += Calculator().answer(written)
        assert written == text


def test_engine_and_learner_agree_on_log_q_although_a_tool_wrote_part_of_z(finished):
    """Tokens of the tool count for neither."""
    home, _ = finished
    assert 0 <= mlflow_run(home).data.metrics["policy/mismatch_kl"] < 1e-6


def test_calls_of_the_tool_are_counted_and_none_of_a_grammars_is_in_vain(finished):
    home, _ = finished
    rows = [json.loads(line) for line in (home / "run" / "metrics.jsonl").open()]
    updates = [row for row in rows if row["phase"] == "train"]
    last = updates[-1]
    assert last["train/tool_calls"] >= last["train/trajectories_sampled"]
    assert last["train/tool_errors"] == 0


def test_decoders_of_the_frozen_model_write_with_the_calculator(finished):
    home, out = finished
    found = summary(home)["baselines"]
    assert list(found) == ["MH 2", "CoT 2"]
    assert all(one["calls_mean"] >= 1 and 0 <= one["accuracy"] <= 1 for one in found.values())
    assert found["MH 2"]["texts_scored"] > 0 == found["CoT 2"]["texts_scored"]
    assert "CoT 2" in out


def test_the_summary_and_mlflow_have_the_accuracies(finished):
    home, _ = finished
    for phase in ("before", "after"):
        found = summary(home)[phase]
        assert set(found) >= METRICS
        assert found["accuracy"] == pytest.approx((found["accuracy_2"] + found["accuracy_3"]) / 2)
        assert 1 <= found["calls_mean"] <= 3
    assert set(mlflow_run(home).data.metrics) >= {f"eval/{name}" for name in METRICS}


def test_the_report_has_intervals_by_length_and_a_plot(finished):
    home, out = finished
    assert "2 operands, right by majority of 3: " in out
    assert (home / "run" / "accuracy.png").stat().st_size > 10_000
    assert (home / "run" / "accuracy.svg").is_file()


def test_a_run_without_updates_from_an_adapter_measures_that_policy(finished, tiny_dir, tmp_path):
    """Such as on the test split, once all choices are made; q is the same, so are its samples."""
    trained, _ = finished
    flags = tiny_arithmetic_flags(
        tiny_dir,
        tmp_path,
        steps=0,
        sft__steps=0,
        init_adapter=trained / "run" / "adapter",
    )
    code, out, err = run(flags, tmp_path, "arithmetic")
    assert code == 0, err
    assert "evaluating the untrained policy" not in out
    texts = {
        (home, phase): [row["text"] for row in samples_of(home) if row["phase"] == phase]
        for home in (trained, tmp_path)
        for phase in ("before", "after")
    }
    assert texts[tmp_path, "before"] == texts[trained, "after"] != texts[trained, "before"]
    assert texts[tmp_path, "after"] == texts[tmp_path, "before"]
    measured = summary(tmp_path)
    assert measured["before"] == measured["after"]
    for name, value in summary(trained)["after"].items():
        assert measured["after"][name] == pytest.approx(value, rel=1e-3, abs=1e-3), name
