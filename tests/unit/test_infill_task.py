"""The infill task: prompts, targets and support, on the tiny model's tokenizer."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gfn_ray.config import DataConfig, EvalConfig, SamplerConfig
from gfn_ray.config.sections import EncoderConfig
from gfn_ray.data.stories import load_stories, split
from gfn_ray.decoding.simulation import SimulatedQuery, Verdict
from gfn_ray.errors import UserError
from gfn_ray.evaluation.posterior import query_diagnostics
from gfn_ray.evaluation.result import QuerySamples
from gfn_ray.models.tokenization import continuation_ids
from gfn_ray.runtime.evaluation.simulated import Drawn, read_drawn, write_drawn
from gfn_ray.tasks.demonstrations import demonstration_trajectory
from gfn_ray.tasks.infill.config import InfillConfig, InfillJob
from gfn_ray.tasks.infill.task import InfillTask
from gfn_ray.tasks.task import Task
from gfn_ray.tasks.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


@pytest.fixture(scope="module")
def data(tokenizer):
    return InfillTask(InfillJob()).load(tokenizer, len(tokenizer))


def test_context_z_and_answer_read_as_the_story_in_its_natural_order(data, tokenizer):
    for query in data.train:
        ids = np.concatenate([query.context_ids, query.demonstrations[0], query.answer_ids])
        text = tokenizer.decode(ids, skip_special_tokens=True)
        parts = (query.texts[name] for name in ("beginning", "reference", "ending"))
        assert text == " ".join(parts)


def test_a_tokenizer_that_marks_words_like_sentencepiece_gives_the_same_texts(stories_text):
    """Llama-2 and its kin drop the leading space of a token that is decoded alone."""
    tokenizer = sentencepiece_like(stories_text)
    data = InfillTask(InfillJob()).load(tokenizer, len(tokenizer))
    assert data.support.opening.sum() > 50
    for query in data.held_out:
        ids = np.concatenate([query.context_ids, query.demonstrations[0], query.answer_ids])
        parts = (query.texts[name] for name in ("beginning", "reference", "ending"))
        assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(parts)


@pytest.fixture(scope="module")
def stories_text():
    return [sentence for story in load_stories(DataConfig()) for sentence in story.sentences]


def sentencepiece_like(texts):
    metaspace = {"replacement": "\u2581", "prepend_scheme": "first"}
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**metaspace, split=True)
    tokenizer.decoder = decoders.Metaspace(**metaspace)
    special = ["<unk>", "<s>", "</s>", "<0x0A>"]
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=special)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def test_a_template_with_unknown_fields_or_stray_braces_is_refused():
    for template in ("{beginning} {ending} {title}", "{beginning} {ending} {"):
        with pytest.raises(ValidationError, match=r"task\.template takes"):
            InfillConfig(template=template)


def test_lengths_that_admit_no_sentence_are_refused(tokenizer):
    with pytest.raises(UserError, match=r"task\.max_len 1"):
        InfillTask(InfillJob(task=InfillConfig(min_len=1, max_len=1))).load(
            tokenizer, len(tokenizer)
        )


def test_data_without_a_training_story_is_refused(tokenizer, tmp_path):
    stories = load_stories(DataConfig())
    held_out = next(s for s in stories if s in split(stories).test)
    file = tmp_path / "one.csv"
    columns = "storyid,storytitle," + ",".join(f"sentence{k}" for k in range(1, 6))
    cells = ",".join(f'"{cell}"' for cell in (held_out.story_id, "", *held_out.sentences))
    file.write_text(f"{columns}\n{cells}\n")
    job = InfillJob(data=DataConfig(path=file), eval=EvalConfig(queries=1))
    with pytest.raises(UserError, match="training split"):
        InfillTask(job).load(tokenizer, len(tokenizer))


def test_the_prompt_shows_beginning_and_ending_but_never_the_middle(data, tokenizer):
    for query in data.held_out:
        prompt = tokenizer.decode(query.prompt_ids)
        assert query.texts["beginning"] in prompt
        assert query.texts["ending"] in prompt
        assert query.texts["reference"] not in prompt


def test_training_and_held_out_stories_are_disjoint(data):
    assert not {q.query_id for q in data.train} & {q.query_id for q in data.held_out}


def test_z_opens_with_a_word_after_one_space_and_closes_a_sentence(data, tokenizer):
    texts = Vocabulary(tokenizer, len(tokenizer)).texts
    support = data.support
    for token in np.flatnonzero(support.opening):
        assert texts[token][0] == " " and texts[token][1].isalnum()
    for token in np.flatnonzero(support.enders):
        assert texts[token].rstrip("\"')]")[-1] in ".!?"


def test_stop_tokens_are_line_breaks_and_the_end_of_text(data, tokenizer):
    stops = data.support.stop_ids.tolist()
    assert tokenizer.eos_token_id in stops
    assert tokenizer.encode("\n", add_special_tokens=False)[-1] in stops
    assert not data.support.content[stops].any()


def test_every_prefix_is_terminable_where_asked(tokenizer):
    job = InfillJob(task=InfillConfig(terminable="every", min_len=3))
    support = InfillTask(job).load(tokenizer, len(tokenizer)).support
    z = tokenizer.encode(" He went home", add_special_tokens=False)
    assert support.terminable(z).tolist() == [t >= 3 for t in range(len(z) + 1)]


def test_logits_beyond_the_tokenizer_are_never_legal(tokenizer):
    padded = len(tokenizer) + 7
    support = InfillTask(InfillJob()).load(tokenizer, padded).support
    assert support.vocab_size == padded
    assert not support.masks[:, len(tokenizer) :].any()


def test_a_prompt_that_is_too_long_is_refused_by_story_and_setting(tokenizer):
    job = InfillJob(sampler=SamplerConfig(max_prompt_tokens=20))
    with pytest.raises(UserError, match=r"prompt of story 'gfn-.*sampler\.max_prompt_tokens"):
        InfillTask(job).load(tokenizer, len(tokenizer))


def test_more_held_out_queries_than_there_are_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"eval\.queries asks for 10000"):
        InfillTask(InfillJob(eval=EvalConfig(queries=10_000))).load(tokenizer, len(tokenizer))


def drafted(simulation, query, middle, ending):
    """The verdict on a true story as the frozen LM would write it, at the first draft whose middle
    has its length."""
    rng = np.random.default_rng(0)
    while True:
        draft = simulation.draft(query, rng)
        verdicts = [draft.take(int(token)) for token in middle]
        if Verdict.REJECTED in verdicts:
            continue
        for token in ending:
            verdicts.append(draft.take(int(token)))
            if verdicts[-1] is not Verdict.GOES_ON:
                return verdicts, draft


def test_a_story_that_the_lm_writes_is_the_query_that_the_same_data_are(data, tokenizer):
    known = [query for query in data.held_out if data.support.contains(query.demonstrations[0])]
    whole = [q for q in known if data.simulation.ending.contains(q.answer_ids)]
    compared = 0
    for query in whole[:6]:
        z = query.demonstrations[0]
        verdicts, draft = drafted(data.simulation, query, z, query.answer_ids)
        if len(verdicts) < len(z) + len(query.answer_ids):  # "Mr." ends no sentence of the data
            continue
        assert verdicts[-1] is Verdict.KEPT
        found = draft.simulated(-50.0)
        assert np.array_equal(found.token_ids, z)
        assert found.query.query_id == f"{query.query_id}/simulated"
        for name in ("prompt_ids", "context_ids", "answer_ids"):
            assert np.array_equal(getattr(found.query, name), getattr(query, name))
        assert found.query.texts == query.texts
        compared += 1
    assert compared


def test_a_story_whose_prompt_would_be_too_long_is_rejected(data, tokenizer):
    simulation = replace(data.simulation, max_prompt_tokens=20)
    query = next(
        query
        for query in data.held_out
        if data.support.contains(query.demonstrations[0])
        and simulation.ending.contains(query.answer_ids)
    )
    verdicts, _ = drafted(simulation, query, query.demonstrations[0], query.answer_ids)
    assert verdicts[-1] is Verdict.REJECTED


def test_a_simulated_query_is_kept_as_it_was(data, tmp_path):
    query = data.held_out[0]
    one = SimulatedQuery(replace(query, demonstrations=()), query.demonstrations[0], -12.5)
    write_drawn(tmp_path / "queries", Drawn([one], 40, 2, 3.5))
    (found,), remark = read_drawn(tmp_path / "queries", 3)
    assert (found.query.query_id, found.query.texts) == (query.query_id, query.texts)
    for name in ("prompt_ids", "context_ids", "answer_ids"):
        assert np.array_equal(getattr(found.query, name), getattr(query, name))
    assert np.array_equal(found.token_ids, one.token_ids) and found.log_density == -12.5
    assert remark.startswith("1 of 3 simulated queries: the frozen LM wrote 40 drafts")
    write_drawn(tmp_path / "none", Drawn([], 0, 0, 0.5, "it has no cache"))
    assert read_drawn(tmp_path / "none", 3)[0] == []


def samples_of(data, tokenizer, query, texts):
    tokens = [continuation_ids(tokenizer, query.texts["beginning"], f" {text}") for text in texts]
    trajectories = [demonstration_trajectory(query.query_id, z, data.support) for z in tokens]
    diagnostics = query_diagnostics(np.zeros(2), np.zeros(2))
    decoded = [tokenizer.decode(z) for z in tokens]
    return QuerySamples(query, trajectories, decoded, np.zeros(len(texts)), diagnostics)


def test_each_query_is_measured_against_its_own_true_middle(data, tokenizer):
    task = InfillTask(InfillJob())
    assert isinstance(task, Task)
    first, second = data.held_out[:2]
    own = samples_of(data, tokenizer, first, [first.texts["reference"]] * 2)
    other = samples_of(data, tokenizer, second, [first.texts["reference"]] * 2)
    right, wrong = task.query_metrics([own, other])
    for name in ("bert_score", "bleu4", "gleu4"):
        assert right[name] == pytest.approx(1, abs=1e-5)
        assert wrong[name] < 0.8
    assert right["distinct_fraction"] == 0.5
    assert set(right) <= set(task.metrics)


def test_a_metric_is_the_mean_over_a_querys_samples(data, tokenizer):
    task, query = InfillTask(InfillJob()), data.held_out[0]
    given = query.texts["given"].split("\n")[0]
    texts = [query.texts["reference"], given]
    (both,) = task.query_metrics([samples_of(data, tokenizer, query, texts)])
    apart = task.query_metrics([samples_of(data, tokenizer, query, [text]) for text in texts])
    for name in ("bert_score", "bleu4", "gleu4", "copy_fraction", "length_mean"):
        assert both[name] == pytest.approx(np.mean([one[name] for one in apart]), abs=1e-5)
    assert both["copy_fraction"] == 0.5


def test_the_encoder_is_named_with_its_score_and_refused_before_anything_runs(tokenizer, tmp_path):
    job = InfillJob(encoder=EncoderConfig(name=str(tmp_path)))
    assert InfillTask(job).metrics["bert_score"].meaning == f"BERTScore F1 ({tmp_path})"
    with pytest.raises(UserError, match=r"--encoder\.name"):
        InfillTask(job).load(tokenizer, len(tokenizer))


def test_a_length_prior_of_middles_of_one_length_is_refused(tokenizer, tmp_path):
    stories = load_stories(DataConfig())
    kept = [split(stories).train[0], split(stories).test[0]]
    file = tmp_path / "two.csv"
    columns = "storyid,storytitle," + ",".join(f"sentence{k}" for k in range(1, 6))
    lines = [",".join(f'"{c}"' for c in (s.story_id, "", *s.sentences)) for s in kept]
    file.write_text("\n".join([columns, *lines]))
    job = InfillJob(
        data=DataConfig(path=file),
        eval=EvalConfig(queries=1),
        task=InfillConfig(length_prior="training"),
    )
    with pytest.raises(UserError, match=r"task\.length_prior.*1 training story"):
        InfillTask(job).load(tokenizer, len(tokenizer))
