"""The labelled reward: its two terms, the floor, the penalty, and what tuning changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gfn_ray.config import PolicyConfig
from gfn_ray.rewards.label_model import LabelModel, label_log_probs
from gfn_ray.rewards.labelled import LabelledReward, shared_prefix
from testing.makers import make_support, random_ids, random_query, random_trajectories

POLICY = PolicyConfig(lora_rank=8)
ANSWERS = [np.array(ids, dtype=np.int32) for ids in ([20, 21, 30], [20, 21, 31, 32])]
FLOOR = -20.0


@pytest.fixture
def model(tiny_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval()


def loaded(model, outside=lambda _: False, budget=512, floor=FLOOR, **changes):
    reward = LabelledReward(ANSWERS, POLICY, 0, budget, outside=outside, floor=floor, **changes)
    reward.load(lambda: model)
    return reward


def pairs_of(model, count=3, label=1, seed=0):
    rng = np.random.default_rng(seed)
    support = make_support(vocab_size=model.config.vocab_size)
    query = random_query(rng, "q")
    object.__setattr__(query, "answer_ids", ANSWERS[label])
    return [(query, t) for t in random_trajectories(rng, support, "q", count)]


@torch.no_grad()
def naive(model, context, tokens):
    """log p(tokens | context) by one forward over nothing else."""
    ids = torch.tensor([[*context, *tokens]]).long()
    log_probs = torch.log_softmax(model(ids[:, :-1]).logits[0], dim=-1)
    return sum(float(log_probs[k - 1, ids[0, k]]) for k in range(len(context), ids.shape[1]))


def naive_labels(model, history):
    each = np.array([naive(model, history, answer) for answer in ANSWERS])
    return each - np.logaddexp.reduce(each)


@pytest.mark.parametrize("budget", [64, 4096])
def test_the_reward_is_the_frozen_prior_plus_the_label_at_every_prefix(model, budget):
    reward, pairs = loaded(model, budget=budget), pairs_of(model)
    fit(reward, pairs, steps=3)  # the two terms come from different weights
    tuned = reward.labels
    scored, predicted = reward.score_and_predict(pairs)
    for (query, z), result, label_row in zip(pairs, scored, predicted, strict=True):
        assert np.array_equal(~np.isnan(result.log_reward), z.terminable)
        for t in np.flatnonzero(z.terminable):
            history = [*query.context_ids, *z.token_ids[:t]]
            with tuned.frozen():
                prior = naive(tuned.model, query.context_ids, [*z.token_ids[:t], *ANSWERS[0][:2]])
            label = naive_labels(tuned.model, history)[1]
            assert result.log_reward[t] == pytest.approx(prior + label, abs=1e-3)
        assert label_row == pytest.approx(naive_labels(tuned.model, history), abs=1e-4)


def test_the_parts_that_it_reports_sum_to_the_reward(model):
    reward, pairs = loaded(model), pairs_of(model)
    scored, predicted = reward.score_and_predict(pairs)
    for one, prior, row in zip(scored, reward.log_prior(pairs), predicted, strict=True):
        assert one.final_log_reward == pytest.approx(prior[-1] + row[1], rel=1e-6, abs=1e-5)
        assert np.exp(row).sum() == pytest.approx(1)


def test_what_the_answers_share_belongs_to_the_prior():
    assert shared_prefix(ANSWERS).tolist() == [20, 21]
    assert len(shared_prefix([np.array([1]), np.array([2])])) == 0


def test_both_labels_together_have_the_mass_of_the_prior(model):
    """The label's term is a distribution: sum over y of p(z, y | x) is p(z | x)."""
    reward = loaded(model)
    both = [pairs_of(model, label=label) for label in (0, 1)]
    rewards = [[t.final_log_reward for t in reward.score(pairs)] for pairs in both]
    prior = [one[-1] for one in reward.log_prior(both[0])]
    assert np.logaddexp(*rewards) == pytest.approx(prior, abs=1e-4)


def test_a_prefix_outside_the_target_gets_the_floor_for_its_label_and_others_do_not(model):
    pairs = pairs_of(model, count=4)
    open_ = loaded(model)
    plain = open_.score(pairs)
    prior = open_.log_prior(pairs)
    banned = int(pairs[0][1].token_ids[1])
    closed = LabelledReward(ANSWERS, POLICY, 0, 512, outside=lambda ids: banned in ids, floor=FLOOR)
    closed._labels, closed._prior = open_._labels, open_._prior
    for (_, z), one, before, log_p in zip(pairs, closed.score(pairs), plain, prior, strict=True):
        for t in np.flatnonzero(z.terminable):
            named = banned in z.token_ids[:t]
            expected = log_p[t] + FLOOR if named else before.log_reward[t]
            assert one.log_reward[t] == pytest.approx(expected, abs=1e-4)
            assert np.isfinite(one.log_reward[t])


