"""Tools: their answers as tokens, and log q of what the policy wrote around them."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from gfn_ray.config import PolicyConfig, ReplayConfig
from gfn_ray.errors import RunFailed, UserError
from gfn_ray.models.tokenization import continuation_ids
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.policy.log_q import TrajectoryGroup, log_q
from gfn_ray.replay.buffer import ReplayBuffer
from gfn_ray.rewards.table import TableReward
from gfn_ray.sampling.exploration import BehaviourPolicy
from gfn_ray.sampling.partial_sequence import PartialSequence
from gfn_ray.sampling.tools import ToolError, ToolLoop
from gfn_ray.storage.trajectories import pack_trajectories, unpack_trajectories
from gfn_ray.support import GrammarSupport
from gfn_ray.tasks.demonstrations import check_demonstrations, demonstration_trajectory
from gfn_ray.tasks.task import TaskData
from gfn_ray.trajectory import Query
from testing.grammars import Adder, sum_support, whole_language
from testing.makers import make_support, random_query

PROMPT = "Anna counted:"


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture
def support(base, tokenizer):
    return sum_support(tokenizer, base.config.vocab_size)


@pytest.fixture
def loop(tokenizer, support):
    return ToolLoop(Adder(), tokenizer, support)


@pytest.fixture
def prompt(tokenizer):
    return np.array(tokenizer(PROMPT)["input_ids"], dtype=np.int32)


@pytest.fixture
def language(support, loop, prompt):
    return [
        demonstration_trajectory("q", z, support) for z in whole_language(support, loop, prompt)
    ]


def ids(tokenizer, text):
    return continuation_ids(tokenizer, PROMPT, text)


def answer_text(tokenizer, loop, prompt, text):
    answer = loop.answer_ids(prompt, ids(tokenizer, text))
    return tokenizer.decode(answer.token_ids), answer.failed


def test_the_tool_answers_what_stands_last(tokenizer, loop, prompt):
    assert answer_text(tokenizer, loop, prompt, "5+1=") == ("6", False)
    assert answer_text(tokenizer, loop, prompt, "5+1=6;5+5=") == ("10", False)


def test_a_call_that_fails_gets_the_error_text(tokenizer, support, prompt):
    loop = ToolLoop(Adder(limit=5), tokenizer, support)
    assert answer_text(tokenizer, loop, prompt, "5+1=") == ("?", True)


def test_the_spelling_of_the_call_does_not_change_the_answer(tokenizer, loop, prompt, language):
    """Most texts have several spellings; the answer belongs to the text."""
    answers = {}
    for trajectory in language:
        z, by_tool = trajectory.token_ids, trajectory.tool_mask
        first = np.flatnonzero(by_tool)[0]
        answered = tokenizer.decode(z[first:][np.cumprod(by_tool[first:]).astype(bool)])
        answers.setdefault(tokenizer.decode(z[:first]), set()).add(answered)
    assert len(answers) == 9
    assert all(len(found) == 1 for found in answers.values())


def test_triggers_are_the_legal_tokens_that_end_with_its_text(tokenizer, loop, support):
    legal = np.flatnonzero(support.masks.any(axis=0))
    ending = {int(token) for token in legal if tokenizer.decode([token]).endswith("=")}
    assert set(loop.trigger_ids) == ending != set()


def test_a_tool_that_no_token_calls_is_refused(tokenizer, support):
    tool = Adder()
    tool.trigger = "=>"
    with pytest.raises(UserError, match="no token that z may contain ends with '=>'"):
        ToolLoop(tool, tokenizer, support)


@pytest.mark.parametrize("answer", ["7", "", "6;", "six"])
def test_an_answer_without_a_place_in_z_ends_the_run_by_name(tokenizer, support, prompt, answer):
    tool = Adder()
    tool.answer = lambda text: answer
    loop = ToolLoop(tool, tokenizer, support)
    with pytest.raises(RunFailed, match=rf"Adder answered '{answer}' after '5\+1='"):
        loop.answer_ids(prompt, ids(tokenizer, "5+1="))


def test_a_support_without_tools_has_no_place_for_an_answer(tokenizer, base, prompt):
    bounded = make_support(vocab_size=base.config.vocab_size)
    loop = ToolLoop(Adder(), tokenizer, bounded)
    with pytest.raises(RunFailed, match="does not allow that"):
        loop.answer_ids(prompt, ids(tokenizer, "5+1="))


def test_what_a_tool_does_wrong_is_not_a_failed_call(tokenizer, support, prompt):
    """Only ToolError means that a call has no answer; a bug keeps its traceback."""
    tool = Adder()
    tool.answer = lambda text: int("x")
    with pytest.raises(ValueError, match="invalid literal"):
        ToolLoop(tool, tokenizer, support).answer_ids(prompt, ids(tokenizer, "5+1="))
    assert not issubclass(ToolError, ValueError)


def test_a_known_text_is_marked_as_the_tool_loop_would(tokenizer, support):
    text = "5+1=6;5+5=10"
    z = ids(tokenizer, text)
    known = demonstration_trajectory("q", z, support)
    written = [tokenizer.decode([token]) for token in z[known.tool_mask]]
    assert support.contains(z)
    assert "".join(written) == "610"
    assert not known.terminable[:-1][known.tool_mask].any()


@pytest.mark.parametrize(("text", "right"), [("5+1=6;5+5=10", True), ("5+1=6;5+5=1", False)])
def test_a_known_text_whose_answers_are_not_the_tools_is_refused(
    tokenizer, support, loop, prompt, text, right
):
    z = ids(tokenizer, text)
    assert loop.contains(prompt, z) == right
    query = Query("q", prompt, prompt, prompt[:0], (z,))
    data = TaskData([query], [query], support, TableReward({}, -1.0), tool=Adder())
    with nullcontext() if right else pytest.raises(UserError, match=r"'5\+1=6;5\+5=1', in which"):
        check_demonstrations("sums", data, tokenizer)


def test_a_tool_that_has_no_place_for_its_answer_wrote_nothing(tokenizer, support, prompt):
    silent = Adder()
    silent.answer = lambda text: "seven"
    loop = ToolLoop(silent, tokenizer, support)
    assert not loop.contains(prompt, ids(tokenizer, "5+1=6"))


def test_log_q_of_the_whole_language_sums_to_one(base, support, prompt, language):
    """Every z with its tool's answers, in every spelling: the answers cost nothing."""
    masks = torch.from_numpy(support.masks)
    with torch.no_grad():
        found = log_q(base, [TrajectoryGroup(prompt, language)], support, masks)
    assert len(language) >= 9 + 81
    assert len({len(t) for t in language}) > 2
    assert float(found.log_q.double().exp().sum()) == pytest.approx(1.0, abs=1e-5)


