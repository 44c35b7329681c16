"""Arithmetic: its language holds every rationale and no other, and runs conclude rightly."""

import json

import numpy as np
import pytest
from hypothesis import given
from test_arithmetic_data import problems
from transformers import AutoTokenizer

from gfn_ray.cli import parse as parse_job
from gfn_ray.decoding.simulation import Verdict
from gfn_ray.errors import UserError
from gfn_ray.evaluation.result import Evaluation, QueryTexts
from gfn_ray.models.tokenization import continuation_ids, text_ids
from gfn_ray.sampling.calculator import Calculator
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.tasks.arithmetic.answers import AnswerCheck
from gfn_ray.tasks.arithmetic.config import ArithmeticConfig, ArithmeticJob
from gfn_ray.tasks.arithmetic.data import Problem, generate
from gfn_ray.tasks.arithmetic.grammar import ArithmeticGrammar
from gfn_ray.tasks.arithmetic.task import ArithmeticTask
from gfn_ray.tasks.demonstrations import check_demonstrations, demonstration_trajectory
from gfn_ray.tasks.vocabulary import Vocabulary

SMALL = {"demonstrations": 6, "problems": 10, "held_out": 4, "reward_shots": 2}


def job(**task):
    return ArithmeticJob(task=ArithmeticConfig(**{**SMALL, **task}), eval={"queries": 8})


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def data(tokenizer):
    return ArithmeticTask(job()).load(tokenizer, len(tokenizer))


def verdict(simulation, query, tokens, seed=0):
    """The last verdict on tokens that the frozen LM might write, and the draft."""
    draft = simulation.draft(query, np.random.default_rng(seed))
    for token in tokens:
        found = draft.take(int(token))
        if found is not Verdict.GOES_ON:
            break
    return found, draft


def test_a_chain_that_the_lm_writes_without_a_mistake_is_an_exact_draw(data):
    for query in data.held_out:
        z = query.demonstrations[0]
        found, draft = verdict(data.simulation, query, [*z, *query.answer_ids])
        assert found is Verdict.KEPT
        kept = draft.simulated(-20.0)
        assert np.array_equal(kept.token_ids, z) and kept.log_density == -20.0
        assert np.array_equal(kept.query.answer_ids, query.answer_ids)


def test_wrong_values_other_answers_and_broken_chains_are_rejected(data, tokenizer):
    query, *others = data.held_out
    z, answer = query.demonstrations[0].tolist(), query.answer_ids.tolist()
    text = tokenizer.decode(z)
    wrong = text[:-1] + ("1" if text[-1] != "1" else "2")
    miscalculated = continuation_ids(tokenizer, query.texts["question"], wrong).tolist()
    other = next(q for q in others if q.texts["solution"] != query.texts["solution"])
    stop = next(int(s) for s in data.support.stop_ids if s != answer[0])
    for tokens in (
        [*miscalculated, *answer],
        [*z, *other.answer_ids],
        [*z[:3], *answer],
        [*z[:3], stop, *z[3:], *answer],
    ):
        assert verdict(data.simulation, query, tokens)[0] is Verdict.REJECTED


def test_a_chain_that_ends_elsewhere_is_kept_as_rarely_as_its_penalty_says(tokenizer):
    known = ArithmeticTask(job(wrong_answer_penalty=1.0)).load(tokenizer, len(tokenizer))
    query = next(q for q in known.held_out if len(q.demonstrations[0]) > 8)
    first = tokenizer.decode(query.demonstrations[0]).split(",")[0]
    z = continuation_ids(tokenizer, query.texts["question"], first)
    seeds = range(400)
    kept = [
        verdict(known.simulation, query, [*z, *query.answer_ids], seed)[0] is Verdict.KEPT
        for seed in seeds
    ]
    assert np.mean(kept) == pytest.approx(np.exp(-1), abs=0.08)


def accepts(grammar, text):
    state = grammar.start
    for character in text:
        state = grammar.step(state, character)
        if state is None:
            return False
    return grammar.may_stop(state)


