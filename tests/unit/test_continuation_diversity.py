"""Many continuation runs on one plane: what is averaged, and what is refused."""

import json

import pytest
import tomli_w

from continuation_diversity import gather, main, marks, read_run, table
from gfn_ray.errors import UserError


def metrics(log_p, diversity):
    return {"log_p_mean": log_p, "log_p_max": log_p + 5, "diversity": diversity, "length_mean": 9.0}


def write_run(directory, temperature, log_p, *, task="continuation", samples=8, steps=60):
    directory.mkdir()
    summary = {
        "task": task,
        "before": metrics(-50.0, 0.8),
        "after": metrics(log_p, 0.7),
        "baselines": {"tempered 0.8": metrics(-35.0, 0.6), "beam": metrics(-20.0, 0.2)},
    }
    settings = {
        "seed": 3,
        "steps": steps,
        "reward": {"temperature_end": temperature},
        "eval": {"samples": samples},
    }
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "config.toml").write_text(tomli_w.dumps(settings))
    return directory


@pytest.fixture
def values(tmp_path):
    runs = [("a", 0.9, -30.0), ("b", 0.8, -25.0), ("c", 0.9, -34.0)]
    return gather([read_run(write_run(tmp_path / n, t, log_p)) for n, t, log_p in runs])


def test_runs_of_one_reward_temperature_are_averaged_and_policies_come_last(values):
    assert list(values) == [
        "tempered 0.8",
        "beam",
        "sampling",
        "GFlowNet T = 0.8",
        "GFlowNet T = 0.9",
    ]
    rows = {line.split("|")[1].strip(): line for line in table(values).splitlines()}
    assert "| 2 | -32.000 ± 2 |" in rows["GFlowNet T = 0.9"]
    assert "| 1 | -25.000 |" in rows["GFlowNet T = 0.8"]
    assert "| 3 | -20.000 ± 0 |" in rows["beam"]


def test_tempered_sampling_ends_in_plain_sampling_and_policies_are_joined(values):
    points, (tempered, policies) = marks(values)
    assert [points[i].label for i in tempered] == ["tempered 0.8", "sampling"]
    assert [points[i].label for i in policies] == ["T = 0.8", "T = 0.9"]
    assert [points[i].role for i in policies] == ["after", "after"]
    assert points[policies[1]].log_p == -32


def test_runs_that_were_measured_differently_are_refused(tmp_path):
    runs = [read_run(write_run(tmp_path / f"{n}", 0.9, -30.0, samples=n)) for n in (8, 4)]
    with pytest.raises(UserError, match=r"differ in eval\.samples \(8 and 4\)"):
        gather(runs)


def test_a_longer_run_is_no_other_seed(tmp_path):
    runs = [read_run(write_run(tmp_path / f"{n}", 0.9, -30.0, steps=n)) for n in (60, 600)]
    with pytest.raises(UserError, match=r"differ in steps \(60 and 600\)"):
        gather(runs)


def test_a_run_that_a_link_names_too_counts_once(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "one", 0.9, -30.0)
    (tmp_path / "latest").symlink_to("one")
    names = [str(tmp_path / name) for name in ("one", "latest")]
    monkeypatch.setattr("sys.argv", ["plane", *names, "--out", str(tmp_path / "plane")])
    assert main() == 0
    assert "| GFlowNet T = 0.9 | 1 | -30.000 |" in capsys.readouterr().out


def test_what_is_no_finished_continuation_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no finished run.*summary\.json"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="a run of infill"):
        read_run(write_run(tmp_path / "infill", 0.9, -30.0, task="infill"))
