"""Serving without an engine: what an adapter says of itself, and every mistake on the way."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

import gfn_ray
from gfn_ray.config import JobConfig, ModelConfig
from gfn_ray.decoding.resampling import Weights
from gfn_ray.errors import UserError
from gfn_ray.policy.adapter import Adapter, load_adapter, write_adapter
from gfn_ray.serving.description import FILE, read_description, write_description
from gfn_ray.serving.samples import Prediction, Sample
from gfn_ray.serving.tuned_labels import TunedLabels, read_labels, write_labels
from gfn_ray.settings_values import dump_toml
from gfn_ray.shell import JOBS
from gfn_ray.storage.atomic import COMPLETE, checksums
from gfn_ray.tasks.catalog import BUILT_IN
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.infill.task import InfillTask
from testing.makers import same_support
from testing.policies import write_random_adapter

ROOT = Path(__file__).resolve().parents[2]
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
TENSORS = {  # of the tiny model's first layer
    f"{LAYER}.lora_A.weight": np.ones((16, 64), np.float32),
    f"{LAYER}.lora_B.weight": np.ones((128, 16), np.float32),
}
STORY = {"beginning": "Tom had a dog. It ran away.", "ending": "He was happy."}


def adapter_dir(home, task="infill", config=None):
    directory = home / "adapter"
    directory.mkdir()
    write_adapter(Adapter(3, {"r": 16}, TENSORS), directory)
    write_description(directory, task, dump_toml(config or InfillJob()))
    (directory / COMPLETE).write_text(checksums(directory))
    return directory


# An adapter describes itself


def test_task_and_settings_come_back_as_they_were(tmp_path):
    config = InfillJob(steps=7, model=ModelConfig(name="/models/x"), seed=3)
    task, read = read_description(adapter_dir(tmp_path, config=config)).make_task(None)
    assert isinstance(task, InfillTask)
    assert read == config


def test_weights_come_back_as_they_were(tmp_path):
    loaded = load_adapter(adapter_dir(tmp_path))
    assert loaded.config == {"r": 16}
    assert loaded.tensors.keys() == TENSORS.keys()
    assert all(np.array_equal(loaded.tensors[name], TENSORS[name]) for name in TENSORS)


def test_the_catalogue_has_every_job_that_trains_a_task():
    training = {name for name, job in JOBS.items() if issubclass(job.settings(), JobConfig)}
    assert {name.replace("-", "_") for name in training} == set(BUILT_IN)


def test_each_task_of_the_catalogue_names_itself_and_its_settings():
    for name, import_class in BUILT_IN.items():
        task = import_class()
        assert task.name == name
        assert task(task.job()).job is task.job


# What is no adapter is refused


def refuse(directory):
    with pytest.raises(UserError) as refused:
        gfn_ray.sample(directory, STORY)
    return str(refused.value)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    assert str(tmp_path / "none") in refuse(tmp_path / "none")


def test_a_runs_directory_is_told_from_its_adapters(tmp_path):
    assert refuse(tmp_path) != refuse(adapter_dir(tmp_path).parent)
    assert f"its adapter is {tmp_path}/adapter" in refuse(tmp_path)


def test_an_adapter_of_unknown_origin_is_refused(tmp_path):
    directory = adapter_dir(tmp_path)
    (directory / FILE).unlink()
    assert "its task and settings are unknown" in refuse(directory)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (FILE, "format = ", "cannot be read"),
        (FILE, 'task = "infill"', "has format None"),
        (FILE, 'format = 2\ntask = "infill"', "reads 1"),
        (FILE, "format = 1", "lacks its task"),
        (FILE, 'format = 1\ntask = "infill"\n[settings]\nspeed = 9', "unknown setting speed"),
        (FILE, 'format = 1\ntask = "infill"\n[settings]\nsteps = "x"', "it takes a whole number"),
        ("adapter_model.safetensors", "", "cannot be read"),
        ("adapter_config.json", "{", "is not a PEFT configuration"),
    ],
)
def test_a_foreign_file_is_refused_though_its_checksum_is_right(tmp_path, file, content, message):
    directory = adapter_dir(tmp_path)
    (directory / file).write_text(content)
    (directory / COMPLETE).write_text(checksums(directory))
    assert message in refuse(directory)
    assert str(directory) in refuse(directory)


def test_a_directory_without_its_marker_is_torn(tmp_path):
    directory = adapter_dir(tmp_path)
    (directory / COMPLETE).unlink()
    assert "torn" in refuse(directory)


def test_a_task_that_is_not_built_in_asks_for_its_class(tmp_path):
    message = refuse(adapter_dir(tmp_path, "os.system"))
    assert "task=MyTask" in message and "infill" in message


@pytest.mark.parametrize(("task", "message"), [(str, "as `job`"), (InfillTask, "whose name is")])
def test_a_class_that_is_not_the_adapters_task_is_refused(tmp_path, task, message):
    with pytest.raises(UserError, match=message):
        gfn_ray.open(adapter_dir(tmp_path, "haiku"), task=task)


def test_a_base_model_that_is_gone_asks_for_a_new_name(tmp_path):
    config = InfillJob(model=ModelConfig(name="/no/such/model"))
    assert "`model` can name another" in refuse(adapter_dir(tmp_path, config=config))


def test_a_base_adapter_that_is_gone_asks_for_the_place_where_it_is(
    tmp_path, tiny_dir, monkeypatch
):
    monkeypatch.setenv("GFN_RAY_CACHE", str(tmp_path / "cache"))
    config = InfillJob(
        model=ModelConfig(name=str(tiny_dir)), task={"base_adapter": "/no/such/adapter"}
    )
    directory = adapter_dir(tmp_path, config=config)
    message = refuse(directory)
    assert "/no/such/adapter" in message and "`base_adapter` can name another" in message
    assert "`model` can name" not in message
    base = write_random_adapter(tiny_dir, tmp_path / "base")
    assert gfn_ray.open(directory, base_adapter=base).fields == ("beginning", "ending")


def test_an_adapter_cannot_have_remote_code_run(tmp_path, tiny_dir):
    model = ModelConfig(name=str(tiny_dir), trust_remote_code=True)
    policy = gfn_ray.open(adapter_dir(tmp_path, config=InfillJob(model=model)))
    assert policy._config.model.trust_remote_code is False


def test_no_base_adapter_is_taken_for_a_policy_that_was_trained_without_one(tmp_path, tiny_dir):
    config = InfillJob(model=ModelConfig(name=str(tiny_dir)))
    with pytest.raises(UserError, match=r"the base adapter got x.* had none; leave it out"):
        gfn_ray.open(adapter_dir(tmp_path, config=config), base_adapter="x")


# Queries of a person's own; none of these starts an engine


@pytest.mark.parametrize("name", ["infill", "continuation", "subjectivity"])
def test_a_wrapped_text_is_read_as_the_training_data_were(name, tiny_dir):
    """A line break would end z, and no prompt of the run had one inside a text."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    task = BUILT_IN[name]()
    made = task(task.job())
    wrapped = dict.fromkeys(made.fields, " Anna lost\nher  key.\n")
    plain = dict.fromkeys(made.fields, "Anna lost her key.")
    left, right = (made.query(texts, tokenizer) for texts in (wrapped, plain))
    assert np.array_equal(left.prompt_ids, right.prompt_ids)
    assert np.array_equal(left.context_ids, right.context_ids)


