"""Decoders of arithmetic without training, on the tiny model: the calculator writes its share, and
chain-of-thought decoding takes the answer that the model is surest of."""

from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoTokenizer

from gfn_ray.decoding.branching import branches, by_rank, margins, surest
from gfn_ray.decoding.decode import decode
from gfn_ray.decoding.sampling import likeliest, one_by_one
from gfn_ray.policy.log_q import TrajectoryGroup
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.seeds import Stream, seed_of
from gfn_ray.tasks.arithmetic.config import ArithmeticConfig, ArithmeticJob
from gfn_ray.tasks.arithmetic.task import ArithmeticTask
from testing.policies import job, load, lora_trainer

SEED = seed_of(Stream.DECODER, 0)
KINDS = ("best_of", "resample", "mh", "smc", "cot")


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def data(tiny_dir, tokenizer):
    task = ArithmeticConfig(
        demonstrations=6,
        problems=10,
        held_out=4,
        reward_shots=2,
        max_equations=5,
        eval_operands=(3, 4),
        baselines=KINDS,
    )
    made = ArithmeticJob(task=task, eval={"queries": 4, "candidates": 4})
    found = ArithmeticTask(made).load(tokenizer, len(tokenizer))
    found.reward.load(lambda: load(tiny_dir))
    return found


@pytest.fixture(scope="module")
def tool(data, tokenizer):
    return ToolLoop(data.tool, tokenizer, data.support)


def test_every_decoder_leaves_the_values_to_the_calculator(base, data, tool):
    assert [one.kind for one in data.decoders] == list(KINDS)
    queries = {query.query_id: query for query in data.held_out}
    for decoder in data.decoders:
        found = decode(
            base, data.support, data.held_out, decoder, 2, SEED, tool=tool, score=data.reward.score
        )
        assert {one.query_id for one in found.trajectories} == set(queries)
        for one in found.trajectories:
            assert tool.contains(queries[one.query_id].prompt_ids, one.token_ids)
            assert np.array_equal(one.tool_mask, data.support.tool_mask(one.token_ids))


def test_the_log_q_that_a_decoder_tells_is_the_policys_and_0_where_the_tool_wrote(base, data, tool):
    query = data.held_out[0]
    (resample,) = [one for one in data.decoders if one.kind == "resample"]
    drawn = decode(base, data.support, [query], resample, 3, SEED, tool=tool).trajectories
    told = [one.sampler_log_content + one.sampler_log_stop for one in drawn]
    trainer = lora_trainer(base, job(), data.support)
    known = trainer._loss._log_q_of(TrajectoryGroup(query.prompt_ids, drawn))
    assert told == pytest.approx(known.log_q.detach().numpy(), abs=1e-3)
    assert all((one.sampler_log_pf[one.tool_mask] == 0).all() for one in drawn)


def test_the_cost_of_cot_is_of_every_path_that_it_wrote(base, data, tool):
    """More beginnings are asked for than there are, and some are written twice."""
    (cot,) = [one for one in data.decoders if one.kind == "cot"]
    query, k = data.held_out[0], 400
    (written,) = one_by_one(base, data.support, [query.prompt_ids], k, by_rank(k), tool)
    chosen = sum(len(one) - sum(one.by_tool) + one.stopped for one in written)
    found = decode(base, data.support, [query], replace(cot, candidates=k), 1, SEED, tool=tool)
    assert len({tuple(one.tokens) for one in written}) < k == len(written)
    assert found.tokens == chosen


def test_one_branch_is_greedy_decoding_and_more_begin_differently(base, data, tool):
    prompts = [query.prompt_ids for query in data.held_out]
    greedy = one_by_one(base, data.support, prompts, 1, likeliest, tool)
    alone = branches(base, data.support, prompts, 1, by_rank(1), tool)
    assert [[one.tokens for one in paths] for paths in alone] == [[z.tokens] for (z,) in greedy]
    for (first,), paths in zip(
        greedy, branches(base, data.support, prompts, 4, by_rank(4), tool), strict=True
    ):
        assert paths[0].tokens == first.tokens and len(paths) == 4
        texts = [tuple(path.tokens) for path in paths]
        shared = next(t for t, column in enumerate(zip(*texts, strict=False)) if len({*column}) > 1)
        assert len({text[shared] for text in texts}) == 4


def test_more_branches_than_the_support_has_are_not_repeated(base, data, tool):
    (paths,) = branches(base, data.support, [data.held_out[0].prompt_ids], 400, by_rank(400), tool)
    texts = [tuple(path.tokens) for path in paths]
    assert 10 <= len(texts) == len(set(texts)) < 400


def test_the_surest_answer_has_the_largest_sum_of_margins(base, data, tool):
    (cot,) = [one for one in data.decoders if one.kind == "cot"]
    for query in data.held_out:
        (paths,) = branches(base, data.support, [query.prompt_ids], 12, by_rank(12), tool)
        sums, of_path = {}, {}
        for path in paths:
            begins = 1 + max(t for t, token in enumerate(path.tokens) if token in cot.answer_after)
            answer = tuple(path.tokens[begins:])
            one = margins(base, query.prompt_ids, path.tokens)[begins:].mean()
            sums[answer] = sums.get(answer, 0.0) + one
            of_path[tuple(path.tokens)] = answer
        chosen = surest(base, query.prompt_ids, paths, cot.answer_after)
        assert sums[of_path[tuple(chosen.tokens)]] == pytest.approx(max(sums.values()))


def test_a_margin_is_that_to_the_likeliest_other_token(base, data):
    import torch

    prompt, z = data.held_out[0].prompt_ids, data.held_out[0].demonstrations[0]
    found = margins(base, prompt, z.tolist())
    assert (np.abs(found) <= 1).all()
    for t, token in enumerate(z.tolist()):
        logits = base(torch.tensor([[*prompt.tolist(), *z[:t].tolist()]])).logits[0, -1]
        p = torch.softmax(logits.double(), -1)
        others = torch.cat([p[:token], p[token + 1 :]])
        assert found[t] == pytest.approx(float(p[token] - others.max()), abs=1e-5)
