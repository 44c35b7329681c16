"""Sentence continuation: prompts, support, target and metrics, on the tiny model's tokenizer."""

import json

import numpy as np
import pytest
from transformers import AutoTokenizer

from gfn_ray.config import EncoderConfig, EvalConfig, RewardConfig
from gfn_ray.errors import UserError
from gfn_ray.evaluation.result import Baseline, Evaluation, QueryTexts, mean_metrics
from gfn_ray.tasks.continuation.config import ContinuationConfig, ContinuationJob, PromptDataConfig
from gfn_ray.tasks.continuation.task import ContinuationTask
from gfn_ray.tasks.demonstrations import demonstration_trajectories
from gfn_ray.tasks.sentence_support import NOT_LAST, OUTSIDE, sentence_support
from gfn_ray.tasks.vocabulary import Vocabulary
from testing.makers import make_trajectory, same_support


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def task():
    return ContinuationTask(ContinuationJob())


@pytest.fixture(scope="module")
def data(task, tokenizer):
    return task.load(tokenizer, len(tokenizer))


def test_prompt_z_and_full_stop_read_as_the_storys_first_three_sentences(data, tokenizer):
    for query in data.held_out:
        z = query.demonstrations[0]
        assert np.array_equal(query.prompt_ids, query.context_ids)
        ids = np.concatenate([query.context_ids, z, query.answer_ids])
        reference = query.texts["reference"].removesuffix(".")
        assert tokenizer.decode(ids) == f"{query.texts['prompt']} {reference}."


def test_training_and_held_out_prompts_are_disjoint(data):
    train, held_out = ({q.texts["prompt"] for q in part} for part in (data.train, data.held_out))
    assert len(held_out) == 20
    assert not train & held_out


def test_the_end_is_the_full_stop_that_the_reward_scores(data):
    stops = data.support.stop_ids.tolist()
    assert all(query.answer_ids.tolist() in [[stop] for stop in stops] for query in data.train)
    assert not data.support.content[stops].any()


def test_most_true_sentences_are_in_the_support(data):
    inside = demonstration_trajectories([*data.train, *data.held_out], data.support)
    assert len(inside) > 0.75 * (len(data.train) + len(data.held_out))


def test_a_sentence_may_stop_after_any_word_from_min_len_on_and_nowhere_else(data, tokenizer):
    z = tokenizer(" He went home, and slept well", add_special_tokens=False)["input_ids"]
    terminable = data.support.terminable(z)
    assert data.support.max_len == 30
    assert not terminable[:4].any() and terminable[-1]
    for t in range(4, len(z) + 1):
        last = tokenizer.decode(z[t - 1 : t])
        assert terminable[t] == (last[-1].isalnum() and not (len(last) == 2 and last[0] == " "))


class Words:
    """A vocabulary of these texts alone."""

    def __init__(self, *texts):
        self.texts = list(texts)

    plain = Vocabulary.plain
    word_start = Vocabulary.word_start
    full_stops = Vocabulary.full_stops
    _where = Vocabulary._where


LAST = (" a", " I", "est", "S", " Marvin", "'s", "'t", " don't", " 3", "%", "3)", "5%", "é")
NOT_INSIDE = {
    "ends a sentence": ("!", "?)", " etc.", " U.S", "3.5", "...", "…", ".com"),
    "quotation": ('"', " 'I", "'", "“", "’", " '", "`"),
    "breaks the line": ("\n", "a\nb", "  two", "\t"),
    "address": (" http", "https", "www", "://", "@"),
    "markup": ("<", "[", "|", "__", "=="),
}


@pytest.mark.parametrize("reason", NOT_INSIDE)
def test_every_reason_keeps_its_tokens_out(reason):
    assert sum(reason in known for known in OUTSIDE) == 1
    texts = NOT_INSIDE[reason]
    support = sentence_support(Words(".", " go", *texts), 1, 5)
    assert [texts[i - 2] for i in np.flatnonzero(support.content) if i > 1] == []


NEVER_LAST = {
    "stem of an abbreviation": (" Mr", " Dr", " vs", " Oct"),
    "initial": (" B", " p", " Z"),
    "comma": (",", " (", "-", " —", " $", ":", " &", "),"),
}


@pytest.mark.parametrize("reason", NEVER_LAST)
def test_what_a_full_stop_follows_for_another_reason_is_inside_but_never_last(reason):
    assert sum(reason in known for known in NOT_LAST) == 1
    support = sentence_support(Words(".", " go", *NEVER_LAST[reason]), 1, 5)
    assert support.content.all(where=[False] + [True] * (support.vocab_size - 1))
    assert np.flatnonzero(support.enders).tolist() == [1]


def test_words_contractions_and_numbers_may_end_a_sentence():
    support = sentence_support(Words(".", *LAST), 1, 5)
    assert support.content.tolist() == support.enders.tolist() == [False] + [True] * len(LAST)


def test_a_tokenizer_without_a_full_stop_is_refused():
    with pytest.raises(UserError, match="full stop"):
        sentence_support(Words(" go", " home"), 1, 5)


def test_lengths_that_admit_no_sentence_are_refused():
    with pytest.raises(UserError, match=r"task\.max_len 1"):
        sentence_support(Words(".", " (", ","), 1, 1)


