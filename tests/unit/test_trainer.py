"""What an update does, for every objective: its loss by definition, its metrics, its chunks."""

import numpy as np
import pytest
import torch

from gfn_ray.learners.split_group import parts
from gfn_ray.learners.trainer import PolicyTrainer
from gfn_ray.policy.log_q import TrajectoryGroup, log_q
from testing.flow_oracles import each_objective, reference_loss
from testing.makers import make_support
from testing.policies import groups_of, job, load, lora_trainer, naive_batch

each_other_kind = pytest.mark.parametrize("kind", ["subtb", "db", "tb", "vargrad"])


@pytest.fixture(scope="module")
def naive(tiny_dir):
    """Naive forwards of the groups of a support, at temperature 2; read off once a support."""
    model = load(tiny_dir)
    known = {}

    def read(support):
        if support.min_len not in known:
            groups = groups_of(support)
            known[support.min_len] = naive_batch(model, support, groups, temperature=2.0)
        return known[support.min_len]

    return read


def support_for(case, base):
    """The flow of the empty z is the root's only where z may be empty."""
    min_len = 0 if case.get("root_flow") == "terminable" else 2
    return make_support(min_len=min_len, vocab_size=base.config.vocab_size)


def log_ratios(groups, scores, temperature):
    """log R/T + log p_ref - log q of each whole z, by query."""
    ends = np.cumsum([len(g.trajectories) for g in groups])[:-1]
    log_reward = [t.final_log_reward / temperature for g in groups for t in g.trajectories]
    return np.split(np.array(log_reward) + scores.log_reference - scores.log_q, ends)


@each_objective
def test_the_loss_of_an_update_is_its_definition_on_naive_forwards(base, naive, case):
    support = support_for(case, base)
    groups = groups_of(support)
    expected = reference_loss(naive(support), **case)
    trainer = lora_trainer(base, job(case, temperature=2.0), support)
    loss = trainer.step(groups).metrics["loss"]
    assert loss == pytest.approx(float(expected), rel=1e-4)


@each_objective
def test_updates_on_fixed_trajectories_bring_the_loss_down(base, case):
    support = support_for(case, base)
    groups = groups_of(support)
    trainer = lora_trainer(base, job(case, lr=2e-3), support)
    losses = [trainer.step(groups).metrics["loss"] for _ in range(15)]
    assert losses[-1] < 0.2 * losses[0]


@each_objective
def test_an_update_in_chunks_equals_the_update_at_once(tiny_dir, base, case):
    support = support_for(case, base)
    groups = groups_of(support, queries=3)
    updates = []
    for budget in (4096, 64):
        trainer = lora_trainer(load(tiny_dir), job(case, tokens_per_forward=budget), support)
        trainer.step(groups[:1])  # one chunk either way, so both go on from the same weights
        updates.append(trainer.step(groups))
    whole, parts = updates
    for name in ("loss", "grad_norm", "log_z", "log_ratio_var"):
        assert whole.metrics[name] == pytest.approx(parts.metrics[name], rel=1e-3), name
    assert np.allclose(whole.losses, parts.losses, rtol=1e-3, atol=1e-3)


@each_objective
def test_a_group_too_large_for_a_forward_pass_is_split_and_the_update_is_the_same(
    tiny_dir, base, case
):
    support = support_for(case, base)
    groups = groups_of(support, count=20)
    assert len(parts(groups[0], 64)) > 1
    updates, weights, scores = [], [], []
    for budget in (4096, 64):
        trainer = lora_trainer(load(tiny_dir), job(case, tokens_per_forward=budget), support)
        updates.append(trainer.step(groups))
        weights.append(trainer.publish().tensors)
        scores.append(trainer.score(groups))
    whole, split = updates
    for name in ("loss", "grad_norm", "log_z", "log_ratio_var"):
        assert whole.metrics[name] == pytest.approx(split.metrics[name], rel=1e-3), name
    assert np.allclose(whole.losses, split.losses, rtol=1e-3, atol=1e-3)
    assert np.allclose(scores[0].log_q, scores[1].log_q, atol=0.05)
    for name, tensor in weights[0].items():
        # Adam's first step is the sign of the gradient: where that is noise, so is the step.
        assert np.isclose(tensor, weights[1][name], atol=1e-4).mean() > 0.95, name


@pytest.mark.parametrize("budget", [64, 100, 4096])
def test_the_parts_of_a_group_are_its_trajectories_in_order_within_the_budget(support, budget):
    (group,) = groups_of(support, count=20, queries=1)
    split = parts(group, budget)
    assert [t for part in split for t in part.trajectories] == group.trajectories
    assert all(part.packed_tokens <= budget for part in split)
    assert (len(split) == 1) == (group.packed_tokens <= budget)


