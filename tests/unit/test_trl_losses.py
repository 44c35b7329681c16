"""Losses equal TRL's own on the same batch and weights, gradients included. TRL is no dependency:
where it is missing these tests are skipped, and the definitions of test_reward_objectives.py and
test_sft.py are what holds the losses."""

import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from gfn_ray.learners.policy_loss import PolicyLoss
from gfn_ray.learners.sft import SFTTrainer
from gfn_ray.learners.shards import FREE
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.policy.log_q import TrajectoryGroup, log_q
from gfn_ray.support import BoundedSupport
from testing.makers import make_trajectory, random_ids
from testing.policies import job, load

pytestmark = pytest.mark.skipif(
    find_spec("trl") is None,
    reason="TRL is not installed (requirements/bench.txt): its SFT, DPO, RLOO and GRPO losses are "
    "not compared with ours",
)

BETA = 0.3
QUERIES, EACH = 2, 4


@pytest.fixture(scope="module")
def trl():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "vllm", None)  # TRL would import it, and needs it only to sample
        import trl
        from trl import DPOTrainer, GRPOTrainer, RLOOTrainer, SFTTrainer  # noqa: F401

        yield trl


@pytest.fixture
def support(tiny_dir):
    """Every token is legal everywhere, as in TRL."""
    config = load(tiny_dir).config
    ids = np.arange(config.vocab_size)
    content = ids != config.eos_token_id
    return BoundedSupport(
        content=content,
        opening=content,
        enders=content,
        stop_ids=np.array([config.eos_token_id], dtype=np.int32),
        min_len=0,
        max_len=50,
    )


@pytest.fixture
def groups(support):
    rng = np.random.default_rng(0)
    found = []
    for query in range(QUERIES):
        zs = [random_ids(rng, int(rng.integers(1, 7))) for _ in range(EACH)]
        made = [
            make_trajectory(support, f"q{query}", z).scored(rng.normal(0, 2, len(z) + 1))
            for z in zs
        ]
        found.append(TrajectoryGroup(random_ids(rng, 5 + query), made))
    return found


def policy(directory):
    """A policy whose adapter has an effect."""
    model = add_adapter(load(directory), job().policy, 0)
    shake(model, 0)
    return model.eval()


@torch.no_grad()
def shake(model, seed):
    """Moves the trained weights, the same of each model."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += noise * (0.1 if "lora_B" in name else 0.01)


def trainer_of(trl, kind, directory, tmp_path, columns, **settings):
    """One of TRL's trainers of the same policy, which keeps a copy of it as its reference."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    args = getattr(trl, f"{kind}Config")(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        disable_tqdm=True,
        per_device_train_batch_size=QUERIES * EACH,
        **settings,
    )
    more = {"reward_funcs": lambda completions, **_: [0.0] * len(completions)}
    trainer = getattr(trl, f"{kind}Trainer")(
        model=policy(directory),
        args=args,
        train_dataset=Dataset.from_list([columns] * QUERIES * EACH),
        processing_class=AutoTokenizer.from_pretrained(directory),
        **(more if kind in ("RLOO", "GRPO") else {}),
    )
    trainer.model.eval()
    return trainer


def gradients(model):
    return {
        name: p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad and p.grad is not None
    }


def ours(directory, support, groups, objective):
    """Loss and gradients of a policy that has moved since the objective's start."""
    model = policy(directory)
    loss = PolicyLoss(model, job({"reference": "start", **objective}), support)
    loss.reference.before_update()
    shake(model, 1)
    (total, weight), _ = loss.backward(groups, BETA, FREE)
    return float(total / weight), {name: g / weight for name, g in gradients(model).items()}


def theirs(trainer, inputs):
    shake(trainer.model, 1)
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return float(loss.detach()), gradients(trainer.model)


def assert_equal(one, other):
    (loss, own), (expected, their) = one, other
    assert loss == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert own.keys() == their.keys() and any(g.abs().max() > 1e-4 for g in own.values())
    for name, gradient in own.items():
        largest = float(their[name].abs().max())
        assert torch.allclose(gradient, their[name], rtol=1e-3, atol=1e-4 * largest), name


@torch.no_grad()
def log_q_of(directory, support, groups, moved):
    """log q of the actions of each z [B, T+1], before or after the policy moved."""
    model = policy(directory)
    if moved:
        shake(model, 1)
    q = log_q(model, groups, support, torch.from_numpy(support.masks))
    found = torch.nn.functional.pad(q.log_pf, (0, 1))
    return found.scatter_add(1, q.lengths[:, None], q.log_stop.gather(1, q.lengths[:, None]))


def completions(support, groups):
    """Prompts padded on the left and completions with their stop, padded on the right."""
    stop = int(support.stop_ids[0])
    flat = [(g.prompt_ids, t.token_ids) for g in groups for t in g.trajectories]
    prompts = [torch.from_numpy(p).long().flip(0) for p, _ in flat]
    ends = [torch.tensor([*z.tolist(), stop]) for _, z in flat]

    def padded(rows, value=0):
        return pad_sequence(rows, batch_first=True, padding_value=value)

    return {
        "prompt_ids": padded(prompts).flip(1),
        "prompt_mask": padded([torch.ones_like(p) for p in prompts]).flip(1),
        "completion_ids": padded(ends),
        "completion_mask": padded([torch.ones_like(e) for e in ends]),
    }