def whole_by_tool(may_go_on, vocab_size):
    """A language in which a tool writes token 5, and then the policy stops or, where it may, goes
    on with a 6."""
    transitions = np.array([[1, -1], [-1, 2], [-1, -1]], dtype=np.int32)
    if not may_go_on:
        transitions[1, 1] = -1
        transitions = transitions[:2]
    token_class = np.full(vocab_size, -1, dtype=np.int32)
    token_class[[5, 6]] = [0, 1]
    by_tool = np.zeros(transitions.shape, dtype=np.bool_)
    by_tool[0, 0] = True
    may_stop = np.arange(len(transitions)) > 0
    return GrammarSupport(token_class, transitions, by_tool, may_stop, np.array([1, 2], np.int32))


@pytest.mark.parametrize("may_go_on", [False, True])
def test_log_q_of_a_z_that_a_tool_wrote_whole_is_its_stop(base, may_go_on):
    small = whole_by_tool(may_go_on, base.config.vocab_size)
    z = demonstration_trajectory("q", np.array([5], dtype=np.int32), small)
    group = TrajectoryGroup(np.array([20, 21], dtype=np.int32), [z, z])
    model = add_adapter(base, PolicyConfig(lora_rank=8), 0)
    found = log_q(model, [group], small, torch.from_numpy(small.masks))
    logits = model(torch.tensor([[20, 21, 5]])).logits[0, -1].log_softmax(-1)
    legal = [1, 2, 6] if may_go_on else [1, 2]
    stop = logits[[1, 2]].logsumexp(0) - logits[legal].logsumexp(0)
    assert torch.allclose(found.log_q, stop.expand(2), atol=1e-4)
    (found.log_q**2).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert any(gradient.any() for gradient in gradients) == may_go_on


def test_every_first_equation_that_may_stop_is_a_node_and_a_z_of_its_own(
    base, support, prompt, language
):
    masks = torch.from_numpy(support.masks)
    with torch.no_grad():
        found = log_q(base, [TrajectoryGroup(prompt, language)], support, masks)
    alone = {t.token_ids.tobytes(): float(q) for t, q in zip(language, found.log_q, strict=True)}
    for row, trajectory in enumerate(language):
        for t in np.flatnonzero(trajectory.terminable):
            prefix = alone[trajectory.token_ids[:t].tobytes()]
            assert float(found.prefix_log_q[row, t]) == pytest.approx(prefix, abs=1e-4)


def test_logits_of_tokens_that_only_the_tool_writes_change_nothing(
    base, tokenizer, support, prompt, language
):
    masks = torch.from_numpy(support.masks)
    only_tool = [
        token
        for token in np.unique(np.concatenate([t.token_ids for t in language])).tolist()
        if not support.masks[:, token].any()
    ]
    assert {tokenizer.decode([token]) for token in only_tool} >= {"2", "6"}
    head = base.lm_head.weight.requires_grad_(True)
    before = log_q(base, [TrajectoryGroup(prompt, language)], support, masks).log_q
    before.sum().backward()
    assert not head.grad[only_tool].any()
    assert head.grad.any()
    with torch.no_grad():
        head[only_tool] += 3.0
        after = log_q(base, [TrajectoryGroup(prompt, language)], support, masks).log_q
    assert torch.equal(after, before.detach())


def test_replay_and_the_wire_keep_which_tokens_a_tool_wrote(language):
    buffer = ReplayBuffer(ReplayConfig(capacity=64), 0, group=4)
    stored = [replace(t, policy_version=0).scored(np.zeros(len(t) + 1)) for t in language[:16]]
    buffer.add(unpack_trajectories(pack_trajectories(stored)))
    masks = {t.token_ids.tobytes(): t.tool_mask.tolist() for t in stored}
    batch = buffer.sample(1, 8, 0)
    assert all(t.tool_mask.tolist() == masks[t.token_ids.tobytes()] for t in batch.trajectories)
    assert any(t.tool_mask.any() for t in batch.trajectories)


def test_no_turn_repeats_the_random_numbers_of_another():
    query = random_query(np.random.default_rng(0), "q")
    sequences = [
        PartialSequence(query, BehaviourPolicy("policy", 1.0, 0.0, seed)) for seed in range(50)
    ]

    def seeds():
        for turn in range(5):
            for sequence in sequences:
                sequence.turn = turn
                yield sequence.seed

    found = list(seeds())
    assert found[:50] == list(range(50))
    assert len(set(found)) == 250
    assert found == list(seeds())
