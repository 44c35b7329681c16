"""Random numbers: the target, the support, and what a run concludes."""

from typing import get_args

import numpy as np
import pytest
from scipy.stats import norm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gfn_ray.errors import UserError
from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.evaluation.result import Evaluation
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.tasks.random_number.config import RandomNumberConfig, RandomNumberJob, TargetKind
from gfn_ray.tasks.random_number.task import RandomNumberTask


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


def load(tokenizer, **task):
    job = RandomNumberJob(task=RandomNumberConfig(**task))
    return RandomNumberTask(job).load(tokenizer, len(tokenizer))


def text_of(tokenizer, query, tokens):
    return tokenizer.decode([*query.prompt_ids, *tokens])


def scored(data, tokens):
    z = demonstration_trajectory(
        data.train[0].query_id, np.array(tokens, dtype=np.int32), data.support
    )
    return data.reward.score([(data.train[0], z)])[0]


@pytest.mark.parametrize("support", ["digits", "full"])
@pytest.mark.parametrize(("low", "high"), [(0, 100), (-12, 7), (990, 1010)])
def test_every_integer_of_the_range_can_be_written_and_reads_as_itself(
    tokenizer, low, high, support
):
    data = load(tokenizer, low=low, high=high, support=support)
    (exact,) = data.enumerations
    prompt = tokenizer.decode(data.train[0].prompt_ids).rstrip()
    assert len(exact.outcomes) == high - low + 1
    for n, tokens in zip(range(low, high + 1), exact.outcomes, strict=True):
        assert data.support.contains(tokens)
        assert text_of(tokenizer, data.train[0], tokens).removeprefix(prompt).strip() == str(n)


def test_the_prompt_names_range_and_distribution(tokenizer):
    data = load(tokenizer, low=3, high=9, target="poisson")
    assert "from a poisson distribution between 3 and 9" in data.train[0].texts["prompt"]
    assert "drawn uniformly between 0 and 100" in load(tokenizer).train[0].texts["prompt"]


def test_the_digits_support_holds_nothing_but_what_integers_are_made_of(tokenizer):
    support = load(tokenizer).support
    texts = [tokenizer.decode([token]).strip() for token in np.flatnonzero(support.content)]
    assert all(text.isdigit() for text in texts)


def test_the_full_support_is_every_ordinary_token_and_ends_at_the_end_of_sequence(tokenizer):
    support = load(tokenizer, support="full").support
    assert support.stop_ids.tolist() == [tokenizer.eos_token_id]
    assert support.content.sum() == len(tokenizer) - len(tokenizer.all_special_ids)


@pytest.mark.parametrize("target", get_args(TargetKind))
def test_the_reward_is_the_target_up_to_a_constant_and_the_floor(tokenizer, target):
    data = load(tokenizer, low=0, high=20, target=target, floor=-8.0)
    (exact,) = data.enumerations
    wanted = np.maximum(exact.log_reward, -8.0)
    for tokens, log_reward in zip(exact.outcomes, wanted, strict=True):
        assert scored(data, tokens).final_log_reward == pytest.approx(log_reward, abs=1e-5)
    assert exact.log_reward.max() == 0


def test_an_integer_out_of_range_and_a_leading_zero_get_the_floor(tokenizer):
    data = load(tokenizer, floor=-8.0)
    one, zero = (data.enumerations[0].outcomes[n] for n in (1, 0))
    for tokens in ([*one, *one, *one], [*zero, *one]):
        assert scored(data, tokens).final_log_reward == -8.0


def test_the_policy_is_held_to_the_distribution_that_is_named_whatever_the_floor(
    tokenizer, tmp_path
):
    config = RandomNumberConfig(high=999, target="gaussian", std=1.0)
    task = RandomNumberTask(RandomNumberJob(task=config))
    data = task.load(tokenizer, len(tokenizer))
    gauss = norm.logpdf(np.arange(1000), 499.5, 1.0)
    found = evaluation(data, gauss - np.logaddexp.reduce(gauss))
    assert found.exact[0].tv == pytest.approx(0, abs=1e-9)
    raised, *_ = task.summarize(found, found, tmp_path, {}).findings
    assert raised == (
        "task.floor -10 lifts 990 rare integers: the training target is 0.016 in total variation "
        "from gaussian; a lower floor is closer"
    )


