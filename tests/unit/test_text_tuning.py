"""Likelihood tuning on whole texts: what counts, and that it works, on the tiny model."""

import math

import numpy as np
import pytest
import torch

from gfn_ray.config import PolicyConfig, TuneBaseJob
from gfn_ray.data.stories import load_stories, split
from gfn_ray.errors import UserError
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.policy.text_tuning import TextTuner, negative_log_likelihood, perplexity
from gfn_ray.runtime.tune_base import _texts, tune_base
from makers import random_ids


@pytest.fixture
def texts(base):
    rng = np.random.default_rng(0)
    return [random_ids(rng, length, base.config.vocab_size) for length in (9, 4, 13)]


@torch.no_grad()
def log_p(model, text):
    """Sum of log p of every token but the first, one forward a token."""
    total = 0.0
    for t in range(1, len(text)):
        logits = model(torch.tensor([text[:t].tolist()])).logits[0, -1].double()
        total += float(torch.log_softmax(logits, -1)[int(text[t])])
    return total


def test_the_likelihood_is_that_of_every_token_but_the_first(base, texts):
    total, tokens = negative_log_likelihood(base, texts)
    assert tokens == 8 + 3 + 12
    assert float(total) == pytest.approx(-sum(log_p(base, text) for text in texts), abs=1e-3)


def test_padding_does_not_count(base, texts):
    apart = [negative_log_likelihood(base, [text]) for text in texts]
    total, tokens = negative_log_likelihood(base, texts)
    assert float(total) == pytest.approx(sum(float(part) for part, _ in apart), abs=1e-3)
    assert tokens == sum(count for _, count in apart)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_perplexity_is_exact_however_the_texts_are_batched(base, texts, batch):
    mean = sum(log_p(base, text) for text in texts) / 23
    assert perplexity(base, texts, batch) == pytest.approx(math.exp(-mean), rel=1e-4)


def test_the_loss_falls_and_only_the_adapter_moves(base, texts):
    before = {name: p.clone() for name, p in base.named_parameters()}
    model = add_adapter(base, PolicyConfig(lora_rank=8), seed=0)
    tuner = TextTuner(model, lr=1e-2, max_grad_norm=1.0)
    losses = [tuner.step(texts)["loss"] for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
    assert perplexity(model, texts, 8) < math.exp(losses[0])
    frozen = {
        n.replace("base_model.model.", "").replace(".base_layer", ""): p
        for n, p in model.named_parameters()
        if "lora_" not in n
    }
    assert all(torch.equal(frozen[name], value) for name, value in before.items())


def test_the_test_stories_of_infilling_are_in_neither_part(tiny_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    config = TuneBaseJob()
    train, held_out = (
        [tokenizer.decode(ids) for ids in part] for part in _texts(config, tokenizer)
    )
    splits = split(load_stories(config.data))
    assert train == [" ".join(story.sentences) for story in splits.train]
    assert held_out == [" ".join(story.sentences) for story in splits.validation]
    assert not {" ".join(s.sentences) for s in splits.test} & {*train, *held_out}


def test_data_without_validation_stories_is_refused(tiny_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))
    story = split(load_stories(TuneBaseJob().data)).train[0]
    file = tmp_path / "one.csv"
    columns = "storyid,storytitle," + ",".join(f"sentence{k}" for k in range(1, 6))
    file.write_text(
        columns + "\n" + ",".join(f'"{c}"' for c in (story.story_id, "", *story.sentences))
    )
    config = TuneBaseJob.model_validate({"model": {"name": str(tiny_dir)}, "data": {"path": file}})
    with pytest.raises(UserError, match="validation split"):
        tune_base(config)
    assert not (tmp_path / "runs").exists()