def texts_of(data, rows, log_p):
    """One query's z, with log p of each."""
    query = data.held_out[0]
    trajectories = [
        make_trajectory(data.support, query.query_id, query.demonstrations[0]).scored(
            np.full(len(query.demonstrations[0]) + 1, value)
        )
        for value in log_p
    ]
    return QueryTexts(query, trajectories, rows)


def test_metrics_are_means_over_queries_of_each_querys_samples(task, data):
    same = texts_of(data, [" He slept", " He slept"], [-10.0, -20.0])
    different = texts_of(data, [" He slept", " The price of gold rose again"], [-2.0, -4.0])
    alone = texts_of(data, [" He slept"], [-6.0])
    metrics = mean_metrics(task.query_metrics([same, alone]))
    assert metrics["log_p_mean"] == pytest.approx((-15 - 6) / 2)
    assert metrics["log_p_max"] == pytest.approx((-10 - 6) / 2)
    assert metrics["diversity"] == pytest.approx(0, abs=1e-5)
    assert metrics["distinct_fraction"] == pytest.approx(0.75)
    assert metrics["length_mean"] == len(data.held_out[0].demonstrations[0])
    apart, alike = (one["diversity"] for one in task.query_metrics([different, same]))
    assert alike == pytest.approx(0, abs=1e-5)
    assert apart == pytest.approx(task.query_metrics([different])[0]["diversity"], abs=1e-4)
    assert apart > 0.3
    assert set(metrics) <= set(task.metrics)


def test_the_decoders_are_those_of_the_settings(data, tokenizer):
    assert [one.name for one in data.decoders] == [
        "tempered 0.6",
        "tempered 0.7",
        "tempered 0.8",
        "tempered 0.9",
        "nucleus 0.95",
        "beam",
        "diverse beam",
        "greedy",
    ]
    diverse = next(one for one in data.decoders if one.name == "diverse beam")
    assert diverse.groups == EvalConfig().samples
    few = ContinuationConfig(baselines=("nucleus", "greedy"), nucleus=0.8)
    job = ContinuationJob(task=few, eval=EvalConfig(queries=2))
    names = [one.name for one in ContinuationTask(job).load(tokenizer, len(tokenizer)).decoders]
    assert names == ["nucleus 0.8", "greedy"]
    none = ContinuationJob(task=ContinuationConfig(baselines=None), eval=EvalConfig(queries=2))
    assert ContinuationTask(none).load(tokenizer, len(tokenizer)).decoders == []


def test_a_run_concludes_with_the_plane(task, tmp_path):
    def at(log_p, diversity):
        return {"log_p_mean": log_p, "diversity": diversity}

    before, after = (Evaluation(at(x, y), [], [], 0.0) for x, y in ((-50, 0.9), (-40, 0.8)))
    baselines = {
        name: Baseline(at(-20.0 - i, 0.1 * i), [])
        for i, name in enumerate(("greedy", "beam", "tempered 0.6", "tempered 0.9"))
    }
    conclusion = task.summarize(before, after, tmp_path, baselines)
    assert conclusion.files == [tmp_path / "plane.png", tmp_path / "plane.svg"]
    assert task.summarize(before, after, tmp_path, {}).files  # without any decoder


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": {"min_len": 31}}, r"min_len \(31\) exceeds task\.max_len \(30\)"),
        ({"task": {"temperatures": (0.7, 0.0)}}, r"task\.temperatures takes"),
        ({"task": {"temperatures": (0.7, 0.7)}}, r"task\.temperatures takes distinct"),
        ({"task": {"diverse_groups": 3}}, r"diverse_groups \(3\) does not divide eval\.samples"),
        ({"data": {"path": "a.txt", "hub": "b/c"}}, "two sources"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ContinuationJob.model_validate(settings)


def test_more_held_out_prompts_than_there_are_is_refused(tokenizer, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("It rained.\nThe shop was closed.\n")
    job = ContinuationJob(data=PromptDataConfig(path=file))
    with pytest.raises(UserError, match=r"eval\.queries asks for 20 held-out prompts"):
        ContinuationTask(job).load(tokenizer, len(tokenizer))


def test_an_encoder_that_is_not_there_is_refused_at_once(tokenizer, tmp_path):
    job = ContinuationJob(encoder=EncoderConfig(name=str(tmp_path)))
    with pytest.raises(UserError, match=r"--encoder\.name"):
        ContinuationTask(job).load(tokenizer, len(tokenizer))


def test_a_prompt_of_a_persons_own_is_a_query_like_those_of_the_data(task, data, tokenizer):
    known = data.held_out[0]
    own = task.query({"prompt": known.texts["prompt"] + " "}, tokenizer)
    assert np.array_equal(own.prompt_ids, known.prompt_ids)
    assert np.array_equal(own.answer_ids, known.answer_ids)
    assert same_support(task.support(tokenizer, len(tokenizer)), data.support)


def test_the_settings_of_a_job_are_plain_values():
    job = ContinuationJob(reward=RewardConfig(temperature_end=0.8))
    assert ContinuationJob.model_validate(json.loads(job.model_dump_json())) == job
