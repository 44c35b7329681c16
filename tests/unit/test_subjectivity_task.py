"""The subjectivity task: queries, target filter, support, baselines, and what a run concludes."""

import itertools
import string
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gfn_ray.config import EvalConfig
from gfn_ray.errors import UserError
from gfn_ray.evaluation.result import Baseline, Evaluation, QuerySamples
from gfn_ray.tasks.subjectivity.config import SubjectivityConfig, SubjectivityJob
from gfn_ray.tasks.subjectivity.label_leak import LabelLeakFilter, plain_letters
from gfn_ray.tasks.subjectivity.task import SubjectivityTask
from gfn_ray.tasks.task import check_data, check_positions
from gfn_ray.tasks.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


def loaded(tokenizer, **task):
    job = SubjectivityJob(
        task=SubjectivityConfig(calibration_rows=6, **task), eval=EvalConfig(queries=10)
    )
    made = SubjectivityTask(job)
    return made, made.load(tokenizer, len(tokenizer))


def ids(tokenizer, text):
    return np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)


def test_queries_read_the_sentence_but_never_its_label(tokenizer):
    _, data = loaded(tokenizer)
    check_data("subjectivity", data, SubjectivityJob().sampler, len(tokenizer))
    assert len(data.train) == 10 and len(data.held_out) == 16
    for query in [*data.train, *data.held_out]:
        prompt = tokenizer.decode(query.prompt_ids)
        assert prompt == query.texts["text"] + "\nThis sentence"
        word = {"objective": "summary", "subjective": "review"}[query.texts["label"]]
        assert tokenizer.decode(query.answer_ids) == f"\nThis sentence is from a movie {word}"


def test_examples_that_the_model_cannot_read_before_a_sentence_are_refused(tokenizer):
    _, data = loaded(tokenizer)
    few = max(data.labels.classifiers, key=lambda one: max(map(len, one.contexts.values())))
    longest = max(map(len, few.contexts.values())) + max(map(len, few.answers))
    sampler = SubjectivityJob().sampler.model_copy(update={"max_prompt_tokens": 1})
    check_positions(data, sampler, longest)
    with pytest.raises(UserError, match=rf"is {longest} tokens for 8-shot.*lower task\.shots"):
        check_positions(data, sampler, longest - 1)


def test_training_validation_and_test_share_no_sentence(tokenizer):
    _, data = loaded(tokenizer, labels=50)
    texts = [q.texts["text"] for q in [*data.train, *data.held_out]]
    assert len(set(texts)) == len(texts)
    assert set(data.labels.truth) == {q.query_id for q in data.train}


def test_a_rationale_ends_a_sentence_and_starts_a_word(tokenizer):
    _, data = loaded(tokenizer)
    assert data.support.contains(ids(tokenizer, " was fine and ready."))
    assert not data.support.contains(ids(tokenizer, " was fine and ready"))
    assert not data.support.contains(ids(tokenizer, "was fine and ready."))


def test_every_way_to_tokenise_a_named_label_is_outside_the_target(tokenizer):
    task, data = loaded(tokenizer)
    texts = Vocabulary(tokenizer, len(tokenizer)).texts
    whole = ids(tokenizer, " It is a Review.")
    letters = np.concatenate([ids(tokenizer, c) for c in " It is a Review."])
    for tokens in (whole, letters):
        assert "".join(texts[t] for t in tokens) == " It is a Review."
        assert task.is_outside(tokens) and data.reward._outside(tokens)
    assert len(letters) > len(whole)
    assert not task.is_outside(ids(tokenizer, " It tells what a man did."))


TEXT = st.text(string.ascii_lowercase + " ", max_size=12)