def test_an_answer_is_an_integer_in_its_one_form(tokenizer):
    config = RandomNumberConfig(support="full")
    task = RandomNumberTask(RandomNumberJob(task=config))
    query = task.query({}, tokenizer)
    listed = [tokenizer.decode(tokens) for tokens in query.demonstrations]
    assert [task.answer(query, text) for text in listed] == [str(n) for n in range(101)]
    for other in (
        listed[5] + " ",
        "\n" + listed[5],
        "  5",
        "0" + listed[5].strip(),
        "101",
        "-1",
        "x",
    ):
        assert task.answer(query, other) is None


def test_what_is_seeded_is_the_whole_range(tokenizer):
    data = load(tokenizer)
    outcomes = data.enumerations[0].outcomes
    assert all(
        np.array_equal(a, b) for a, b in zip(data.train[0].demonstrations, outcomes, strict=True)
    )


def test_demonstrations_are_as_frequent_as_the_target_has_them(tokenizer):
    data = load(tokenizer, high=9, target="geometric", mean=2.0)
    (exact,), seen = data.enumerations, data.train[0].demonstrations
    copies = np.array([sum(np.array_equal(z, one) for one in seen) for z in exact.outcomes])
    assert np.abs(copies / 10 - np.exp(exact.log_reward)).max() <= 0.05


def evaluation(data, log_q):
    exact = ExactComparison.unnormalised(data.enumerations[0].log_reward, log_q, "uniform")
    return Evaluation({}, [], [exact], 0.0)


def test_a_run_concludes_with_the_extremes_and_a_histogram(tokenizer, tmp_path):
    task = RandomNumberTask(RandomNumberJob(task=RandomNumberConfig(high=9)))
    data = task.load(tokenizer, len(tokenizer))
    log_q = np.full(10, np.log(0.1))
    before = evaluation(data, log_q - 0.5)
    log_q[3], log_q[7] = np.log(0.15), np.log(0.05)
    conclusion = task.summarize(before, evaluation(data, log_q), tmp_path, {})
    assert [line.split(": ")[1] for line in conclusion.findings] == ["3 (x1.50)", "7 (x0.50)"]
    names = {"histogram.png", "histogram.svg", "distribution.csv"}
    assert {file.name for file in conclusion.files} == names
    header, *rows = (tmp_path / "distribution.csv").read_text().splitlines()
    assert header == "integer,target,before,after"
    assert [float(row.split(",")[3]) for row in rows] == pytest.approx(np.exp(log_q))
    drawn = (tmp_path / "histogram.svg").read_text()
    assert "0.393 → 0.050; mass on other texts 39.35% → 0.00%" in drawn


def test_every_exact_metric_has_a_meaning_under_its_targets_name(tokenizer):
    task = RandomNumberTask(RandomNumberJob(task=RandomNumberConfig(target="gaussian")))
    assert {"tv", "kl_gaussian_q", "kl_q_gaussian", "valid_mass"} <= set(task.metrics)


def test_a_prompt_too_long_for_the_engine_is_refused(tokenizer):
    with pytest.raises(UserError, match="max_prompt_tokens"):
        load(tokenizer, prompt="so " * 300 + "{how}")


def test_full_support_without_an_end_of_sequence_is_refused(tokenizer):
    class Endless:
        eos_token_id = None

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, *texts, **options):
            return tokenizer(*texts, **options)

        def __len__(self):
            return len(tokenizer)

    with pytest.raises(UserError, match=r"task\.support digits"):
        load(Endless(), support="full")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"cannot write 0: it decodes to '\?'"),
        ([str(n) for n in range(9)], r"cannot write 9: it decodes to '\?'"),
        ([str(n) for n in range(10)], "no full stop, newline or end-of-sequence token"),
    ],
)
def test_a_tokenizer_that_cannot_write_the_numbers_or_their_end_is_refused(words, message):
    vocabulary = {word: i for i, word in enumerate(["?", "a", "numbers:", *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.Fuse()
    with pytest.raises(UserError, match=message):
        load(PreTrainedTokenizerFast(tokenizer_object=inner), low=0, high=9)


def test_settings_that_contradict_each_other_are_refused():
    for task, message in [
        ({"low": 5, "high": 5}, "must be below"),
        ({"high": 5000}, "narrow the range"),
        ({"prompt": "{which}"}, "task.prompt takes"),
    ]:
        with pytest.raises(ValueError, match=message):
            RandomNumberConfig(**task)
    job = RandomNumberJob()
    assert job.replay.per_query >= job.learner.trajectories_per_query