@given(problems())
def test_the_language_has_every_rationale(problem):
    assert accepts(ArithmeticGrammar(8, 2), problem.rationale)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 6",
        " 6 - 4 =",
        " 6 - 4 = 2,",
        "6 - 4 = 2",
        " 06 - 4 = 2",
        " -0 - 4 = -4",
        " 6 * 4 = 24",
        " 6 - 4 = 2 7",
        " 123 - 4 = 119",
        " 6 - 4 = 2, 2 - 1 = 1, 1 - 1 = 0",
    ],
)
def test_the_language_has_no_other_text(text):
    assert not accepts(ArithmeticGrammar(2, 2), text)


def test_a_wrong_value_is_a_text_where_the_policy_writes_the_values():
    assert accepts(ArithmeticGrammar(2, 2, calculator=False), " 6 - 4 = 7")


@given(problem=problems())
def test_what_the_calculator_wrote_is_marked_as_a_tools(data, tokenizer, problem):
    tokens = continuation_ids(tokenizer, problem.question, problem.rationale)
    assert data.support.contains(tokens)
    by_tool = data.support.tool_mask(tokens)
    texts = tokenizer.batch_decode([[token] for token in tokens])
    marked = "".join(t if m else "|" for t, m in zip(texts, by_tool, strict=True))
    expected = [step.split("=")[1] for step in problem.rationale.split(",")]
    assert [part for part in marked.split("|") if part] == expected


def test_a_rationale_may_end_after_its_equations_and_only_there(data, tokenizer):
    problem = Problem((6, 9, 4), ("+", "+"))
    tokens = continuation_ids(tokenizer, problem.question, problem.rationale)
    ends = np.flatnonzero(data.support.terminable(tokens))
    assert [tokenizer.decode(tokens[:t]) for t in ends] == [" 6 + 9 = 15", problem.rationale]


def test_without_a_calculator_nothing_is_a_tools(tokenizer):
    data = ArithmeticTask(job(calculator=False)).load(tokenizer, len(tokenizer))
    assert data.tool is None
    assert not any(data.support.tool_mask(z).any() for q in data.train for z in q.demonstrations)


def test_what_the_calculator_wrote_in_the_rationales_is_what_it_answers(data, tokenizer):
    check_demonstrations("arithmetic", data, tokenizer)
    loop = ToolLoop(data.tool, tokenizer, data.support)
    question = text_ids(tokenizer, "Question: 6 - 4 = ?")
    for value, right in (("2", True), ("3", False)):
        z = continuation_ids(tokenizer, "Question: 6 - 4 = ?", f" 6 - 4 = {value}")
        assert data.support.contains(z) and loop.contains(question, z) == right


def test_the_calculator_gives_the_values_of_the_demonstrations(data):
    assert isinstance(data.tool, Calculator)
    for query in data.train[:6]:
        for step in query.texts["reference"].split(","):
            call, value = step.split("=")
            assert data.tool.answer(f"{call}=") == value


def test_only_demonstrations_have_known_rationales_in_training(data):
    assert [len(query.demonstrations) for query in data.train] == [1] * 6 + [0] * 10
    assert all(len(query.demonstrations) == 1 for query in data.held_out)


def test_held_out_problems_are_spread_over_the_lengths(data):
    lengths = [query.texts["operands"] for query in data.held_out]
    assert sorted(lengths) == ["3", "3", "4", "4", "5", "5", "6", "6"]


def test_validation_and_test_problems_differ(tokenizer):
    found = [
        {
            q.query_id
            for q in ArithmeticTask(job(eval_split=split)).load(tokenizer, len(tokenizer)).held_out
        }
        for split in ("validation", "test")
    ]
    assert not found[0] & found[1]


def test_a_question_is_never_shown_solved_before_itself(data, tokenizer):
    for query in data.train:
        context = tokenizer.decode(query.context_ids)
        assert context.count(query.texts["question"].strip()) == 1
        assert context.count("The answer is") == 2


