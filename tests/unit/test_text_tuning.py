"""Likelihood tuning on whole texts: what counts, and that it works, on the tiny model."""

import math
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from gfn_ray.cli import main
from gfn_ray.config import PolicyConfig, TuneBaseJob
from gfn_ray.data.stories import load_stories, split
from gfn_ray.errors import UserError
from gfn_ray.formatting import count
from gfn_ray.learners.text_tuning import TextTuner, negative_log_likelihood, perplexity
from gfn_ray.policy.adapter import add_adapter
from gfn_ray.runs.tune_base import tune_base
from gfn_ray.tasks.infill.story_texts import story_texts
from testing.makers import random_ids
from testing.refused_places import change_json


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


def poison_a_gradient(model):
    """Every loss stays finite, and a gradient is NaN."""
    trained = next(p for p in model.parameters() if p.requires_grad)
    trained.register_hook(lambda gradient: gradient * float("nan"))


@pytest.mark.parametrize(
    ("spoil", "lr", "number"),
    [
        (lambda model: None, 1e30, "the loss is nan"),
        (poison_a_gradient, 1e-3, "the gradient's norm is nan"),
    ],
)
def test_an_update_with_a_number_that_is_not_finite_is_refused(base, texts, spoil, lr, number):
    model = add_adapter(base, PolicyConfig(lora_rank=8), seed=0)
    spoil(model)
    tuner = TextTuner(model, lr=lr, max_grad_norm=1.0)
    with pytest.raises(FloatingPointError, match=number):
        for _ in range(2):
            tuner.step(texts)


def test_a_perplexity_that_is_not_finite_is_refused(base, texts):
    model = add_adapter(base, PolicyConfig(lora_rank=8), seed=0)
    TextTuner(model, lr=1e30, max_grad_norm=1.0).step(texts)
    with pytest.raises(FloatingPointError, match="the perplexity is nan"):
        perplexity(model, texts, 8)


def stories_file(file, stories):
    columns = "storyid,storytitle," + ",".join(f"sentence{k}" for k in range(1, 6))
    rows = [",".join(f'"{c}"' for c in (s.story_id, "", *s.sentences)) for s in stories]
    file.write_text("\n".join([columns, *rows]))
    return file


def tuning(home, model, **settings):
    """A job on three stories a part, which keeps its books in this directory."""
    splits = split(load_stories(TuneBaseJob().data))
    stories = [*splits.train[:3], *splits.validation[:3]]
    return TuneBaseJob.model_validate(
        {
            "model": {"name": str(model)},
            "tracking": {"uri": f"sqlite:///{home / 'mlflow.db'}"},
            "run_dir": home / "run",
            "data": {"path": stories_file(home / "six.csv", stories)},
            **settings,
        }
    )


@pytest.mark.parametrize(
    ("steps", "number"), [(2, "update 2: the loss is nan"), (1, "after tuning: the perplexity")]
)
def test_a_learning_rate_that_is_too_high_ends_the_run_in_one_line_that_names_it(
    steps, number, tiny_dir, tmp_path, capsys
):
    config = tuning(tmp_path, tiny_dir, steps=steps, lr=1e30)
    assert main(lambda: tune_base(config)) == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and number in line and "lower --lr (1e+30)" in line
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_story_that_is_longer_than_the_model_reads_is_refused_before_anything_starts(
    tiny_dir, tmp_path
):
    model = shutil.copytree(tiny_dir, tmp_path / "model")
    change_json(model / "config.json", max_position_embeddings=20)
    config = tuning(tmp_path, model)
    with pytest.raises(
        UserError, match=r"story '.*' has \d+ tokens; the model .* reads 20; change"
    ):
        tune_base(config)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "six.csv"}
    data = config.data.model_copy(update={"too_long": "skip"})
    skipping = config.model_copy(update={"data": data})
    with pytest.raises(
        UserError, match=r"training split; give more; 6 stories left out because each"
    ):
        tune_base(skipping)


def test_stories_that_are_longer_than_the_model_reads_may_be_left_out(tiny_dir, tmp_path):
    config = tuning(tmp_path, tiny_dir)
    data = config.data.model_copy(update={"too_long": "skip"})
    skipping = config.model_copy(update={"data": data})
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    *parts, _ = story_texts(config.data, tokenizer, None)
    limit = max(min(map(len, part)) for part in parts)  # one of each part fits
    kept = [[text.tolist() for text in part if len(text) <= limit] for part in parts]
    *left, notes = story_texts(skipping.data, tokenizer, limit)
    assert [[text.tolist() for text in part] for part in left] == kept
    out = 6 - sum(map(len, kept))
    assert out and notes[0].startswith(
        f"{count(out, 'story')} left out because each has more tokens"
    )


def test_the_test_stories_of_infilling_are_in_neither_part(tiny_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    config = TuneBaseJob()
    *parts, notes = story_texts(config.data, tokenizer, None)
    train, held_out = ([tokenizer.decode(ids) for ids in part] for part in parts)
    assert notes == ()
    splits = split(load_stories(config.data))
    assert train == [" ".join(story.sentences) for story in splits.train]
    assert held_out == [" ".join(story.sentences) for story in splits.validation]
    assert not {" ".join(s.sentences) for s in splits.test} & {*train, *held_out}


def test_data_without_validation_stories_is_refused(tiny_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))
    story = split(load_stories(TuneBaseJob().data)).train[0]
    file = stories_file(tmp_path / "one.csv", [story])
    config = TuneBaseJob.model_validate({"model": {"name": str(tiny_dir)}, "data": {"path": file}})
    with pytest.raises(UserError, match="validation split"):
        tune_base(config)
    assert not (tmp_path / "runs").exists()