@pytest.fixture
def policy(tmp_path, tiny_dir):
    config = InfillJob(model=ModelConfig(name=str(tiny_dir)))
    with gfn_ray.open(adapter_dir(tmp_path, config=config)) as opened:
        yield opened
        assert opened._engine is None


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (None, "beginning got nothing; infill takes texts for beginning, ending"),
        ({"beginning": "Tom sat."}, "ending got nothing"),
        ({**STORY, "ending": " "}, "ending got ' '"),
        ({**STORY, "ending": 3}, "ending got 3"),
        ({**STORY, "ending": "He \udcff."}, r"ending got 'He \\udcff\.'.*bytes that are not UTF-8"),
        ({**STORY, "ending": "He\0."}, r"ending got 'He\\x00\.'.*a NUL byte"),
        ({**STORY, "title": "Dogs"}, "'title'; infill takes beginning, ending"),
        ({**STORY, "beginning": "Tom ran. " * 200}, "sampler.max_prompt_tokens 235"),
    ],
)
def test_a_query_with_other_fields_is_refused(policy, query, message):
    with pytest.raises(UserError, match=message):
        policy.sample(query)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"seed": -1}])
def test_a_number_out_of_bounds_is_refused(policy, wrong):
    with pytest.raises(UserError, match=r"it takes a whole number, at least"):
        policy.sample(STORY, **wrong)