@given(TEXT, TEXT, st.lists(st.integers(1, 9), max_size=6), st.booleans())
def test_the_cut_into_tokens_and_the_case_of_letters_do_not_hide_a_label(left, right, cuts, upper):
    text = f"{left}subjectivity{right}"
    text = text.upper() if upper else text
    edges = [0, *sorted({min(sum(cuts[: i + 1]), len(text)) for i in range(len(cuts))}), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    names = LabelLeakFilter.of(["Subjectiv", "review"], pieces)
    assert names(np.arange(len(pieces), dtype=np.int32))


@pytest.mark.parametrize(
    "text", ["sub-jective", "ＳＵＢＪＥＣＴＩＶＥ", "re\u00adviews", "nonsubjective"]
)
def test_marks_widths_and_prefixes_do_not_hide_a_label(text):
    assert LabelLeakFilter.of(["subjectiv", "review"], []).in_text(text)


def test_words_that_only_look_alike_are_inside():
    names = LabelLeakFilter.of(["subjectiv", "review"], [])
    assert not any(map(names.in_text, ["the subject of it", "a view", "preview"[:3]]))
    assert plain_letters("  A-b  C!") == "ab c"


def test_baselines_read_the_sentence_and_the_tuned_one_the_same_labels(tokenizer):
    _, data = loaded(tokenizer, labels=6)
    zero, few, tuned = data.labels.classifiers
    assert [one.name for one in (zero, few, tuned)] == ["zero-shot", "6-shot", "tuned on labels"]
    assert set(zero.contexts) == set(few.contexts) == {q.query_id for q in data.held_out}
    query = data.held_out[0]
    assert tokenizer.decode(zero.contexts[query.query_id]) == query.texts["text"]
    shown = tokenizer.decode(few.contexts[query.query_id])
    assert shown.endswith("\n\n" + query.texts["text"])
    assert shown.count("This sentence is from a movie") == 6
    assert not zero.examples and not few.examples
    assert [(tokenizer.decode(c), y) for c, y in tuned.examples] == [
        (q.texts["text"], data.labels.truth[q.query_id]) for q in data.train
    ]


def test_noise_reaches_every_method_that_learns_from_labels_and_no_test_label(tokenizer):
    (_, right), (_, wrong) = (loaded(tokenizer, label_noise=share) for share in (0.0, 1.0))
    assert wrong.labels.truth == {name: 1 - label for name, label in right.labels.truth.items()}
    turned = [1 - label for _, label in right.labels.classifiers[-1].examples]
    assert [label for _, label in wrong.labels.classifiers[-1].examples] == turned
    for query, same in zip(wrong.held_out, right.held_out, strict=True):
        assert query.texts == same.texts
        assert np.array_equal(query.answer_ids, same.answer_ids)


def predictions(data, margin=1.0, shift=3.0):
    """log p [1, 2] of a predictor that is right, but leans to one label."""
    found = {}
    for query in data.held_out:
        sign = 1 if query.texts["label"] == "subjective" else -1
        odds = sign * margin + shift
        found[query.query_id] = -np.logaddexp(0, np.array([[odds, -odds]]))
    return found


def test_a_lean_is_corrected_by_validation_sentences_and_not_without(tokenizer):
    task, data = loaded(tokenizer)
    corrected = task.label_metrics(predictions(data))
    assert corrected["auc"] == 1
    task, data = loaded(tokenizer, calibration="none")
    assert len(data.held_out) == 10
    leaning = task.label_metrics(predictions(data))
    assert leaning["accuracy"] == pytest.approx(
        np.mean([q.texts["label"] == "subjective" for q in data.held_out])
    )
    assert corrected["accuracy"] > leaning["accuracy"]


def test_content_free_inputs_are_held_out_beside_the_test(tokenizer):
    task, data = loaded(tokenizer, calibration="content_free")
    extra = data.held_out[10:]
    assert [q.texts["text"] for q in extra] == ["N/A", "[MASK]", "..."]
    assert data.calibration == {q.query_id for q in extra}
    found = predictions(data)
    for query in extra:
        found[query.query_id] = -np.logaddexp(0, np.array([[3.0, -3.0]]))
    assert task.label_metrics(found)["accuracy"] == 1


def evaluation(task, data, rng, right):
    """An evaluation with four samples a query, of which a share is right."""
    samples = []
    for query in data.held_out:
        truth = int(query.texts["label"] == "subjective")
        odds = np.where(rng.random(4) < right, 2.0, -2.0) * (1 if truth else -1)
        log_p = -np.logaddexp(0, np.stack([odds, -odds], axis=1))
        z = [SimpleNamespace(stopped=True, token_ids=[]) for _ in range(4)]
        samples.append(QuerySamples(query, z, [" a."] * 4, np.zeros(4), None, log_p))
    return Evaluation(dict(task.sample_metrics(samples)), samples, [], 0.0)


def test_a_run_concludes_with_accuracy_against_the_number_of_samples(tokenizer, tmp_path):
    job = SubjectivityJob(
        task=SubjectivityConfig(calibration_rows=30), eval=EvalConfig(queries=100, samples=4)
    )
    task = SubjectivityTask(job)
    data = task.load(tokenizer, len(tokenizer))
    rng = np.random.default_rng(0)
    before, after = (evaluation(task, data, rng, right) for right in (0.5, 0.75))
    baselines = {"zero-shot": Baseline({"accuracy": 0.6}, [])}
    conclusion = task.summarize(before, after, tmp_path, baselines)
    (line,) = conclusion.findings
    shown = [float(part.split(": ")[1]) for part in line.split("over: ")[1].split(", ")]
    assert len(shown) == 3 and shown[-1] > shown[0]
    assert shown[-1] == pytest.approx(after.metrics["accuracy"], abs=1e-3)
    assert {file.name for file in conclusion.files} == {"accuracy.png", "accuracy.svg"}
    drawn = (tmp_path / "accuracy.svg").read_text()
    assert 'id="before"' in drawn and 'id="after"' in drawn


def test_samples_without_labels_are_a_fault(tokenizer):
    task, data = loaded(tokenizer)
    one = QuerySamples(data.held_out[0], [], [], np.zeros(0), None)
    with pytest.raises(ValueError, match="came without labels"):
        task.sample_metrics([one])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"labels": 500}, "task.labels 500 needs"),
        ({"answer": "{label} it is"}, "begin alike"),
        ({"label_words": ("plot", "plot twist")}, "begin alike and then differ"),
    ],
)
def test_a_task_that_cannot_work_is_refused(tokenizer, task, message):
    with pytest.raises(UserError, match=message):
        loaded(tokenizer, **task)


