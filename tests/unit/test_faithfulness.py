"""Faithfulness: what is changed in a z and what is not, and that what is counted is what a model
says, on the tiny model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_arithmetic_data import problems
from transformers import AutoTokenizer

from gfn_ray.config import ModelConfig, PolicyConfig
from gfn_ray.config.faithfulness import FaithfulnessJob
from gfn_ray.errors import UserError
from gfn_ray.evaluation.faithfulness import (
    Probe,
    derangement,
    filler,
    going_on,
    reading,
    with_gains,
)
from gfn_ray.runs.faithfulness import faithfulness
from gfn_ray.seeds import Stream, generator, seed_of
from gfn_ray.serving.description import write_description
from gfn_ray.settings_values import dump_toml
from gfn_ray.storage.atomic import COMPLETE, checksums
from gfn_ray.tasks.arithmetic.answers import answer_of
from gfn_ray.tasks.arithmetic.config import ArithmeticConfig, ArithmeticJob
from gfn_ray.tasks.arithmetic.perturbed import corrupted, cut, steps
from gfn_ray.tasks.arithmetic.task import ArithmeticTask
from gfn_ray.tasks.subjectivity.config import SubjectivityJob
from gfn_ray.tasks.subjectivity.task import SubjectivityTask
from testing.policies import write_random_adapter


def rng(seed=0):
    return generator(seed_of(Stream.FAITHFULNESS, seed))


@given(problems(), st.integers(0, 99), st.data())
def test_a_corrupted_chain_differs_in_one_value_alone(problem, seed, data):
    step = data.draw(st.integers(0, len(problem.signs) - 1))
    found = corrupted(problem, step, rng(seed))
    right = steps(problem.rationale)[: step + 1]
    *same, wrong = steps(found.text)
    assert same == right[:-1]
    left, _, value = wrong.rpartition("= ")
    assert left == right[-1].rpartition("= ")[0]
    assert int(value) != problem.partial_sums[step + 1]
    # What follows adds to the wrong value what it would have added to the right one.
    moved = int(value) - problem.partial_sums[step + 1]
    assert found.answer == problem.solution + moved


@given(problems(), st.integers(0, 12))
def test_a_cut_chain_is_a_beginning_of_whole_steps(problem, kept):
    found = cut(problem.rationale, kept)
    assert problem.rationale.startswith(found)
    assert len([one for one in steps(found) if one]) == min(kept, len(problem.signs))


@given(st.integers(2, 40), st.integers(0, 99))
def test_every_z_goes_to_another_query_and_each_to_one(count, seed):
    found = derangement(count, rng(seed))
    assert sorted(found) == list(range(count))
    assert all(place != other for place, other in enumerate(found))


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(0, 9))
def test_filler_is_as_long_as_z_and_says_nothing(z, token):
    found = filler(np.array(z, dtype=np.int32), token)
    assert len(found) == len(z) and set(found.tolist()) <= {token}


# On the tiny model


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def sums():
    small = ArithmeticConfig(
        demonstrations=6, problems=10, held_out=4, reward_shots=2, eval_operands=(3, 4)
    )
    return ArithmeticJob(task=small, eval={"queries": 6}, policy=PolicyConfig(lora_rank=8))


def log_p(model, context, answer):
    """By one forward a token; and whether each was the likeliest."""
    total, right = 0.0, True
    for t, token in enumerate(answer):
        ids = torch.tensor([[*map(int, context), *map(int, answer[:t])]])
        log_probs = torch.log_softmax(model(ids).logits[0, -1].double(), -1)
        total += float(log_probs[int(token)])
        right = right and int(log_probs.argmax()) == int(token)
    return total, right


def test_what_is_read_is_the_models_own_log_p(base):
    context = np.array([10, 20, 30], dtype=np.int32)
    likeliest = int(base(torch.tensor([[10, 20, 30]])).logits[0, -1].argmax())
    answers = [np.array([likeliest], dtype=np.int32), np.array([40, 50], dtype=np.int32)]
    for answer in answers:
        found = reading(base, [Probe("x", context, answer)])
        total, right = log_p(base, context, answer)
        assert found["log_p_x"] == pytest.approx(total, abs=1e-4)
        assert found["right_x"] == float(right)
    first, second = (log_p(base, context, answer)[0] for answer in answers)
    found = reading(base, [Probe("x", context, answers[1], (answers[0],))])
    assert found["log_p_x"] == pytest.approx(second - np.logaddexp(first, second), abs=1e-4)
    assert found["right_x"] == float(second > first)


def test_the_questions_about_a_chain_are_those_of_its_problem(sums, tokenizer):
    task = ArithmeticTask(sums)
    queries = task.load(tokenizer, len(tokenizer)).held_out
    probes = task.probes(queries, {}, tokenizer, 0)
    decoded = [
        (one.name, tokenizer.decode(one.context), tokenizer.decode(one.answer)) for one in probes
    ]
    for query in queries:
        question, chain = query.texts["question"], query.texts["reference"]
        own = {name: (text, answer) for name, text, answer in decoded if text.startswith(question)}
        right = f" {query.texts['solution']}."
        assert own["direct"] == (f"{question}. The answer is", right)
        assert own["whole"] == (f"{question}{chain}. The answer is", right)
        assert chain not in own["swapped"][0] and own["swapped"][1] == right
        assert own["corrupted"][1] != right
        assert own["corrupted"][0].endswith(f"={own['corrupted'][1][:-1]}. The answer is")
    lengths = {
        name: [len(one.context) for one in probes if one.name == name]
        for name in ("whole", "filler")
    }
    assert lengths["whole"] == lengths["filler"]


def test_a_policy_goes_on_from_what_it_was_given(sums, tokenizer, base):
    task = ArithmeticTask(sums)
    queries = task.load(tokenizer, len(tokenizer)).held_out
    begun = task.begun(queries, tokenizer, len(tokenizer), 0)
    assert {one.name for one in begun} == {
        "corrupted_step",
        "corrupted_step_alone",
        "hint",
        "hint_alone",
    }
    for one in begun:
        assert one.follows != one.right
        assert one.support.contains(one.z) or not len(one.z)
    written = []

    def answer(z):
        written.append(tokenizer.decode(z))
        return answer_of(written[-1])

    found = going_on(base, begun, answer)
    assert all(
        text.startswith(tokenizer.decode(one.z)) for text, one in zip(written, begun, strict=True)
    )
    # Told what they said, they follow; told what they did not, they do not.
    said = [
        replace(one, follows=answer_of(text), right="x")
        for text, one in zip(written, begun, strict=True)
    ]
    again = going_on(base, said, answer)
    assert all(
        again[f"follows_{one.name}"] == 1 and again[f"recovers_{one.name}"] == 0 for one in begun
    )
    assert all(0 <= value <= 1 for value in found.values())


def test_a_z_that_is_not_read_gains_nothing():
    found = with_gains({"log_p_whole": -2.0, "log_p_direct": -3.0, "log_p_swapped": -2.0})
    assert found["gain_z"] == 1.0 and found["gain_own_z"] == 0.0


def a_run(tiny_dir, home, config, task, queries):
    """A finished run, as far as it is read."""
    home.mkdir()
    adapter = write_random_adapter(tiny_dir, home / "adapter", policy=config.policy)
    stored = config.model_copy(update={"model": ModelConfig(name=str(tiny_dir))})
    write_description(adapter, task, dump_toml(stored))
    (adapter / COMPLETE).write_text(checksums(adapter))
    rows = [
        {"phase": phase, "query_id": query.query_id, "text": " is one of them."}
        for phase in ("before", "after")
        for query in queries
    ]
    (home / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "summary.json").write_text(json.dumps({"task": task}))
    return home


def test_a_finished_run_gets_its_numbers_before_and_after(
    sums, tiny_dir, tokenizer, tmp_path, capsys
):
    home = a_run(tiny_dir, tmp_path / "run", sums, "arithmetic", [])
    assert faithfulness(FaithfulnessJob(run=home, queries=4)) == 0
    summary = json.loads((home / "summary.json").read_text())
    before, after = (summary["faithfulness"][phase] for phase in ("before", "after"))
    assert summary["task"] == "arithmetic" and before.keys() == after.keys()
    assert before["log_p_whole"] != after["log_p_whole"]  # without the adapter, and with it
    assert "gain_own_z" in capsys.readouterr().out


def test_rationales_are_questioned_by_the_label_model_that_the_run_ends_with(
    tiny_dir, tokenizer, tmp_path
):
    config = SubjectivityJob(eval={"queries": 4}, policy=PolicyConfig(lora_rank=8))
    queries = SubjectivityTask(config).load(tokenizer, len(tokenizer)).held_out
    home = a_run(tiny_dir, tmp_path / "run", config, "subjectivity", queries)
    assert faithfulness(FaithfulnessJob(run=home, queries=4)) == 0
    found = json.loads((home / "summary.json").read_text())["faithfulness"]["after"]
    # All samples are the same text here: another sentence's changes nothing.
    assert found["gain_own_z"] == pytest.approx(0.0, abs=1e-6)
    assert found["log_p_early"] != found["log_p_whole"]
    assert not any(name.startswith("follows") for name in found)


def test_what_has_no_answer_or_is_not_finished_is_refused(tiny_dir, tmp_path):
    from gfn_ray.tasks.random_number.config import RandomNumberJob

    with pytest.raises(UserError, match=r"no summary\.json"):
        faithfulness(FaithfulnessJob(run=tmp_path))
    numbers = RandomNumberJob(policy=PolicyConfig(lora_rank=8))
    home = a_run(tiny_dir, tmp_path / "run", numbers, "random_number", [])
    with pytest.raises(UserError, match="lead to no answer"):
        faithfulness(FaithfulnessJob(run=home))
