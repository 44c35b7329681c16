"""The task of prompts and a reward function, on the tiny model's tokenizer."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from gfn_ray.cli import parse
from gfn_ray.config import EvalConfig
from gfn_ray.errors import UserError
from gfn_ray.evaluation.posterior import query_diagnostics
from gfn_ray.evaluation.result import QuerySamples, QueryTexts
from gfn_ray.rewards.reward import LOG_P_REF, REWARD
from gfn_ray.tasks.demonstrations import demonstration_trajectories, demonstration_trajectory
from gfn_ray.tasks.prompts.chat import Chat
from gfn_ray.tasks.prompts.config import PromptsConfig, PromptsJob, RowsConfig
from gfn_ray.tasks.prompts.rewards import cut_at_stop
from gfn_ray.tasks.prompts.task import PromptsTask

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% if m.role == 'assistant' %}<|end|>{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def chatty(tiny_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def task_of(tmp_path, rows, data=None, job=None, **task):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PromptsTask(
        PromptsJob(
            task=PromptsConfig(**task),
            data=RowsConfig(path=path, **(data or {})),
            eval=EvalConfig(queries=1, samples=4),
            **(job or {}),
        )
    )


def rows_of(**columns):
    return [{"prompt": f"Number {i}?", "answer": str(i), **columns} for i in range(20)]


def load(task, tokenizer):
    return task.load(tokenizer, len(tokenizer))


def test_the_embedded_prompts_need_no_setting(tokenizer):
    data = load(PromptsTask(PromptsJob()), tokenizer)
    assert len(data.train) >= 120 and len(data.held_out) == 24
    assert data.support.stops == ("\n",) and data.support.max_len == 24
    assert data.notes == ()


def test_policy_and_frozen_model_read_the_same_prompt(tmp_path, tokenizer):
    data = load(task_of(tmp_path, rows_of(), reward=("exact",)), tokenizer)
    for query in (*data.train, *data.held_out):
        assert np.array_equal(query.prompt_ids, query.context_ids)
        assert tokenizer.decode(query.prompt_ids) == query.texts["prompt"]
        assert query.answer_ids.tolist() == [tokenizer.eos_token_id]


def test_a_demonstration_is_a_reference_with_its_stop_string(tmp_path, tokenizer):
    rows = rows_of(demonstration=" It is three.")
    data = load(task_of(tmp_path, rows, reward=("exact",), stop=("\\n",)), tokenizer)
    found = demonstration_trajectories(data.train, data.support)
    assert len(found) == len(data.train)
    assert {tokenizer.decode(one.token_ids) for one in found} == {" It is three.\n"}


def test_messages_are_put_into_the_models_own_template_once_begun(tmp_path, chatty):
    chat = [{"role": "user", "content": "Two?"}]
    rows = [{"prompt": [{**chat[0], "content": f"{i}?"}], "answer": "2"} for i in range(20)]
    data = load(task_of(tmp_path, rows, reward=("exact",), system="Be short."), chatty)
    ids = data.train[0].prompt_ids.tolist()
    assert ids.count(chatty.bos_token_id) == 1 and ids[0] == chatty.bos_token_id
    text = chatty.decode(ids)
    assert "system: Be short.\nuser: " in text and text.endswith("?\nassistant:")
    assert data.notes == ()


def test_a_text_stays_a_text_where_the_model_has_a_template_and_that_is_said(tmp_path, chatty):
    data = load(task_of(tmp_path, rows_of(), reward=("exact",)), chatty)
    assert "plain text here" in data.notes[0]
    assert chatty.decode(data.train[0].prompt_ids).startswith("Number")


def test_a_system_message_makes_a_chat_of_a_text(chatty):
    assert not Chat(chatty).is_chat("Two?")
    assert Chat(chatty, "Be short.").text("Two?", "row 1").endswith("user: Two?\nassistant:")


def test_an_answer_ends_with_the_models_turn_or_the_text(chatty):
    chat, end = Chat(chatty), chatty.convert_tokens_to_ids("<|end|>")
    assert set(chat.ends(len(chatty)).tolist()) == {chatty.eos_token_id, end}
    assert chat.end_id(is_chat=True) == end and chat.end_id(is_chat=False) == chatty.eos_token_id


def test_a_chat_without_a_template_is_refused(tmp_path, tokenizer):
    with pytest.raises(UserError, match="no chat template; give prompts as texts"):
        load(task_of(tmp_path, rows_of(), reward=("exact",), system="Be short."), tokenizer)


def test_a_template_that_refuses_the_messages_is_named_with_the_row(chatty):
    broken = replace(Chat(chatty), tokenizer=AutoTokenizer.from_pretrained(chatty.name_or_path))
    broken.tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UserError, match=r"row 7: the chat template .* no system role"):
        broken.text([{"role": "user", "content": "x"}], "row 7")


@pytest.mark.parametrize(
    ("task", "columns", "complaint"),
    [
        ({"reward": ("regex",)}, {}, "line 1: no pattern, which the reward regex judges by"),
        ({"reward": ("math",)}, {"answer": "none"}, "line 1: answer holds no number"),
        ({"reward": ("json",)}, {"schema": {"type": "no"}}, "line 1: schema is no JSON schema"),
        ({"reward": ("absent.module:f",)}, {}, "cannot be imported: ModuleNotFoundError"),
        ({"reward": ("given:f",)}, {}, "hand it over again"),
        ({"reward": ("exact",), "stop": ("<|eos|>",)}, {}, "task.stop has '<|eos|>'"),
        ({"reward": ("exact",), "length_prior": "demonstrations"}, {}, "a column demonstration"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    task, columns, complaint, tmp_path, tokenizer
):
    with pytest.raises(UserError) as refused:
        load(task_of(tmp_path, rows_of(**columns), **task), tokenizer)
    assert complaint in str(refused.value)


def test_settings_stand_in_for_a_column(tmp_path, tokenizer):
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    settings = {"pattern": "^a", "json_schema": tmp_path / "schema.json"}
    data = load(task_of(tmp_path, rows_of(), reward=("regex", "json"), **settings), tokenizer)
    z = np.array(tokenizer("abc", add_special_tokens=False)["input_ids"])
    query = data.train[0]
    (judged,) = data.reward.judge(
        query, [demonstration_trajectory(query.query_id, z, data.support)]
    )
    assert judged.reward == 1.0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            "--task.reward nonsense",
            "it takes exact, regex, contains, contains_all, math, json, or a",
        ),
        ("--task.reward exact,math --task.reward-weights 1", "has 1 numbers and task.reward 2"),
        ("--objective.kind subtb", "compares prefixes of z"),
        ("--objective.kind ref_tb", "set task.prior to 0"),
        ("--task.k 9", "task.k (9) exceeds eval.samples (8)"),
        ("--task.answer-pattern (", "regular expressions"),
    ],
)
def test_settings_that_contradict_are_refused(changes, complaint, capsys):
    with pytest.raises(SystemExit):
        parse(PromptsJob, changes.split())
    assert complaint in capsys.readouterr().err


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValidationError, match="empty string"):
        PromptsConfig(stop=("",))


def test_a_users_file_is_named_by_its_full_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert PromptsConfig(reward=("mine.py:f", "a.b:g")).reward == (f"{tmp_path}/mine.py:f", "a.b:g")


@pytest.mark.parametrize(
    ("settings", "text", "answer"),
    [
        ({"reward": ("math",)}, "It is 1,200.", "1200"),
        ({"reward": ("math",)}, "It is nothing.", None),
        ({"answer_pattern": r"<a>(.*?)</a>"}, "<a>1</a> <a>2</a>", "2"),
        ({"answer_pattern": r"\d+"}, "1 2", "2"),
        ({"answer_pattern": r"\d+"}, "none", None),
        ({}, " two  words\n and more", "two words"),
    ],
)
def test_the_answer_that_a_sample_stands_for(settings, text, answer):
    task = PromptsTask(PromptsJob(task=PromptsConfig(stop=("\n",), **settings)))
    assert task.answer(None, text) == answer


def test_a_stop_string_and_what_follows_is_no_part_of_the_text():
    assert cut_at_stop("one END two\n", ("\n", "END")) == "one "
    assert cut_at_stop("one", ("\n",)) == cut_at_stop("one", ()) == "one"


def test_metrics_take_the_reward_apart_from_what_the_model_says(tmp_path, tokenizer):
    """log R is made of a known log p_ref and the reward, and both are found again."""
    task = task_of(tmp_path, rows_of(), reward=("exact",), beta=0.5, prior=2.0)
    data = load(task, tokenizer)
    query = data.held_out[0]
    right = query.texts["prompt"].removeprefix("Number ").removesuffix("?")
    texts = [right, right, "no", "never"]
    log_p = [-3.0, -4.0, -5.0, -6.0]
    rewards = [1.0, 1.0, 0.0, 0.0]
    trajectories = []
    for text, p, r in zip(texts, log_p, rewards, strict=True):
        z = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
        known = demonstration_trajectory(query.query_id, z, data.support)
        trajectories.append(known.scored([np.nan] * len(z) + [2.0 * p + r / 0.5]))
    found = task.metrics_of(QueryTexts(query, trajectories, texts))
    assert found["reward_mean"] == found["pass_at_1"] == 0.5
    assert found["pass_at_k"] == found["majority_at_k"] == found["distinct_correct"] == 1.0
    per_token = np.mean([p / (len(z) + 1) for p, z in zip(log_p, trajectories, strict=True)])
    assert found["log_p_ref_per_token"] == pytest.approx(per_token, abs=1e-5)
    assert set(found) <= set(task.metrics)


def evaluated(task, tokenizer, texts, log_q, parts):
    """Samples of a held-out query as an evaluation hands them over, and the query's data."""
    data = load(task, tokenizer)
    query = data.held_out[0]
    trajectories = [
        demonstration_trajectory(
            query.query_id,
            np.array(tokenizer(text, add_special_tokens=False)["input_ids"]),
            data.support,
        )
        for text in texts
    ]
    diagnostics = query_diagnostics(np.zeros(2), np.zeros(2))
    return data, QuerySamples(query, trajectories, texts, log_q, diagnostics, parts=parts)