def test_more_test_sentences_than_there_are_is_refused(tokenizer):
    job = SubjectivityJob(eval=EvalConfig(queries=5000))
    with pytest.raises(UserError, match=r"eval\.queries asks for 5000 test sentences"):
        SubjectivityTask(job).load(tokenizer, len(tokenizer))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"min_len": 9, "max_len": 8}, r"min_len \(9\) exceeds task\.max_len \(8\)"),
        ({"template": "no field"}, r"task\.template lacks \{text\}"),
        ({"answer": "{word}"}, r"task\.answer takes plain \{label\}"),
        ({"template": "{text} So "}, r"task\.template ends in a space, and z begins with one"),
        ({"reward_template": "{text}\t"}, r"task\.reward_template ends in a space"),
        (
            {"direct_template": "{text} ", "answer": " It is a {label}"},
            r"task\.direct_template ends in a space, and task\.answer begins with one",
        ),
        ({"direct_template": "{text} {x}"}, r"task\.direct_template takes"),
        ({"label_words": ("a", "a")}, "two different words"),
        ({"named_stems": ("-",)}, "named_stems"),
        ({"label_floor": 1.0}, "label_floor"),
        ({"wrong_label_penalty": -1.0}, "wrong_label_penalty"),
        ({"wrong_label_penalty": 30.0}, r"penalty \(30\) .* task\.label_floor \(-20\)"),
        ({"wrong_label_penalty": 5.0, "label_floor": -5.0}, "lower the second below -5"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(task, message):
    with pytest.raises(ValueError, match=message):
        SubjectivityConfig(**task)


def test_a_template_may_end_in_a_line_or_before_what_begins_without_a_space():
    SubjectivityConfig(template="{text}\n", direct_template="{text} ", answer="It is a {label}")