@pytest.mark.parametrize("kind", ["subtb", "vargrad"])
def test_a_batch_that_holds_everything_twice_has_the_same_loss_and_gradient(
    tiny_dir, support, kind
):
    groups = groups_of(support)
    once, twice = (
        lora_trainer(load(tiny_dir), job({"kind": kind}), support).step(batch).metrics
        for batch in (groups, groups * 2)
    )
    assert once["loss"] == pytest.approx(twice["loss"], rel=1e-4)
    assert once["grad_norm"] == pytest.approx(twice["grad_norm"], rel=1e-3)


def test_the_first_estimate_of_log_z_is_of_the_whole_batch_and_not_of_its_first_chunk(
    tiny_dir, support
):
    groups = groups_of(support, queries=3)
    learned = {"root_flow": "learned"}
    whole, parts = (
        lora_trainer(load(tiny_dir), job(learned, tokens_per_forward=budget), support).step(groups)
        for budget in (4096, 64)
    )
    assert whole.metrics["log_z"] == pytest.approx(parts.metrics["log_z"], rel=1e-4)
    assert whole.metrics["loss"] == pytest.approx(parts.metrics["loss"], rel=1e-3)


def test_a_query_whose_every_z_is_empty_counts_with_its_log_r(base):
    support = make_support(min_len=0, vocab_size=base.config.vocab_size)
    group = groups_of(support, queries=1)[0]
    empty = [group.trajectories[0].scored([value]) for value in (-10.0, -30.0)]
    update = lora_trainer(base, job({"kind": "vargrad"}), support).step(
        [TrajectoryGroup(group.prompt_ids, empty)]
    )
    assert update.metrics["loss"] == pytest.approx(200.0)  # the variance of -10 and -30


def test_only_the_adapter_is_trained(base, support):
    trainer = lora_trainer(base, job(), support)
    frozen = {n: p.clone() for n, p in trainer.model.named_parameters() if "lora" not in n}
    trainer.step(groups_of(support))
    now = dict(trainer.model.named_parameters())
    assert all(torch.equal(frozen[name], now[name]) for name in frozen)