def test_without_a_prior_the_model_is_read_beside_log_r(tmp_path, tokenizer):
    task = task_of(tmp_path, rows_of(), reward=("exact",), prior=0.0)
    parts = {REWARD: np.array([0.0, 1.0]), LOG_P_REF: np.array([-4.0, -6.0])}
    data, samples = evaluated(task, tokenizer, [" a", " b"], np.array([-1.0, -2.0]), parts)
    assert data.reads_reference
    found = task.metrics_of(samples)
    assert found["kl_reference"] == pytest.approx(3.5)
    per_token = np.mean(parts[LOG_P_REF] / [len(z) + 1 for z in samples.trajectories])
    assert found["log_p_ref_per_token"] == pytest.approx(per_token)
    assert set(found) <= set(task.metrics)
    unread = task.metrics_of(replace(samples, parts={REWARD: parts[REWARD]}))
    assert not {"kl_reference", "log_p_ref_per_token"} & set(unread)


def test_with_a_prior_log_r_has_it_and_the_model_is_not_read_again(tmp_path, tokenizer):
    assert not load(task_of(tmp_path, rows_of(), reward=("exact",)), tokenizer).reads_reference


def test_what_the_reward_actors_judged_is_not_judged_again(tmp_path, tokenizer):
    """The text is wrong; the reward that came with it says otherwise."""
    task = task_of(tmp_path, rows_of(), reward=("exact",))
    parts = {REWARD: np.array([1.0, 0.0]), LOG_P_REF: np.array([-4.0, -6.0])}
    _, samples = evaluated(task, tokenizer, ["no", "no"], np.array([-1.0, -2.0]), parts)
    assert task.metrics_of(samples)["reward_mean"] == 0.5
