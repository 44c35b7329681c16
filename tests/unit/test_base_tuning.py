"""The tuned base that infilling begins with: made once, and for whom."""

import io

import pytest

from gfn_ray.errors import RunFailed
from gfn_ray.models.adapter_files import check_adapter
from gfn_ray.runs.base_tuning import tuned_base
from gfn_ray.runs.display import make_display
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.infill.story_texts import BaseTexts, story_texts


@pytest.fixture
def texts(tiny_dir):
    from transformers import AutoTokenizer

    whole = story_texts(InfillJob().data, AutoTokenizer.from_pretrained(tiny_dir), None)
    return BaseTexts(whole.train[:4], whole.validation[:2])


@pytest.fixture
def make(tiny_dir, texts, tmp_path, monkeypatch):
    """Makes a tuned base of settings that differ from each other as told; its directory, and what
    was shown."""
    monkeypatch.setenv("GFN_RAY_CACHE", str(tmp_path / "cache"))

    def make(texts=texts, model=tiny_dir, **changes):
        shown = io.StringIO()
        config = InfillJob.model_validate({"tune_base": {"steps": 5, "lr": 1e-2}, **changes})
        return tuned_base(config, str(model), texts, make_display(1, 1, shown)), shown.getvalue()

    return make


def test_it_is_tuned_once_and_its_gain_is_told_each_time(make):
    first, told = make()
    again, told_again = make()
    assert first == again
    assert "tuning the base model on 4 texts, once: update 5/5 | loss" in told
    gain = [line for line in told.splitlines() if line.startswith("base model tuned on 4 texts")]
    assert gain == told_again.splitlines()
    before, after = gain[0].split("perplexity of 2 validation texts ")[1].split(", then ")
    assert float(after.replace(",", "")) < float(before.replace(",", ""))


def test_it_is_an_adapter_of_the_default_rank_whatever_the_policys_is(make):
    directory, _ = make(policy={"lora_rank": 64})
    config, _ = check_adapter(directory, "the base")
    assert config["r"] == InfillJob().policy.lora_rank
    assert directory == make()[0]


def test_another_base_follows_from_other_settings_texts_or_weights(make, texts, tiny_dir, tmp_path):
    import shutil

    moved = shutil.copytree(tiny_dir, tmp_path / "moved")
    found = [
        make()[0],
        make(tune_base={"steps": 5, "lr": 2e-2})[0],
        make(tune_base={"steps": 6, "lr": 1e-2})[0],
        make(texts=BaseTexts(texts.train[:3], texts.validation))[0],
        make(model=moved)[0],
    ]
    assert len(set(found)) == len(found)


def test_texts_without_a_validation_split_are_tuned_on_all_the_same(make, texts):
    _, told = make(texts=BaseTexts(texts.train, []))
    assert told.splitlines()[-1] == "base model tuned on 4 texts"


def test_a_learning_rate_that_is_too_high_ends_the_run_and_leaves_nothing(make, tmp_path):
    with pytest.raises(RunFailed, match=r"update 2: the loss is nan; lower --tune-base\.lr"):
        make(tune_base={"steps": 5, "lr": 1e30})
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]


def test_a_base_adapter_of_ones_own_and_zero_steps_leave_the_base_alone():
    assert InfillJob().base_tuning is not None
    assert InfillJob.model_validate({"tune_base": {"steps": 0}}).base_tuning is None
    given = InfillJob.model_validate({"task": {"base_adapter": "mine"}})
    assert given.base_tuning is None