def test_the_penalty_is_taken_off_where_the_other_label_is_likelier(model):
    plain = loaded(model)
    pairs = [*pairs_of(model, label=0), *pairs_of(model, label=1)]
    before, predicted = plain.score_and_predict(pairs)
    strict = LabelledReward(
        ANSWERS, POLICY, 0, 512, outside=lambda _: False, floor=FLOOR, penalty=5.0
    )
    strict._labels, strict._prior = plain._labels, plain._prior
    wrong = predicted.argmax(axis=1) != np.array([0, 0, 0, 1, 1, 1])
    assert 0 < wrong.sum() < len(wrong)
    lost = [
        b.final_log_reward - a.final_log_reward
        for a, b in zip(strict.score(pairs), before, strict=True)
    ]
    assert lost == pytest.approx(np.where(wrong, 5.0, 0.0), abs=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 5.0, 30.0])
def test_a_floor_is_a_floor_whatever_the_label_model_thinks(model, penalty):
    """Above the prior, a z inside the target never gets less than one outside."""
    floor = -10.0
    reward, pairs = loaded(model, floor=floor, penalty=penalty), pairs_of(model, count=8)
    prior = reward.log_prior(pairs)
    given = [z.log_reward - one for z, one in zip(reward.score(pairs), prior, strict=True)]
    assert np.nanmin(np.concatenate(given)) >= floor - 1e-4
    # Sure of the other label: log p(y | x, z) is below the floor by itself.
    other = [(replace(query, answer_ids=ANSWERS[0]), z) for query, z in pairs]
    fit(reward, pairs, steps=60, lr=0.1)
    scored, predicted = reward.score_and_predict(other)
    assert (predicted[:, 0] < floor).all()
    given = [z.log_reward - one for z, one in zip(scored, prior, strict=True)]
    assert np.nanmin(np.concatenate(given)) >= floor - 1e-4


def test_a_query_whose_answer_is_no_label_is_refused(model):
    (query, z), *_ = pairs_of(model)
    object.__setattr__(query, "answer_ids", np.array([1, 2], dtype=np.int32))
    with pytest.raises(ValueError, match="none of the labels"):
        loaded(model).score([(query, z)])


def fit(reward, pairs, steps, lr=1e-2):
    histories = [np.concatenate([q.context_ids, z.token_ids]) for q, z in pairs]
    labels = [1] * len(pairs)
    return [reward.labels.fit(histories, labels, ANSWERS, lr)["loss"] for _ in range(steps)]


def test_tuning_lowers_the_label_loss_and_leaves_the_prior_untouched(model):
    reward, pairs = loaded(model), pairs_of(model, count=6)
    prior = reward.log_prior(pairs)
    before = reward.score_and_predict(pairs)[1][:, 1]
    losses = fit(reward, pairs, steps=12)
    after = reward.score_and_predict(pairs)[1][:, 1]
    assert losses[-1] < 0.5 * losses[0]
    assert losses[0] == pytest.approx(-before.mean(), abs=1e-4)
    assert (after > before).all()
    for old, new in zip(prior, reward.log_prior(pairs), strict=True):
        assert np.array_equal(old, new, equal_nan=True)


def test_an_m_step_whose_loss_is_not_finite_names_its_learning_rate(model):
    with pytest.raises(FloatingPointError, match=r"the loss is nan; lower em\.m_lr \(1e\+30\)"):
        fit(loaded(model), pairs_of(model), steps=2, lr=1e30)


def test_an_m_step_whose_gradient_is_not_finite_names_its_learning_rate(model):
    reward = loaded(model)
    trained = next(p for p in reward.labels.model.parameters() if p.requires_grad)
    trained.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(FloatingPointError, match=r"gradient's norm is nan; lower em\.m_lr"):
        fit(reward, pairs_of(model), steps=1)


def test_another_actor_with_the_adapter_predicts_the_same_and_reset_goes_back(model, tiny_dir):
    reward, pairs = loaded(model), pairs_of(model)
    start = reward.score_and_predict(pairs)[1]
    fit(reward, pairs, steps=3)
    tuned = reward.score_and_predict(pairs)[1]
    other = loaded(AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32).eval())
    other.labels.restore(reward.labels.state())
    assert other.score_and_predict(pairs)[1] == pytest.approx(tuned, abs=1e-6)
    reward.labels.reset()
    assert reward.score_and_predict(pairs)[1] == pytest.approx(start, abs=1e-6)
    assert not np.allclose(tuned, start, atol=1e-2)


@pytest.mark.parametrize("budget", [64, 10_000])
def test_labels_do_not_depend_on_what_shares_their_forward(model, budget):
    rng = np.random.default_rng(2)
    start = random_ids(rng, 30)
    histories = [np.concatenate([start, random_ids(rng, 1 + i % 5)]) for i in range(9)]
    labels = LabelModel(model, POLICY, 0, budget)
    alone = [label_log_probs(labels.model, [one], ANSWERS)[0].tolist() for one in histories]
    assert labels.log_probs(histories, ANSWERS) == pytest.approx(np.array(alone), abs=1e-4)
