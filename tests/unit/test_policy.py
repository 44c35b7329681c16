"""log q of packed trajectories against naive forwards, and the adapter in and out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gfn_ray.config import PolicyConfig
from gfn_ray.errors import UserError
from gfn_ray.models.adapter_files import WEIGHTS_FILE
from gfn_ray.policy.adapter import Adapter, add_adapter, put_adapter, read_adapter, write_adapter
from gfn_ray.policy.log_q import TrajectoryGroup, chunks, log_q
from testing.makers import (
    make_support,
    make_trajectory,
    random_ids,
    random_query,
    random_trajectories,
)
from testing.policies import EMPTY, groups_of, job, load, lora_trainer, naive_log_probs


@pytest.fixture
def with_empty(base):
    """A support whose z may be empty."""
    return make_support(min_len=0, vocab_size=base.config.vocab_size)


@torch.no_grad()
def log_q_of(base, groups, support):
    return log_q(base, groups, support, torch.from_numpy(support.masks))


def naive_log_q(base, support, groups):
    """log q of each whole z, its stop included."""
    naive = [
        naive_log_probs(base, support, g.prompt_ids, t) for g in groups for t in g.trajectories
    ]
    return [sum(log_pf) + log_stop[-1] for log_pf, log_stop in naive]


def by_tool(trajectory, position):
    """The same trajectory, one of its tokens written by a tool."""
    tool_mask = np.arange(len(trajectory)) == position
    return replace(trajectory, tool_mask=tool_mask)


def test_log_q_equals_a_naive_forward_for_each_token(base, support):
    groups = groups_of(support)
    assert np.allclose(
        log_q_of(base, groups, support).log_q, naive_log_q(base, support, groups), atol=1e-4
    )


def test_log_q_of_each_terminable_prefix_is_that_of_the_prefix_as_a_z_of_its_own(base, support):
    groups = groups_of(support, count=8)
    together = log_q_of(base, groups, support)
    flat = [(g.prompt_ids, t) for g in groups for t in g.trajectories]
    for row, (prompt, trajectory) in enumerate(flat):
        for t in np.flatnonzero(trajectory.terminable):
            prefix = make_trajectory(support, "q", trajectory.token_ids[:t])
            (alone,) = log_q_of(base, [TrajectoryGroup(prompt, [prefix])], support).log_q
            assert together.prefix_log_q[row, t] == pytest.approx(float(alone), abs=1e-4)


def test_nothing_is_computed_after_the_last_token_of_a_longest_z(base, support, monkeypatch):
    rng = np.random.default_rng(0)
    z = random_trajectories(rng, support, "q", 20)
    longest = next(t for t in z if len(t) == support.max_len)
    group = TrajectoryGroup(random_query(rng, "q").prompt_ids, [longest])
    found = log_q_of(base, [group], support)  # the first one finds out what the model can do
    assert found.log_stop[0, -1] == 0.0  # nothing else is legal there
    seen = []
    forward = type(base.model).forward
    monkeypatch.setattr(
        type(base.model),
        "forward",
        lambda self, **given: seen.extend(given["input_ids"][0].tolist()) or forward(self, **given),
    )
    log_q_of(base, [group], support)
    assert seen == [*group.prompt_ids, *longest.token_ids[:-1]]


def test_padding_is_no_node_and_has_no_log_q(base, support):
    groups = groups_of(support, count=8)
    q = log_q_of(base, groups, support)
    flat = [t for g in groups for t in g.trajectories]
    assert len({len(t) for t in flat}) > 1, "some rows are padded"
    for row, trajectory in enumerate(flat):
        size = len(trajectory)
        assert q.terminable[row, : size + 1].tolist() == trajectory.terminable.tolist()
        assert not q.terminable[row, size + 1 :].any()
        assert not q.log_pf[row, size:].any() and not q.log_stop[row, size + 1 :].any()
        assert not q.prefix_log_q[row, size + 1 :].any()


def test_a_prompt_that_continues_another_keeps_its_own_support(base, support):
    """Prompt B is prompt A and then a legal z_1: what is legal next differs."""
    rng = np.random.default_rng(2)
    prompt = random_query(rng, "a").prompt_ids
    z = random_trajectories(rng, support, "a", 1)[0]
    longer = np.concatenate([prompt, z.token_ids[:1]])
    other = random_trajectories(rng, support, "b", 1)[0]
    groups = [TrajectoryGroup(prompt, [z]), TrajectoryGroup(longer, [other])]
    together = log_q_of(base, groups, support).log_q
    assert np.allclose(together, naive_log_q(base, support, groups), atol=1e-4)


@pytest.fixture
def few_shot(support):
    """Groups of three queries whose prompts begin with the same 40 tokens, 40 + 3 tokens long."""
    rng = np.random.default_rng(5)
    demonstrations = random_ids(rng, 40)
    return [
        TrajectoryGroup(
            np.concatenate([demonstrations, random_ids(rng, 3)]),
            random_trajectories(rng, support, name, 4),
        )
        for name in "abc"
    ]


def test_demonstrations_are_computed_once_for_all_queries(base, support, few_shot):
    log_q_of(base, few_shot, support)  # the first one finds out what the model can do
    passed = []
    hook = base.model.register_forward_pre_hook(
        lambda _, args, kwargs: passed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    found = log_q_of(base, few_shot, support).log_q
    hook.remove()
    assert sum(passed) <= 40 + sum(3 + sum(map(len, g.trajectories)) for g in few_shot)
    assert np.allclose(found, naive_log_q(base, support, few_shot), atol=1e-4)


def test_gradients_through_shared_demonstrations_are_those_of_each_query_alone(
    tiny_dir, support, few_shot
):
    model = add_adapter(load(tiny_dir).double(), PolicyConfig(lora_rank=8), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    trained = [p for p in model.parameters() if p.requires_grad]
    masks = torch.from_numpy(support.masks)

    def gradient(groups):
        values = log_q(model, groups, support, masks).log_q
        return torch.cat([g.flatten() for g in torch.autograd.grad(values.square().sum(), trained)])

    together, apart = gradient(few_shot), sum(gradient([group]) for group in few_shot)
    assert together.dtype == torch.float64
    assert float((together - apart).norm() / apart.norm()) < 1e-6  # norms are taken in float32


def test_a_chunk_counts_shared_demonstrations_once(few_shot):
    needed = sum(group.packed_tokens for group in few_shot) - 2 * 40
    assert len(list(chunks(few_shot, needed))) == 1
    assert [len(part) for part in chunks(few_shot, needed - 1)] == [2, 1]


def test_stopping_is_certain_at_max_len(base, support):
    long = [t for t in groups_of(support, count=12)[0].trajectories if not t.stopped]
    q = log_q_of(base, [TrajectoryGroup(np.arange(10, 15, dtype=np.int32), long)], support)
    assert torch.allclose(q.log_stop[:, support.max_len], torch.zeros(len(long)), atol=1e-6)


def test_log_q_of_an_empty_z_is_the_log_probability_of_stopping_at_once(base, with_empty):
    groups = groups_of(with_empty)  # the empty z is the first of each group
    q = log_q_of(base, groups, with_empty)
    for row, group in ((0, groups[0]), (4, groups[1])):
        logits = base(torch.from_numpy(group.prompt_ids).long()[None]).logits[0, -1]
        legal = torch.from_numpy(with_empty.masks[with_empty.mask_row(0, None)])
        stop = logits[with_empty.stop_ids.tolist()].logsumexp(0) - logits[legal].logsumexp(0)
        assert float(q.log_q[row]) == pytest.approx(float(stop), abs=1e-4)
        assert float(q.prefix_log_q[row, 0]) == pytest.approx(float(stop), abs=1e-4)
        assert not q.log_pf[row].any()
    assert np.allclose(q.log_q, naive_log_q(base, with_empty, groups), atol=1e-4)


def test_an_empty_z_without_longer_ones_beside_it_is_still_a_node(base, with_empty):
    prompt = np.arange(10, 15, dtype=np.int32)
    group = TrajectoryGroup(prompt, [make_trajectory(with_empty, "q", EMPTY)] * 2)
    q = log_q_of(base, [group], with_empty)
    assert q.prefix_log_q.shape == q.terminable.shape == (2, 1)
    assert torch.equal(q.prefix_log_q[:, 0], q.log_q)


def test_tool_written_tokens_have_log_q_zero(base, support):
    group = groups_of(support, count=1, queries=1)[0]
    marked = by_tool(group.trajectories[0], 1)
    plain = log_q_of(base, [group], support).log_pf[0]
    tooled = log_q_of(base, [TrajectoryGroup(group.prompt_ids, [marked])], support).log_pf[0]
    assert tooled[1] == 0
    assert np.allclose(np.delete(tooled, 1), np.delete(plain, 1), atol=1e-4)


def test_a_token_that_the_policy_wrote_elsewhere_is_still_the_tools_own_here(base, support):
    group = groups_of(support, count=1, queries=1)[0]
    own = group.trajectories[0]
    both = TrajectoryGroup(group.prompt_ids, [own, by_tool(own, 1)])
    log_pf = log_q_of(base, [both], support).log_pf
    assert log_pf[0, 1] < 0 and log_pf[1, 1] == 0


def test_chunks_keep_groups_whole_and_within_the_budget(support):
    groups = groups_of(support, count=3, queries=7)
    parts = list(chunks(groups, 100))
    assert [g for part in parts for g in part] == groups
    assert all(sum(g.packed_tokens for g in part) <= 100 for part in parts)
    assert [len(part) for part in chunks(groups, 1)] == [1] * 7


def test_a_single_trajectory_reads_the_same_alone_and_among_others(base, support):
    group = groups_of(support, count=5, queries=1)[0]
    together = log_q_of(base, [group], support).log_q
    for index, trajectory in enumerate(group.trajectories):
        own = make_trajectory(support, "q0", trajectory.token_ids)
        alone = log_q_of(base, [TrajectoryGroup(group.prompt_ids, [own])], support).log_q
        assert alone[0] == pytest.approx(float(together[index]), abs=1e-4)


def test_a_written_adapter_loads_as_plain_peft(tiny_dir, support, tmp_path):
    from peft import PeftModel

    trainer = lora_trainer(load(tiny_dir), job(), support)
    trainer.step(groups_of(support))
    write_adapter(trainer.publish(), tmp_path)
    again = PeftModel.from_pretrained(load(tiny_dir), tmp_path)
    ids = torch.arange(10, 20)[None]
    with torch.no_grad():
        assert torch.allclose(again(ids).logits, trainer.model(ids).logits, atol=1e-5)


def test_the_same_seed_gives_the_same_adapter(tiny_dir):
    made = [read_adapter(add_adapter(load(tiny_dir), PolicyConfig(), seed=4), 0) for _ in range(2)]
    assert all(np.array_equal(made[0].tensors[n], made[1].tensors[n]) for n in made[0].tensors)


def test_a_layer_that_the_model_lacks_is_named(base):
    with pytest.raises(
        UserError, match=r"'c_attn', which is not in .*are q_proj, .*, down_proj: give"
    ):
        add_adapter(base, PolicyConfig(lora_targets=("c_attn",)), seed=0)


def test_an_adapter_that_finds_the_disk_full_is_an_os_error(tmp_path):
    (tmp_path / WEIGHTS_FILE).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_adapter(Adapter(0, {}, {"a.weight": np.ones((64, 64), np.float32)}), tmp_path)


def test_an_adapter_that_is_put_on_another_model_is_read_back_as_it_was(tiny_dir):
    first = read_adapter(add_adapter(load(tiny_dir), PolicyConfig(lora_rank=8), seed=1), 0)
    given = replace(first, tensors={name: a + 0.5 for name, a in first.tensors.items()})
    model = add_adapter(load(tiny_dir), PolicyConfig(lora_rank=8), seed=2)
    put_adapter(model, given)
    found = read_adapter(model, 0).tensors
    assert found.keys() == given.tensors.keys()
    assert all(np.array_equal(found[name], array) for name, array in given.tensors.items())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda tensors: {name: array[:2] for name, array in tensors.items()},
        lambda tensors: dict(list(tensors.items())[1:]),
        lambda tensors: {**tensors, "base_model.model.model.other.lora_A.weight": np.ones((4, 4))},
    ],
    ids=["shape", "missing", "more"],
)
def test_an_adapter_of_another_shape_is_not_put_on_a_model(tiny_dir, spoil):
    model = add_adapter(load(tiny_dir), PolicyConfig(lora_rank=8), seed=1)
    given = read_adapter(model, 0)
    with pytest.raises(UserError, match="does not fit the model"):
        put_adapter(model, Adapter(0, given.config, spoil(given.tensors)))
