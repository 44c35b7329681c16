"""The recipes that want a GPU, down to their first batch: settings, data, chat, z and reward, with
the tiny model in place of theirs."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from gfn_ray.cli import parse
from gfn_ray.policy.adapter import add_adapter, read_adapter
from gfn_ray.sampling.backend import SampleRequest, start_backend
from gfn_ray.sampling.exploration import on_policy_behaviour
from gfn_ray.tasks.prompts.config import PromptsJob
from gfn_ray.tasks.prompts.task import PromptsTask
from gfn_ray.tasks.task import check_data
from testing.refused_places import change_json

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"
PAGE = RECIPES.with_suffix(".md").read_text()
CHATS = (
    "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<|eos|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# As the hub's table has them.
GSM8K = [
    {"question": f"What is {i} + 2?", "answer": f"It is {i + 2}.\n#### {i + 2}"} for i in range(160)
]


@pytest.fixture(scope="module")
def countdown():
    spec = importlib.util.spec_from_file_location("countdown", RECIPES / "countdown.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def instruct(tiny_dir, tmp_path_factory):
    """The tiny model with a chat template."""
    directory = Path(shutil.copytree(tiny_dir, tmp_path_factory.mktemp("instruct") / "model"))
    change_json(directory / "tokenizer_config.json", chat_template=CHATS)
    return directory


@pytest.fixture
def rows(tmp_path, countdown):
    """A file of data for each recipe."""
    made = {"gsm8k": GSM8K, "countdown": countdown.problems(700)}
    for name, each in made.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    return tmp_path


FLAGS = {
    "gsm8k_0.5b": "--data.hub none --data.hub-config none --data.split none --data.test-split none "
    "--data.path {rows}/gsm8k.jsonl --eval.queries 20",
    "gsm8k_8b": "--data.hub none --data.hub-config none --data.split none --data.test-split none "
    "--data.path {rows}/gsm8k.jsonl --eval.queries 20",
    "countdown": "--data.path {rows}/countdown.jsonl --task.reward {recipes}/countdown.py:reached",
    "json": "--data.path {recipes}/events.jsonl --task.json-schema {recipes}/event.schema.json "
    "--eval.queries 4",
}


def test_every_recipe_is_tried_and_stands_on_the_page():
    assert {file.stem for file in RECIPES.glob("*.toml")} == set(FLAGS)
    assert all(f"{name}.toml" in PAGE for name in FLAGS)


@pytest.mark.parametrize("name", FLAGS)
def test_a_recipe_gives_a_batch_of_completions_with_a_reward_each(name, rows, instruct):
    flags = FLAGS[name].format(rows=rows, recipes=RECIPES).split()
    tiny = ["--model.name", str(instruct), "--sampler.backend", "transformers"]
    tiny += ["--task.max-len", "16", "--reward.dtype", "float32", "--learner.dtype", "float32"]
    config = parse(PromptsJob, ["--config", str(RECIPES / f"{name}.toml"), *flags, *tiny])
    tokenizer = AutoTokenizer.from_pretrained(instruct)
    task = PromptsTask(config)
    data = task.load(tokenizer, len(tokenizer))
    check_data(task.name, data, config.sampler, len(tokenizer))
    assert data.train[0].texts["prompt"].endswith("<assistant>")

    backend = start_backend(config, str(instruct), data.support, device="cpu", tool=None)
    base = AutoModelForCausalLM.from_pretrained(instruct)
    backend.load(read_adapter(add_adapter(base, config.policy, 0), 0))
    plan = on_policy_behaviour(4, np.random.default_rng(0))
    drawn = backend.sample([SampleRequest(query, plan) for query in data.train[:2]])
    queries = {query.query_id: query for query in data.train[:2]}
    data.reward.load(lambda: AutoModelForCausalLM.from_pretrained(instruct).eval())
    scored = data.reward.score([(queries[z.query_id], z) for z in drawn])
    assert len(scored) == 8 and [z.reward_fault for z in scored] == [None] * 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 + 3 = 5, so <answer>(2 + 3) * 4</answer>", 1.0),
        ("2 + 3 = 5, so <answer>(2 + 3) * 4", 1.0),
        ("<answer>2 * 3 + 4</answer>", 0.1),
        ("<answer>2 + 3</answer>", 0.1),
        ("<answer>((2 + 3 * 4</answer>", 0.1),
        ("<answer>__import__('os')</answer>", 0.0),
        ("20", 0.0),
    ],
    ids=[
        "reached",
        "before-its-stop-string",
        "missed",
        "a-number-left-out",
        "no-sum",
        "code",
        "no-form",
    ],
)
def test_countdown_judges_by_what_the_answer_comes_to(countdown, text, expected):
    row = {"numbers": [[3, 2, 4]], "target": [20]}
    assert countdown.reached([text], **row) == countdown.reached([[{"content": text}]], **row)
    assert countdown.reached([text], **row) == [expected]
