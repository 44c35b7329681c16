"""Subjectivity: is a sentence a statement of the plot or an opinion? z explains, y is the label.

Target: p(z | x, y) in proportion to p(z y | x), while the policy trained on it reads only x; EM
tunes p(y | x, z) on its samples. A prediction averages p(y | x, z) over z ~ q(z | x). Source: Hu
et al. 2024, section 4.3, on SUBJ (Pang and Lee 2004). Baselines are three classifiers without z:
the LM as it is, with examples in its prompt, and tuned on the same labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from gfn_ray.data.files import folded
from gfn_ray.errors import UserError
from gfn_ray.evaluation.faithfulness import Begun, Probe
from gfn_ray.evaluation.label_metrics import (
    Array,
    content_free_offset,
    halving_offset,
    label_quality,
    log_odds,
    model_average,
)
from gfn_ray.evaluation.plots.sample_curve import draw_sample_curve
from gfn_ray.evaluation.result import Baseline, Evaluation, QuerySamples, QueryTexts
from gfn_ray.models.tokenization import continuation_ids, text_ids
from gfn_ray.rewards.labelled import LabelledReward, shared_prefix
from gfn_ray.rewards.reward import Reward
from gfn_ray.support import BoundedSupport
from gfn_ray.tasks.base import BaseTask
from gfn_ray.tasks.label_plan import Classifier, LabelPlan
from gfn_ray.tasks.length_limit import LengthLimit
from gfn_ray.tasks.line_support import line_support
from gfn_ray.tasks.subjectivity.config import SubjectivityJob
from gfn_ray.tasks.subjectivity.data import (
    LABELS,
    Sentence,
    draw_labels,
    load_sentences,
    with_noise,
)
from gfn_ray.tasks.subjectivity.label_leak import LabelLeakFilter
from gfn_ray.tasks.subjectivity.probes import rationale_probes
from gfn_ray.tasks.subjectivity.simulation import RationaleSimulation
from gfn_ray.tasks.task import (
    CALIBRATION,
    DIAGNOSTICS,
    MetricInfo,
    TaskData,
    TaskSummary,
)
from gfn_ray.tasks.vocabulary import Vocabulary
from gfn_ray.trajectory import IntArray, Query

# Content-free inputs, as in Zhao et al. 2021, Calibrate before use.
CONTENT_FREE = ("N/A", "[MASK]", "...")
ANY_RATIONALE = " is one."  # precedes the answers when their tokens are determined


class SubjectivityTask(BaseTask[SubjectivityJob]):
    """z is a short rationale that ends a sentence, as " text" with its leading space."""

    name = "subjectivity"
    job = SubjectivityJob
    fields = ("text",)
    label_names = LABELS

    def __init__(self, config: SubjectivityJob) -> None:
        super().__init__(config)
        self._test: dict[str, int] = {}
        self._calibrating: list[str] = []
        self._names_label: LabelLeakFilter | None = None

    def load(self, tokenizer: Any, vocab_size: int) -> TaskData:
        task, em = self._config.task, self._config.em
        data = self._config.data
        splits = load_sentences(data, validate=task.calibration == "validation")
        answers = self.label_answers(tokenizer)
        room = LengthLimit.of_prompts("sentence", self._config.sampler, data.too_long)

        def fits(one: Sentence) -> bool:
            return room.takes_prompt(self._query(one, answers, tokenizer))

        with room.blamed():
            drawn = draw_labels(splits.pool, task.labels, task.draw, fits)
            labelled = with_noise(drawn, task.label_noise, task.draw)
            asked = self._config.eval.queries
            test = self._taken(filter(fits, splits.test), asked, "eval.queries", "test")
            calibrating = self._calibration_sentences(filter(fits, splits.validation))
        self._test = {one.sentence_id: one.label for one in test}
        self._calibrating = [one.sentence_id for one in calibrating]

        train = [self._query(one, answers, tokenizer) for one in labelled]
        held_out = [self._query(one, answers, tokenizer) for one in (*test, *calibrating)]
        outside = self._filter(tokenizer, vocab_size)
        reward = LabelledReward(
            answers,
            self._config.policy,
            self._config.seed,
            self._config.reward.tokens_per_forward,
            outside=outside,
            floor=task.label_floor,
            penalty=task.wrong_label_penalty,
        )
        truth = {one.sentence_id: one.label for one in labelled}
        classifiers = self._classifiers(labelled, [*test, *calibrating], tokenizer)
        plan = LabelPlan(em, answers, truth, classifiers)
        support = self.support(tokenizer, vocab_size)
        aside = frozenset(self._calibrating)
        notes = (*splits.notes, *room.notes)
        return TaskData(
            train,
            held_out,
            support,
            reward,
            labels=plan,
            simulation=RationaleSimulation(support),
            calibration=aside,
            notes=notes,
        )

    def support(self, tokenizer: Any, vocab_size: int) -> BoundedSupport:
        task = self._config.task
        vocabulary = Vocabulary(tokenizer, vocab_size)
        return line_support(vocabulary, task.min_len, task.max_len, "rationale")

    def target(self, tokenizer: Any, vocab_size: int) -> Reward:
        raise UserError(
            f"log R of task {self.name} needs the right label, which a query from outside does not "
            "have; its samples cannot be weighed"
        )

    def query(self, fields: Mapping[str, str], tokenizer: Any) -> Query:
        sentence = Sentence(self.name, folded(fields["text"], "text"), 0)
        return self._query(sentence, self.label_answers(tokenizer), tokenizer)

    def is_outside(self, token_ids: IntArray) -> bool:
        if self._names_label is None:
            raise RuntimeError("is_outside() needs a call of load() before it")
        return self._names_label(token_ids)

    def metrics_of(self, one: QueryTexts) -> dict[str, float]:
        named = [self.is_outside(t.token_ids) for t in one.trajectories]
        return {**super().metrics_of(one), "named_label_fraction": float(np.mean(named))}

    def sample_metrics(self, samples: Sequence[QueryTexts]) -> dict[str, float]:
        return self.label_metrics(_label_log_probs(samples))

    def label_metrics(self, log_probs: Mapping[str, Array]) -> dict[str, float]:
        """Returns quality on test sentences, calibrated on the others; log_probs [S, 2] by id."""
        odds = log_odds([model_average(log_probs[name]) for name in self._test])
        corrected = odds - self.label_offset(log_probs)
        found = label_quality(corrected, np.array(list(self._test.values())))
        return {name: found[name] for name in self.metrics if name in found}

    def label_offset(self, log_probs: Mapping[str, Array]) -> float:
        calibrating = log_odds([model_average(log_probs[name]) for name in self._calibrating])
        if self._config.task.calibration == "validation":
            return halving_offset(calibrating)
        if self._config.task.calibration == "content_free":
            return content_free_offset(calibrating)
        return 0.0

    def probes(
        self, queries: Sequence[Query], samples: Mapping[str, str], tokenizer: Any, seed: int
    ) -> list[Probe]:
        return rationale_probes(queries, samples, self.label_answers(tokenizer), tokenizer, seed)

    def begun(
        self, queries: Sequence[Query], tokenizer: Any, vocab_size: int, seed: int
    ) -> list[Begun]:
        """None: a rationale has no answer of its own."""
        return []

    def context_text(self, query: Query) -> tuple[str, str]:
        return query.texts["text"], query.texts["label"]

    def summarize(
        self,
        before: Evaluation,
        after: Evaluation,
        directory: Path,
        baselines: Mapping[str, Baseline],
    ) -> TaskSummary:
        sizes = _doublings(self._config.eval.samples)
        untrained, trained = (self._accuracies(one, sizes) for one in (before, after))
        points = ", ".join(f"{s}: {a:.3f}" for s, a in zip(sizes, trained, strict=True))
        labels, test = self._config.task.labels, len(self._test)
        files = draw_sample_curve(
            directory / "accuracy",
            sizes,
            untrained,
            trained,
            {name: one.metrics["accuracy"] for name, one in baselines.items()},
            f"Objective or subjective, from {labels} labels, {self._config.model.name}",
            f"Accuracy on {test} test sentences of p(y | x, z) averaged over rationales z of the "
            f"policy; prior correction: {self._config.task.calibration.replace('_', '-')}, the "
            "same for all. One standard error of an accuracy is at most "
            f"{0.5 / np.sqrt(test):.3f}.",
        )
        return TaskSummary([f"accuracy by number of rationales averaged over: {points}"], files)

    def _accuracies(self, one: Evaluation, sizes: Sequence[int]) -> list[float]:
        """Returns the accuracy when averaging over each number of samples per sentence."""
        log_probs = _label_log_probs(one.samples)
        return [
            self.label_metrics({name: each[:size] for name, each in log_probs.items()})["accuracy"]
            for size in sizes
        ]

    @property
    def metrics(self) -> dict[str, MetricInfo]:
        words = {
            "accuracy": MetricInfo("higher", "right labels of test sentences, averaged over z"),
            "auc": MetricInfo("higher", "ranking of subjective above objective"),
            "log_loss": MetricInfo("lower", "mean -log p(true label), nats"),
            "ece": MetricInfo("lower", "calibration error, ten bins"),
            "named_label_fraction": MetricInfo("lower", "rationales that leak a label"),
        }
        target = MetricInfo("none", "log p(z | x) + log p(y | x, z); EM moves the target")
        return {**words, **super().metrics, **DIAGNOSTICS, **CALIBRATION, "log_reward_mean": target}

    def _query(self, one: Sentence, answers: list[IntArray], tokenizer: Any) -> Query:
        task = self._config.task
        return Query(
            query_id=one.sentence_id,
            prompt_ids=text_ids(tokenizer, task.template.format(text=one.text)),
            context_ids=text_ids(
                tokenizer, (task.reward_template or task.template).format(text=one.text)
            ),
            answer_ids=answers[one.label],
            texts={"text": one.text, "label": LABELS[one.label]},
        )

    def _calibration_sentences(self, validation: Iterable[Sentence]) -> list[Sentence]:
        """Returns held-out sentences besides the test; content-free ones get an arbitrary label."""
        task = self._config.task
        if task.calibration == "none":
            return []
        if task.calibration == "content_free":
            return [Sentence(f"content-free-{i}", text, 0) for i, text in enumerate(CONTENT_FREE)]
        return self._taken(validation, task.calibration_rows, "task.calibration_rows", "validation")

    def _taken(
        self, part: Iterable[Sentence], wanted: int, setting: str, name: str
    ) -> list[Sentence]:
        found = list(islice(part, wanted))
        if len(found) < wanted:
            raise UserError(
                f"{setting} asks for {wanted} {name} sentences, the data has {len(found)}; lower "
                "it or give more sentences"
            )
        return found

    def _classifiers(
        self, labelled: list[Sentence], held_out: list[Sentence], tokenizer: Any
    ) -> list[Classifier]:
        task = self._config.task
        shots = labelled[: task.shots]
        shown = "".join(self._direct(one.text) + self._answer(one.label) + "\n\n" for one in shots)
        plain = {one.sentence_id: text_ids(tokenizer, self._direct(one.text)) for one in held_out}
        few = {
            one.sentence_id: text_ids(tokenizer, shown + self._direct(one.text)) for one in held_out
        }
        answers = self.label_answers(tokenizer, self._direct(labelled[0].text))
        examples = [(text_ids(tokenizer, self._direct(one.text)), one.label) for one in labelled]
        return [
            Classifier("zero-shot", plain, answers),
            Classifier(f"{len(shots)}-shot", few, answers),
            Classifier("tuned on labels", plain, answers, examples),
        ]

    def _direct(self, text: str) -> str:
        return self._config.task.direct_template.format(text=text)

    def _answer(self, label: int) -> str:
        return self._config.task.answer.format(label=self._config.task.label_words[label])

    def label_answers(self, tokenizer: Any, left: str = ANY_RATIONALE) -> list[IntArray]:
        try:
            answers = [continuation_ids(tokenizer, left, self._answer(i)) for i in range(2)]
        except ValueError as error:
            raise UserError(
                f"{error}, so an answer cannot be cut off from a rationale; change task.answer, "
                "for example to begin with a space, or choose another model.name"
            ) from None
        shared = len(shared_prefix(answers))
        if shared == 0 or shared == min(map(len, answers)):
            raise UserError(
                f"in tokens, the two answers of task.answer {self._config.task.answer!r} must "
                "begin alike and then differ; reword it, or change task.label_words"
            )
        return answers

    def _filter(self, tokenizer: Any, vocab_size: int) -> LabelLeakFilter:
        task = self._config.task
        texts = Vocabulary(tokenizer, vocab_size).texts
        self._names_label = LabelLeakFilter.of((*task.named_stems, *task.label_words), texts)
        return self._names_label


def _label_log_probs(samples: Sequence[QueryTexts]) -> dict[str, Array]:
    found = {}
    for one in samples:
        if not isinstance(one, QuerySamples) or one.label_log_probs is None:
            raise ValueError(f"samples of query {one.query.query_id!r} came without labels")
        found[one.query.query_id] = one.label_log_probs
    return found


def _doublings(largest: int) -> list[int]:
    """Returns 1, 2, 4 and so on up to the largest, which is always last."""
    sizes = [2**i for i in range(largest.bit_length()) if 2**i < largest]
    return [*sizes, largest]