def test_a_model_without_an_adapter_is_trained_whole(tiny_dir, support):
    model = load(tiny_dir).requires_grad_(True)
    trainer = PolicyTrainer(model, job(lr=3e-3), support)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    groups = groups_of(support)
    losses = [trainer.step(groups).metrics["loss"] for _ in range(20)]
    assert losses[-1] < 0.3 * losses[0]
    assert not any(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_the_reference_is_the_untrained_policy_before_and_after_training(tiny_dir, base, support):
    groups = groups_of(support)
    trainer = lora_trainer(base, job({"kind": "ref_tb"}), support)
    with torch.no_grad():
        untrained = log_q(load(tiny_dir), groups, support, torch.from_numpy(support.masks)).log_q
    before = trainer.score(groups)
    for _ in range(3):
        trainer.step(groups)
    after = trainer.score(groups)
    assert np.allclose(before.log_reference, untrained, atol=1e-4)
    assert np.allclose(after.log_reference, untrained, atol=1e-4)
    assert np.abs(after.log_q - before.log_q).max() > 0.1, "the policy itself has moved"


def test_the_adapter_still_learns_after_the_reference_was_read(base, support):
    groups = groups_of(support)
    trainer = lora_trainer(base, job({"kind": "ref_tb"}), support)
    trainer.score(groups)
    trainable = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert trainable == {n for n, _ in trainer.model.named_parameters() if "lora" in n}


@each_other_kind
def test_other_objectives_add_nothing_to_log_r(base, support, kind):
    groups = groups_of(support)
    trainer = lora_trainer(base, job({"kind": kind}), support)
    trainer.step(groups)
    assert not trainer.score(groups).log_reference.any()


def test_the_log_q_of_tokens_under_another_adapter_is_that_of_the_policy_which_had_it(
    base, support
):
    groups = groups_of(support)
    trainer = lora_trainer(base, job({"kind": "vargrad"}), support)
    first, untrained = trainer.publish(), trainer.score(groups)
    trainer.step(groups)
    moved = trainer.score(groups).log_pf
    lengths = [len(t) for group in groups for t in group.trajectories]
    of_z = np.split(trainer.token_log_pf(first, groups), np.cumsum(lengths)[:-1])
    assert [len(one) for one in of_z] == lengths
    assert np.allclose([one.sum() for one in of_z], untrained.log_pf, atol=1e-4)
    assert np.abs(moved - untrained.log_pf).max() > 1e-3
    assert np.array_equal(trainer.score(groups).log_pf, moved)


def test_log_p_ref_can_be_read_whatever_the_objective_adds(base, support):
    """Of the model below a policy that has moved, which stays where it was."""
    groups = groups_of(support)
    trainer = lora_trainer(base, job({"kind": "vargrad"}), support)
    untrained = trainer.score(groups).log_q
    for _ in range(3):
        trainer.step(groups)
    moved = trainer.score(groups).log_q
    assert np.allclose(trainer.log_reference(groups), untrained, atol=1e-4)
    assert np.abs(moved - untrained).max() > 0.1
    assert np.array_equal(trainer.score(groups).log_q, moved)


@pytest.mark.parametrize("kind", ["subtb", "ref_tb"])
def test_the_log_ratio_variance_is_of_what_the_objective_aims_at(base, support, kind):
    """log R/T - log q, and for ref_tb log p_ref + log R/T - log q, of a policy that has moved."""
    groups = groups_of(support)
    trainer = lora_trainer(base, job({"kind": kind}, temperature=2.0), support)
    trainer.step(groups)
    scores = trainer.score(groups)
    assert scores.log_reference.any() == (kind == "ref_tb")
    expected = np.mean([own.var(ddof=1) for own in log_ratios(groups, scores, 2.0)])
    reported = trainer.step(groups).metrics["log_ratio_var"]
    assert reported == pytest.approx(expected, rel=1e-3)


def test_the_reward_temperature_divides_log_r_once_and_leaves_it_stored(tiny_dir, support):
    groups = groups_of(support)
    stored = [t.log_reward.copy() for g in groups for t in g.trajectories]
    halved = [
        TrajectoryGroup(g.prompt_ids, [t.scored(t.log_reward / 2) for t in g.trajectories])
        for g in groups
    ]
    hot = lora_trainer(load(tiny_dir), job(temperature=2.0), support).step(groups)
    cold = lora_trainer(load(tiny_dir), job(), support).step(halved)
    assert hot.metrics["loss"] == pytest.approx(cold.metrics["loss"], rel=1e-4)
    kept = [t.log_reward for g in groups for t in g.trajectories]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(stored, kept, strict=True))


def test_versions_count_up_from_zero_and_version_zero_is_the_base_model(base, support):
    trainer = lora_trainer(base, job(), support)
    groups = groups_of(support)
    first = trainer.publish()
    assert (first.version, trainer.publish().version) == (0, 1)
    assert all((a == 0).all() for name, a in first.tensors.items() if "lora_B" in name)
    trainer.step(groups)
    assert any((a != 0).any() for n, a in trainer.publish().tensors.items() if "lora_B" in n)
    assert all((a == 0).all() for n, a in first.tensors.items() if "lora_B" in n), "a copy"


@pytest.mark.parametrize("updates", [1, 2, 4, 100])
def test_a_run_of_any_length_comes_to_its_full_learning_rate(base, support, updates):
    config = job(lr=1.0, warmup_steps=5).model_copy(update={"steps": updates})
    trainer = lora_trainer(base, config, support)
    paces = [trainer._pace(step) for step in range(updates)]
    assert max(paces) == paces[-1] == 1.0
    assert paces == sorted(paces)


@each_objective
def test_a_length_bonus_is_learned_and_never_measured(tiny_dir, base, case):
    """The update is that of rewards with the bonus in them; what is scored and stored has none."""
    support, bonus = support_for(case, base), 0.7
    groups = groups_of(support)
    raised = [
        TrajectoryGroup(
            g.prompt_ids,
            [t.scored(t.log_reward + bonus * np.arange(len(t) + 1)) for t in g.trajectories],
        )
        for g in groups
    ]
    plain = job(case, temperature=2.0)
    reward = plain.reward.model_copy(update={"length_bonus": bonus})
    told = lora_trainer(load(tiny_dir), plain, support).step(raised).metrics
    trainer = lora_trainer(base, plain.model_copy(update={"reward": reward}), support)
    found = trainer.step(groups).metrics
    for name in ("loss", "grad_norm", "log_ratio_var"):
        assert found[name] == pytest.approx(told[name], rel=1e-4), name
    assert all(
        np.array_equal(t.log_reward, kept.log_reward, equal_nan=True)
        for g, same in zip(groups, groups_of(support), strict=True)
        for t, kept in zip(g.trajectories, same.trajectories, strict=True)
    )
