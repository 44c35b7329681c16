"""bfloat16 is taken where it is much faster and its rounding does no harm, and nowhere else."""

import dataclasses
import json

import pytest
from transformers import AutoTokenizer

from gfn_ray.config import LearnerConfig, RewardConfig, SamplerConfig
from gfn_ray.models.loading import body_layers, file_dtype
from gfn_ray.rewards.adjusted import AdjustedReward
from gfn_ray.rewards.completion import CompletionReward
from gfn_ray.rewards.table import TableReward
from gfn_ray.runtime.resources.precision import by_speed, exact, product_seconds, with_precision
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.infill.task import InfillTask
from gfn_ray.tasks.prompts.config import PromptsJob
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.random_number.task import RandomNumberTask

LAYERS = {"q_proj": (576, 576), "down_proj": (576, 1536)}


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def infilling(tokenizer):
    return InfillTask(InfillJob()).load(tokenizer, len(tokenizer))


@pytest.fixture
def numbers(tokenizer):
    return RandomNumberTask(RandomNumberJob()).load(tokenizer, len(tokenizer))


def dtypes(config):
    return [section.dtype for section in (config.sampler, config.reward, config.learner)]


def test_the_likelihood_of_a_text_may_be_rounded(infilling):
    assert exact(InfillJob(), infilling) is None
    adjusted = AdjustedReward(infilling.reward, [])
    assert exact(InfillJob(), dataclasses.replace(infilling, reward=adjusted)) is None


def test_a_synchronous_run_is_exact(infilling):
    assert exact(InfillJob(max_staleness=0), infilling).dtype == "float32"


def test_a_posterior_that_is_known_exactly_is_learned_exactly(numbers, infilling):
    assert exact(RandomNumberJob(), numbers).dtype == "float32"
    listed = dataclasses.replace(infilling, enumerations=numbers.enumerations)
    assert exact(InfillJob(), listed).dtype == "float32"


@pytest.mark.parametrize(("prior", "rounded"), [(1.0, True), (0.0, False)])
def test_a_reward_function_may_be_rounded_where_the_models_likelihood_counts(
    infilling, prior, rounded
):
    reward = CompletionReward({}, None, None, str, prior=prior, beta=1.0, tokens_per_forward=1024)
    found = exact(PromptsJob(), dataclasses.replace(infilling, reward=reward))
    assert (found is None) == rounded


@pytest.mark.parametrize("adjusted", [False, True])
def test_a_reward_that_is_no_likelihood_is_learned_exactly(infilling, adjusted):
    table = TableReward({}, floor=-1.0)
    reward = AdjustedReward(table, []) if adjusted else table
    assert exact(InfillJob(), dataclasses.replace(infilling, reward=reward)).dtype == "float32"


@pytest.mark.parametrize(
    ("gain", "dtype"), [(0.2, "float32"), (1.9, "float32"), (2.0, "bfloat16"), (7.0, "bfloat16")]
)
def test_bfloat16_is_taken_from_twice_the_speed_on(gain, dtype):
    timed = []

    def seconds(outputs, inputs, dtype):
        timed.append((outputs, inputs))
        return {"float32": 1.0, "bfloat16": 1.0 / gain}[dtype]

    choice = by_speed(LAYERS, seconds)
    assert choice.dtype == dtype and f"{gain:.2g} times as fast" in choice.why
    assert set(timed) == {(576, 1536)}  # the largest layer


def test_a_product_is_timed_in_either_precision():
    assert product_seconds(64, 64, "float32") > 0
    assert product_seconds(64, 64, "bfloat16") > 0


def test_what_is_asked_for_is_left_and_the_rest_is_told_in_a_line(infilling, tiny_dir):
    config = InfillJob(reward=RewardConfig(dtype="bfloat16"))
    said = []
    never = lambda: pytest.fail("on a CPU the file's own does not matter")  # noqa: E731
    layers = lambda: body_layers(str(tiny_dir), False)  # noqa: E731
    chosen = with_precision(config, infilling, "cpu", layers, never, said.append)
    assert dtypes(chosen) == ["float32", "bfloat16", "float32"]
    assert said == ["learner computes in float32: the model is too small for products to matter"]


def test_with_nothing_left_open_nothing_is_timed_or_said(infilling):
    never = lambda *_: pytest.fail("there was nothing to decide")  # noqa: E731
    given = InfillJob(
        sampler=SamplerConfig(dtype="float32"),
        reward=RewardConfig(dtype="float32"),
        learner=LearnerConfig(dtype="bfloat16"),
    )
    assert with_precision(given, infilling, "cpu", never, never, never) == given
    assert with_precision(given, infilling, "cuda", never, never, never) == given


def test_on_a_cpu_the_sampler_follows_the_learner(infilling):
    never = lambda *_: pytest.fail("there was nothing to decide")  # noqa: E731
    config = InfillJob(
        reward=RewardConfig(dtype="float32"), learner=LearnerConfig(dtype="bfloat16")
    )
    chosen = with_precision(config, infilling, "cpu", never, never, never)
    assert dtypes(chosen) == ["bfloat16", "float32", "bfloat16"]


def test_on_cuda_the_precision_is_that_of_the_models_file(infilling):
    """A model of 6B parameters does not fit in float32 beside others."""
    never, said = lambda *_: pytest.fail("nothing is timed on CUDA"), []
    chosen = with_precision(InfillJob(), infilling, "cuda", never, lambda: "bfloat16", said.append)
    assert dtypes(chosen) == ["auto", "bfloat16", "bfloat16"]
    assert said == ["reward and learner compute in bfloat16: the precision of the model's file"]


def test_on_cuda_a_posterior_that_is_known_exactly_is_learned_exactly(numbers):
    never = lambda *_: pytest.fail("the file's own does not matter")  # noqa: E731
    chosen = with_precision(RandomNumberJob(), numbers, "cuda", never, never, lambda _: None)
    assert dtypes(chosen) == ["auto", "float32", "float32"]


@pytest.mark.parametrize(
    ("saved", "dtype"),
    [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "bfloat16"), (None, "float32")],
)
def test_the_precision_of_a_file_is_read_from_its_settings(tiny_dir, tmp_path, saved, dtype):
    config = json.loads((tiny_dir / "config.json").read_text()) | {"dtype": saved}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert file_dtype(str(tmp_path), False) == dtype


def test_the_head_is_not_among_the_layers_that_are_timed(tiny_dir):
    layers = body_layers(str(tiny_dir), False)
    assert len(layers) == 2 * 7 and "lm_head" not in layers