def sampled(groups, old):
    """The same with log q of a sampler."""
    rows = iter(old.numpy())

    def with_log_q(t):
        row = next(rows)
        n = len(t)
        return replace(t, sampler_log_pf=row[:n], sampler_log_stop=float(row[n]))

    return [TrajectoryGroup(g.prompt_ids, [with_log_q(t) for t in g.trajectories]) for g in groups]


@pytest.fixture
def old(tiny_dir, support, groups):
    """log q of the policy that sampled: near the present one, some of it outside the clip."""
    now = log_q_of(tiny_dir, support, groups, moved=True)
    noise = torch.randn(now.shape, generator=torch.Generator().manual_seed(2))
    return now + 0.2 * noise * (now != 0)


def log_rewards(groups):
    return torch.tensor([[t.final_log_reward for t in g.trajectories] for g in groups])


def test_rloo(trl, tiny_dir, tmp_path, support, groups, old):
    start = log_q_of(tiny_dir, support, groups, moved=False)
    with_kl = log_rewards(groups) - BETA * (old - start).sum(dim=1).view(QUERIES, EACH)
    others = (with_kl.sum(dim=1, keepdim=True) - with_kl) / (EACH - 1)
    trainer = trainer_of(trl, "RLOO", tiny_dir, tmp_path, {"prompt": "a"}, num_generations=EACH)
    inputs = {
        **completions(support, groups),
        "old_logps": old.sum(dim=1),
        "advantages": (with_kl - others).flatten(),
    }
    mine = ours(tiny_dir, support, sampled(groups, old), {"kind": "rloo", "reward": "task"})
    assert_equal(mine, theirs(trainer, inputs))


def test_grpo(trl, tiny_dir, tmp_path, support, groups, old):
    r = log_rewards(groups)
    trainer = trainer_of(
        trl, "GRPO", tiny_dir, tmp_path, {"prompt": "a"}, num_generations=EACH, beta=BETA
    )
    batch = completions(support, groups)
    advantages = (r - r.mean(dim=1, keepdim=True)) / (r.std(dim=1, keepdim=True) + 1e-4)
    inputs = {
        **batch,
        "old_per_token_logps": old,
        "ref_per_token_logps": log_q_of(tiny_dir, support, groups, moved=False),
        "advantages": advantages.flatten(),
        "num_items_in_batch": batch["completion_mask"].sum(),
    }
    mine = ours(tiny_dir, support, sampled(groups, old), {"kind": "grpo", "reward": "task"})
    assert_equal(mine, theirs(trainer, inputs))


def test_dpo_on_the_best_and_the_worst(trl, tiny_dir, tmp_path, support, groups):
    columns = {"prompt": "a", "chosen": " b", "rejected": " c"}
    trainer = trainer_of(trl, "DPO", tiny_dir, tmp_path, columns, beta=BETA)
    ranked = [sorted(g.trajectories, key=lambda t: t.final_log_reward) for g in groups]
    pairs = [
        TrajectoryGroup(g.prompt_ids, [own[place]])
        for place in (-1, 0)
        for g, own in zip(groups, ranked, strict=True)
    ]
    objective = {"kind": "dpo", "reward": "task", "pairs": "best_worst"}
    mine = ours(tiny_dir, support, groups, objective)
    assert_equal(mine, theirs(trainer, whole_texts(support, pairs)))


def whole_texts(support, groups):
    """Prompt and completion as one text, and where the completion is."""
    parts = completions(support, groups)
    texts = [
        torch.cat([torch.from_numpy(g.prompt_ids).long(), ids[mask.bool()]])
        for g, ids, mask in zip(
            [g for g in groups for _ in g.trajectories],
            parts["completion_ids"],
            parts["completion_mask"],
            strict=True,
        )
    ]
    prompts = [len(g.prompt_ids) for g in groups for _ in g.trajectories]
    at = torch.arange(max(map(len, texts)))
    lengths = torch.tensor([len(text) for text in texts])[:, None]
    return {
        "input_ids": pad_sequence(texts, batch_first=True),
        "attention_mask": (at < lengths).long(),
        "completion_mask": ((at >= torch.tensor(prompts)[:, None]) & (at < lengths)).long(),
    }


def test_sft(trl, tiny_dir, tmp_path, support, groups):
    columns = {"prompt": "a", "completion": " b"}
    trainer = trainer_of(trl, "SFT", tiny_dir, tmp_path, columns)
    inputs = whole_texts(support, groups)
    inputs["labels"] = torch.where(inputs.pop("completion_mask").bool(), inputs["input_ids"], -100)
    expected, _ = theirs(trainer, inputs)
    model = policy(tiny_dir)
    shake(model, 1)
    tuner = SFTTrainer(model, support, lr=0.0, max_grad_norm=1e9, tokens_per_forward=4096)
    assert tuner.step(groups)["loss"] == pytest.approx(expected, rel=1e-5)
    objective, _ = ours_by_likelihood(tiny_dir, support, groups)
    assert objective == pytest.approx(expected, rel=1e-5)


def ours_by_likelihood(directory, support, groups):
    model = policy(directory)
    shake(model, 1)
    (total, weight), _ = PolicyLoss(model, job({"kind": "mle"}), support).backward(
        groups, 1.0, FREE
    )
    return float(total / weight), gradients(model)