def test_a_closed_policy_says_so(policy):
    policy.close()
    with pytest.raises(UserError, match=r"closed"):
        policy.sample(STORY)


def test_a_story_of_a_persons_own_reads_like_one_of_the_data(policy):
    """The same prompt and support as in training, the middle apart."""
    task, tokenizer = policy._task, policy._tokenizer
    data = task.load(tokenizer, len(tokenizer))
    assert same_support(data.support, policy._support)
    for known in data.held_out[:5]:
        asked = policy._query({name: known.texts[name] for name in policy.fields})
        assert np.array_equal(asked.prompt_ids, known.prompt_ids)
        assert np.array_equal(asked.context_ids, known.context_ids)
        assert task.context_text(asked) == task.context_text(known)


def test_a_task_without_answers_says_so():
    with pytest.raises(UserError, match=r"task infill gives no answer.*gfn_ray\.sample"):
        InfillTask(InfillJob()).answer(None, " He ran.")


def test_an_empty_answer_keeps_its_weight():
    votes = ["", "", "7", None]
    found = Prediction.of_votes(votes, [Sample("z", (), 0.0, True)] * 4, Weights.of([0.0] * 4))
    assert (found.answers, found.unanswered) == ([("", 0.5), ("7", 0.25)], 0.25)


def test_an_engine_imported_too_early_is_explained():
    script = (
        "import sys, types\n"
        "sys.modules['vllm'] = types.ModuleType('vllm')\n"
        "from gfn_ray.serving.policy import _prepare_environment\n"
        "_prepare_environment('cpu')\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert "VLLM_ENABLE_V1_MULTIPROCESSING=0" in result.stderr
    assert "vllm was imported before" in result.stderr


# The label model beside a policy


LABELS = TunedLabels(Adapter(0, {"r": 16}, TENSORS), ("objective", "subjective"), -0.25)


def test_a_label_model_comes_back_as_it_was(tmp_path):
    directory = adapter_dir(tmp_path)
    write_labels(directory, LABELS)
    found = read_labels(directory)
    assert (found.names, found.offset) == (LABELS.names, LABELS.offset)
    assert all(np.array_equal(found.adapter.tensors[name], TENSORS[name]) for name in TENSORS)


def test_an_adapter_without_a_label_model_says_which_one_has_it(tmp_path):
    with pytest.raises(UserError, match="the adapter of a finished run, not of a checkpoint"):
        read_labels(adapter_dir(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names = ", "cannot be read"),
        ('names = ["one"]\noffset = 0.0', "cannot be read"),
        ('names = ["one", "other"]', "cannot be read"),
        ('names = ["one", "other"]\noffset = nan', "takes a finite number"),
    ],
)
def test_a_spoiled_label_model_is_refused(tmp_path, text, message):
    directory = adapter_dir(tmp_path)
    write_labels(directory, LABELS)
    (directory / "labels" / "labels.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_labels(directory)