def test_the_answer_is_scored_right_after_z(data, tokenizer):
    assert tokenizer.decode(data.train[0].answer_ids) == data.train[0].texts["answer"]


def test_a_chain_that_misses_the_answer_is_penalised(data):
    query = data.train[0]
    check = AnswerCheck(7.0)
    assert check(query, query.texts["reference"]) == 0.0
    assert check(query, " 1 + 1 = 999") == -7.0


def test_a_reward_for_right_answers_sees_nothing_else(tokenizer):
    known = ArithmeticTask(job(reward="right")).load(tokenizer, len(tokenizer))
    assert known.simulation is None
    query, other = known.held_out[:2]
    chains = [query.demonstrations[0], other.demonstrations[0]]
    pairs = [(query, demonstration_trajectory(query.query_id, z, known.support)) for z in chains]
    assert [one.final_log_reward for one in known.reward.score(pairs)] == [0.0, -1.0]


def sampled(data, texts_of):
    """Samples of each held-out query: its number gives the texts, True for the true chain."""
    found = []
    for number, query in enumerate(data.held_out):
        chain = query.demonstrations[0]
        z = demonstration_trajectory(query.query_id, chain, data.support)
        texts = [query.texts["reference"] if t is True else t for t in texts_of(number)]
        found.append(QueryTexts(query, [z] * len(texts), texts))
    return found


def test_metrics_of_a_length_are_means_over_its_problems(data):
    task = ArithmeticTask(job())
    found = task.query_metrics(sampled(data, lambda i: [True if i % 2 else " 99 + 1 = 100"]))
    assert [one["exact_chains"] for one in found] == [0.0, 1.0] * 4
    for query, one in zip(data.held_out, found, strict=True):
        for name in ("accuracy", "sample_accuracy"):
            assert one[f"{name}_{query.texts['operands']}"] == one[name]
    assert {name for one in found for name in one} <= set(task.metrics)


def test_calls_are_counted_where_the_tool_wrote(data):
    found = ArithmeticTask(job()).query_metrics(sampled(data, lambda _: [True, True]))
    steps = [int(query.texts["operands"]) - 1 for query in data.held_out]
    assert [one["calls_mean"] for one in found] == steps


def test_a_run_concludes_with_intervals_by_length_and_a_plot(data, tmp_path):
    task = ArithmeticTask(job())
    before = Evaluation({}, sampled(data, lambda _: [" 99 + 1 = 100", ""]), [], 0.0)
    after = Evaluation({}, sampled(data, lambda i: [True] if i < 3 else [" 0 - 99 = -99"]), [], 0.0)
    conclusion = task.summarize(before, after, tmp_path, {})
    assert [line.split(",")[0] for line in conclusion.findings] == [
        f"{count} operands" for count in (3, 4, 5, 6)
    ]
    assert "0% [0%, 66%] -> 100% [34%, 100%] of 2" in conclusion.findings[0]
    assert "0% [0%, 66%] -> 50% [9%, 91%] of 2" in conclusion.findings[1]
    assert {file.name for file in conclusion.files} == {"accuracy.png", "accuracy.svg"}
    assert all(file.stat().st_size > 5_000 for file in conclusion.files)


@pytest.mark.parametrize("seed", range(3))
def test_grammar_and_calculator_accept_every_generated_rationale(data, tokenizer, seed):
    """Written as a rollout does it: the policy up to each "=", the calculator after it."""
    splits = generate(
        seed,
        demonstrations=20,
        problems=40,
        train_operands=(3, 4),
        held_out=10,
        held_out_operands=(3, 5, 6),
        largest_operand=9,
    )
    calculator = Calculator()
    for part in (splits.demonstrations, splits.train, *splits.test.values()):
        for problem in part:
            written = ""
            for step in problem.rationale.split(","):
                written += ("," if written else "") + step.split("=")[0] + "="
                written += calculator.answer(written)
            assert written == problem.rationale
            assert data.support.contains(continuation_ids(tokenizer, problem.question, written))


