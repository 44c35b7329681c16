"""gfn_ray.train: from its arguments to the settings and the task of a run."""

import tomllib
from pathlib import Path

import pytest

import gfn_ray
from gfn_ray import training
from gfn_ray.errors import UserError
from gfn_ray.settings_values import dump_toml, read_stored
from gfn_ray.tasks.prompts.config import PromptsConfig, PromptsJob
from gfn_ray.tasks.prompts.rewards import named_functions
from gfn_ray.training import prepare

PROMPTS = [f"Number {i}?" for i in range(20)]


def good(completions, **kwargs):
    return [1.0] * len(completions)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))


def prepared(model=None, prompts=PROMPTS, reward=good, config=None, **settings):
    return prepare(model, prompts, reward, config, settings)


def test_arguments_and_dotted_names_become_settings(tmp_path):
    config, task = prepared("some/model", steps=7, learner__lr=1e-4, **{"task.beta": 0.2})
    assert config.model.name == "some/model" and config.steps == 7
    assert (config.learner.lr, config.task.beta) == (1e-4, 0.2)
    assert config.task.reward == ("given:good",) and task._functions == {"given:good": good}
    assert config.run_dir.parent == tmp_path / "runs"


def test_two_runs_have_two_directories(tmp_path):
    first, _ = prepared()
    first.run_dir.mkdir(parents=True)
    assert prepared()[0].run_dir != first.run_dir


def test_a_list_of_prompts_has_the_defaults_of_a_persons_own_and_is_split_as_a_file_is():
    rows = [{"question": text, "answer": "1"} for text in PROMPTS]
    config, task = prepared(None, rows, "exact", data__columns=["question=prompt"])
    assert config.stops == () and config.max_len == 256
    stored = read_stored(PromptsJob, tomllib.loads(dump_toml(config)), Path("config.toml"))
    assert stored == config  # so a served adapter has the same ends
    parts = (task._given_rows.train, task._given_rows.held_out)
    assert sum(map(len, parts)) == 20 and all(parts)
    assert parts[0][0].row.columns == {"answer": "1"}


def test_a_path_and_a_config_are_taken_as_they_are(tmp_path):
    given = PromptsJob(steps=3, run_dir=tmp_path / "mine")
    config, _ = prepared(None, tmp_path / "a.jsonl", ["math", "json"], given)
    assert (config.steps, config.run_dir) == (3, tmp_path / "mine")
    assert config.data.path == tmp_path / "a.jsonl"
    assert config.task.reward == ("math", "json")


def test_without_prompts_the_embedded_ones_are_trained_on():
    config, task = prepared(None, None, None)
    assert config == PromptsJob(run_dir=config.run_dir)
    assert task._given_rows is None


def test_a_run_is_resumed_under_its_own_settings(tmp_path):
    stored = PromptsJob(
        seed=5, run_dir=tmp_path / "mine", task=PromptsConfig(reward=("given:good",))
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.toml").write_text(dump_toml(stored))
    config, task = prepared(resume="mine", steps=9)
    assert (config.seed, config.steps, config.resume) == (5, 9, Path("mine"))
    assert task._functions == {"given:good": good}
    with pytest.raises(UserError, match="a reward that is code, given:good"):
        prepared(reward=None, resume="mine")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"learner__lrr": 1}, r"unknown setting learner\.lrr .*; did you mean learner\.lr\?"),
        ({"steps": "many"}, r"steps .* got 'many'; it takes a whole number"),
        ({"prompts": [3]}, r"prompts, row 1: expected a text, or a dict with a prompt, got 3"),
        ({"prompts": [{"text": "x"}]}, r"prompts, row 1: missing column prompt"),
        ({"resume": "there", "learner__lr": 1}, r"resume takes .* leave learner\.lr out"),
        ({"resume": "there"}, r"resume: cannot read .*config\.toml"),
    ],
)
def test_a_mistake_is_told_as_that_of_a_flag(settings, complaint):
    with pytest.raises(UserError, match=complaint):
        prepared(**settings)


def test_functions_without_a_name_of_their_own_get_one():
    specs, functions = named_functions([good, "math", lambda completions: [], good])
    assert specs == ("given:good", "math", "given:reward_3", "given:reward_4")
    assert list(functions) == [specs[0], specs[2], specs[3]]


def test_the_package_shows_the_function_and_not_its_module():
    assert gfn_ray.train is training.train
