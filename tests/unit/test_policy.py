"""The policy's log q against naive forwards, and what an update does."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from gfn_ray.config import InfillJob, LearnerConfig, PolicyConfig, RewardConfig
from gfn_ray.errors import UserError
from gfn_ray.policy.adapter import Adapter, add_adapter, read_adapter, write_adapter
from gfn_ray.policy.log_q import TrajectoryGroup, chunks, log_q
from gfn_ray.policy.trainer import PolicyTrainer
from makers import make_support, make_trajectory, random_query, random_trajectories


def load(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.fixture
def base(tiny_dir):
    return load(tiny_dir).requires_grad_(False)


@pytest.fixture
def support(base):
    return make_support(vocab_size=base.config.vocab_size)


def groups_of(support, count=4, queries=2, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for index in range(queries):
        query = random_query(rng, f"q{index}")
        own = random_trajectories(rng, support, query.query_id, count)
        scored = [t.scored(rng.normal(-30, 5, len(t) + 1)) for t in own]
        made.append(TrajectoryGroup(query.prompt_ids, scored))
    return made


def config(**learner):
    return InfillJob(
        policy=PolicyConfig(lora_rank=8),
        learner=LearnerConfig(lr=1e-2, warmup_steps=0, **learner),
        reward=RewardConfig(temperature_start=1.0, temperature_end=1.0),
    )


def naive_log_q(model, support, prompt, trajectory):
    """log q of a whole z and its stop, one forward a token, masked and renormalised."""
    tokens, total = trajectory.token_ids.tolist(), 0.0
    for t, row in enumerate(support.mask_rows(tokens)):
        ids = torch.tensor([[*prompt.tolist(), *tokens[:t]]])
        logits = model(ids).logits[0, -1]
        logits[torch.from_numpy(~support.masks[row])] = -torch.inf
        log_probs = torch.log_softmax(logits, dim=-1)
        if t < len(tokens):
            total += float(log_probs[tokens[t]])
        else:
            total += float(torch.logsumexp(log_probs[support.stop_ids.tolist()], dim=0))
    return total


@torch.no_grad()
def test_log_q_equals_a_naive_forward_for_each_token(base, support):
    groups = groups_of(support)
    q = log_q(base, groups, support, torch.from_numpy(support.masks))
    expected = [naive_log_q(base, support, g.prompt_ids, t) for g in groups for t in g.trajectories]
    assert np.allclose(q.log_q.numpy(), expected, atol=1e-4)


@torch.no_grad()
def test_a_prompt_that_continues_another_keeps_its_own_support(base, support):
    """Prompt B is prompt A and then a legal z_1: what is legal next differs."""
    rng = np.random.default_rng(2)
    prompt = random_query(rng, "a").prompt_ids
    z = random_trajectories(rng, support, "a", 1)[0]
    longer = np.concatenate([prompt, z.token_ids[:1]])
    other = random_trajectories(rng, support, "b", 1)[0]
    groups = [TrajectoryGroup(prompt, [z]), TrajectoryGroup(longer, [other])]
    together = log_q(base, groups, support, torch.from_numpy(support.masks)).log_q
    expected = [naive_log_q(base, support, g.prompt_ids, g.trajectories[0]) for g in groups]
    assert np.allclose(together.numpy(), expected, atol=1e-4)


@torch.no_grad()
def test_stopping_is_certain_at_max_len(base, support):
    long = [t for t in groups_of(support, count=12)[0].trajectories if not t.stopped]
    group = [TrajectoryGroup(np.arange(10, 15, dtype=np.int32), long)]
    q = log_q(base, group, support, torch.from_numpy(support.masks))
    assert torch.allclose(q.log_stop[:, support.max_len], torch.zeros(len(long)), atol=1e-6)


@torch.no_grad()
def test_tool_written_tokens_have_log_q_zero(base, support):
    group = groups_of(support, count=1, queries=1)[0]
    original = group.trajectories[0]
    by_tool = np.zeros(len(original), dtype=np.bool_)
    by_tool[1] = True
    marked = type(original)(**{**original.to_wire(), "tool_mask": by_tool})
    masks = torch.from_numpy(support.masks)
    plain = log_q(base, [group], support, masks).log_pf[0]
    tooled = log_q(base, [TrajectoryGroup(group.prompt_ids, [marked])], support, masks).log_pf[0]
    assert tooled[1] == 0
    assert torch.equal(np.delete(tooled, 1), np.delete(plain, 1))


def test_chunks_keep_groups_whole_and_within_the_budget(support):
    groups = groups_of(support, count=3, queries=7)
    parts = list(chunks(groups, 100))
    assert [g for part in parts for g in part] == groups
    assert all(sum(g.packed_tokens for g in part) <= 100 for part in parts)
    assert [len(part) for part in chunks(groups, 1)] == [1] * 7


def test_an_update_in_chunks_equals_the_update_at_once(tiny_dir, support):
    whole = PolicyTrainer(load(tiny_dir), config(tokens_per_forward=4096), support)
    parts = PolicyTrainer(load(tiny_dir), config(tokens_per_forward=64), support)
    groups = groups_of(support, queries=3)
    a, b = whole.step(groups), parts.step(groups)
    assert a.metrics["loss"] == pytest.approx(b.metrics["loss"], rel=1e-5)
    assert a.metrics["grad_norm"] == pytest.approx(b.metrics["grad_norm"], rel=1e-4)
    assert np.allclose(a.losses, b.losses, rtol=1e-3)


def test_updates_on_fixed_trajectories_bring_the_loss_down(base, support):
    trainer = PolicyTrainer(base, config(), support)
    groups = groups_of(support)
    losses = [trainer.step(groups).metrics["loss"] for _ in range(25)]
    assert losses[-1] < 0.3 * losses[0]


def test_only_the_adapter_is_trained(base, support):
    trainer = PolicyTrainer(base, config(), support)
    frozen = {n: p.clone() for n, p in trainer.model.named_parameters() if "lora" not in n}
    trainer.step(groups_of(support))
    now = dict(trainer.model.named_parameters())
    assert all(torch.equal(frozen[name], now[name]) for name in frozen)


def test_the_reward_temperature_divides_log_r_once_and_leaves_it_stored(tiny_dir, support):
    job = config().model_copy(
        update={"reward": RewardConfig(temperature_start=2.0, temperature_end=2.0)}
    )
    groups = groups_of(support)
    stored = [t.log_reward.copy() for g in groups for t in g.trajectories]
    halved = [
        TrajectoryGroup(g.prompt_ids, [t.scored(t.log_reward / 2) for t in g.trajectories])
        for g in groups
    ]
    hot = PolicyTrainer(load(tiny_dir), job, support).step(groups)
    cold = PolicyTrainer(load(tiny_dir), config(), support).step(halved)
    assert hot.metrics["loss"] == pytest.approx(cold.metrics["loss"], rel=1e-4)
    kept = [t.log_reward for g in groups for t in g.trajectories]
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(stored, kept, strict=True))


def test_versions_count_up_from_zero_and_version_zero_is_the_base_model(base, support):
    trainer = PolicyTrainer(base, config(), support)
    groups = groups_of(support)
    first = trainer.publish()
    assert (first.version, trainer.publish().version) == (0, 1)
    assert all((a == 0).all() for name, a in first.tensors.items() if "lora_B" in name)
    trainer.step(groups)
    assert any((a != 0).any() for n, a in trainer.publish().tensors.items() if "lora_B" in n)
    assert all((a == 0).all() for n, a in first.tensors.items() if "lora_B" in n), "a copy"


def test_a_non_finite_loss_stops_the_update(base, support):
    trainer = PolicyTrainer(base, config(), support)
    group = groups_of(support, queries=1)[0]
    bad = group.trajectories[0].scored(np.full(len(group.trajectories[0]) + 1, -np.inf))
    with pytest.raises(FloatingPointError, match="update 1"):
        trainer.step([TrajectoryGroup(group.prompt_ids, [bad, group.trajectories[1]])])


def test_a_written_adapter_loads_as_plain_peft(tiny_dir, support, tmp_path):
    from peft import PeftModel

    trainer = PolicyTrainer(load(tiny_dir), config(), support)
    trainer.step(groups_of(support))
    write_adapter(trainer.publish(), tmp_path)
    again = PeftModel.from_pretrained(load(tiny_dir), tmp_path)
    ids = torch.arange(10, 20)[None]
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, trainer.model(ids).logits, atol=1e-5)


def test_an_adapter_survives_the_wire(base):
    adapter = read_adapter(add_adapter(base, PolicyConfig(lora_rank=8), seed=0), version=3)
    again = Adapter.from_wire(adapter.to_wire())
    assert again.version == 3
    assert all(np.array_equal(adapter.tensors[n], again.tensors[n]) for n in adapter.tensors)


def test_the_same_seed_gives_the_same_adapter(tiny_dir):
    made = [read_adapter(add_adapter(load(tiny_dir), PolicyConfig(), seed=4), 0) for _ in range(2)]
    assert all(np.array_equal(made[0].tensors[n], made[1].tensors[n]) for n in made[0].tensors)


def test_a_layer_that_the_model_lacks_is_named(base):
    with pytest.raises(UserError, match=r"policy\.lora_targets names 'c_attn'"):
        add_adapter(base, PolicyConfig(lora_targets=("c_attn",)), seed=0)


def test_a_single_trajectory_reads_the_same_alone_and_among_others(base, support):
    group = groups_of(support, count=5, queries=1)[0]
    masks = torch.from_numpy(support.masks)
    with torch.no_grad():
        together = log_q(base, [group], support, masks).log_q
        for index, trajectory in enumerate(group.trajectories):
            own = make_trajectory(support, "q0", trajectory.token_ids)
            alone = log_q(base, [TrajectoryGroup(group.prompt_ids, [own])], support, masks).log_q
            assert alone[0] == pytest.approx(float(together[index]), abs=1e-4)