def test_operands_beyond_the_language_are_refused_by_its_settings(tokenizer, tmp_path):
    row = {
        "str_query": "Question: 600 - 1 - 1 = ? Answer:",
        "num_sol": 598,
        "str_rationale": "600 - 1 =, 599 - 1 =",
        "str_sol": ". The answer is 598.",
    }
    (tmp_path / "large.json").write_text(json.dumps([row]))
    large = ArithmeticJob(
        task=ArithmeticConfig(**{**SMALL, "demonstrations": 1, "reward_shots": 0}),
        data={"path": tmp_path / "large.json"},
        eval={"queries": 8},
    )
    with pytest.raises(
        UserError, match=r"problem '600 - 1 - 1' writes 600, beyond task\.max_digits 2"
    ):
        ArithmeticTask(large).load(tokenizer, len(tokenizer))


def test_too_few_held_out_problems_name_both_settings(tokenizer):
    with pytest.raises(UserError, match=r"eval\.queries \(8\) .* task\.held_out 1"):
        ArithmeticTask(job(held_out=1)).load(tokenizer, len(tokenizer))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task.max-equations", "4"], "too low for 6 operands"),
        (["--task.largest-operand", "50"], "task.max_digits (2) is too low for 6 operands up to"),
        (["--task.train-operands", "3,3"], "takes distinct numbers"),
        (["--task.demonstrations", "3"], "must be below task.demonstrations (3)"),
        (["--task.problems", "0", "--task.demonstrations", "0"], "nothing to train on"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as refused:
        parse_job(ArithmeticJob, flags)
    assert refused.value.code == 2
    assert message in capsys.readouterr().err


def test_a_tokenizer_without_the_signs_is_refused(tokenizer, monkeypatch):
    def texts_without_equals(self):
        return [text.replace("=", "") for text in known]

    known = Vocabulary(tokenizer, len(tokenizer)).texts
    monkeypatch.setattr(
        Vocabulary, "texts", property(texts_without_equals, lambda *_: None), raising=False
    )
    with pytest.raises(UserError, match="cannot serve arithmetic"):
        ArithmeticTask(job()).support(tokenizer, len(tokenizer))


def test_a_persons_own_question_may_be_longer_than_those_of_training(tokenizer):
    task = ArithmeticTask(job())
    query = task.query({"question": "9 - 8 + 7 - 6 + 5 - 4 + 3"}, tokenizer)
    assert query.texts["solution"] == "6"
    assert task.answer(query, query.texts["reference"]) == "6"
    with pytest.raises(UserError, match="question: '3 times 4' is not a sum"):
        task.query({"question": "3 times 4"}, tokenizer)
    with pytest.raises(UserError, match=r"takes 9 steps, .* task\.max_equations 8"):
        task.query({"question": "1" + " + 1" * 9}, tokenizer)


@pytest.mark.parametrize(("question", "number"), [("123 + 4", 123), ("60 + 60 - 5", 120)])
def test_a_persons_own_question_with_numbers_that_z_cannot_have_is_refused(
    tokenizer, question, number
):
    with pytest.raises(UserError, match=rf"question: .* writes {number}, .*task\.max_digits 2"):
        ArithmeticTask(job()).query({"question": question}, tokenizer)
    ArithmeticTask(job()).query({"question": "60 + 60"}, tokenizer)


def test_a_persons_own_question_needs_demonstrations_only_where_the_policy_is_shown_them(
    tokenizer, tmp_path
):
    gone = {"path": tmp_path / "gone.json"}
    alone, shown = (
        ArithmeticTask(ArithmeticJob(task=ArithmeticConfig(shots=shots), data=gone))
        for shots in (0, 3)
    )
    assert alone.query({"question": "3 + 4"}, tokenizer).query_id == "3 + 4"
    with pytest.raises(UserError, match=r"cannot read .*gone\.json"):
        shown.query({"question": "3 + 4"}, tokenizer)
