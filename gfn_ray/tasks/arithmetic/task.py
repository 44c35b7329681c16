"""Tool-augmented arithmetic: sample the chain of calculation between a question and its answer.

Target: p(z | question, answer) in proportion to p(z answer | demonstrations, question) under the
frozen LM, less task.wrong_answer_penalty nats if z does not end at the answer. z is a chain of
equations whose values a calculator writes; only prefixes that end an equation may stop. Source:
Hu et al. 2024, section 4.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from gfn_ray.decoding.decoder import Decoder, searching_decoders
from gfn_ray.errors import UserError
from gfn_ray.evaluation.faithfulness import Begun, Probe
from gfn_ray.evaluation.plots.accuracy_plot import LengthAccuracy, draw_accuracy
from gfn_ray.evaluation.result import Baseline, Evaluation, QueryTexts
from gfn_ray.evaluation.wilson import wilson_interval
from gfn_ray.models.tokenization import checked_continuation_ids, text_ids
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.rewards.reward import Reward
from gfn_ray.rewards.table import TableReward
from gfn_ray.rewards.verifier import VerifierReward
from gfn_ray.sampling.calculator import Calculator
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.support import Support
from gfn_ray.support.characters import lift
from gfn_ray.tasks.arithmetic.answers import (
    AnswerCheck,
    answer_of,
    is_right,
    majority_share,
)
from gfn_ray.tasks.arithmetic.config import ArithmeticJob
from gfn_ray.tasks.arithmetic.data import Problem, Splits, parse
from gfn_ray.tasks.arithmetic.files import load_splits
from gfn_ray.tasks.arithmetic.grammar import ArithmeticGrammar
from gfn_ray.tasks.arithmetic.probes import chain_beginnings, chain_probes
from gfn_ray.tasks.arithmetic.simulation import ChainSimulation
from gfn_ray.tasks.base import BaseTask
from gfn_ray.tasks.length_limit import LengthLimit
from gfn_ray.tasks.star_plan import StarPlan
from gfn_ray.tasks.task import (
    CALIBRATION,
    DIAGNOSTICS,
    MetricInfo,
    TaskData,
    TaskSummary,
    check_prompt_lengths,
)
from gfn_ray.tasks.vocabulary import Vocabulary
from gfn_ray.trajectory import BoolArray, Query


class ArithmeticTask(BaseTask[ArithmeticJob]):
    """One query per problem; z is a text such as " 6 - 0 = 6, 6 - 4 = 2".

    The answer of a z is the value of its last equation; the answer of a query is the majority of
    its samples. R has y = ". The answer is 2." right after z; the terminator of z belongs to the
    policy and not to R.
    """

    name = "arithmetic"
    job = ArithmeticJob
    fields = ("question",)

    def load(self, tokenizer: Any, vocab_size: int) -> TaskData:
        config, task = self._config, self._config.task
        splits = self._splits
        held_out = getattr(splits, task.eval_split)
        problems = [*splits.demonstrations, *splits.train, *chain(*held_out.values())]
        for problem in problems:
            if beyond := self._beyond(problem):
                raise UserError(
                    f"problem {problem.expression!r} {beyond}; raise it, or leave the problem out"
                )
        room = LengthLimit.of_prompts("problem", config.sampler, config.data.too_long)
        train = room.fitting(
            self._query(problem, tokenizer, known=known)
            for part, known in ((splits.demonstrations, True), (splits.train, False))
            for problem in part
        )
        fitting = room.fitting(
            (self._query(p, tokenizer, known=True) for p in _in_turn(held_out)),
            config.eval.queries,
        )
        with room.blamed():
            self._check_enough(train, fitting)
        evaluated = sorted(fitting, key=lambda query: int(query.texts["operands"]))
        support = self.support(tokenizer, vocab_size)
        for query in (*train, *evaluated):
            if not all(support.contains(z) for z in query.demonstrations):
                raise UserError(
                    f"the rationale of {query.query_id!r}, in tokens of model.name, is not in the "
                    f"language of z with task.max_equations {task.max_equations} and "
                    f"task.max_digits {task.max_digits}; choose another model, or raise them"
                )
        return TaskData(
            train,
            evaluated,
            support,
            self._reward(tokenizer),
            tool=self.tool,
            star=self._star(train, tokenizer),
            simulation=self._simulation(support, evaluated, tokenizer),
            decoders=self._decoders(tokenizer, vocab_size),
            notes=(*splits.notes, *room.notes),
        )

    def support(self, tokenizer: Any, vocab_size: int) -> Support:
        """Lets z end with a full stop, which follows it in the target, or the end of the line."""
        task, vocabulary = self._config.task, Vocabulary(tokenizer, vocab_size)
        stops = np.union1d(vocabulary.full_stops(), vocabulary.line_stops())
        grammar = ArithmeticGrammar(task.max_equations, task.max_digits, task.calculator)
        try:
            return lift(grammar, vocabulary.texts, stops)
        except ValueError as error:
            raise UserError(
                f"the tokenizer of model.name {self._config.model.name!r} cannot serve "
                f"arithmetic: {error}; choose another model"
            ) from None

    @property
    def tool(self) -> Calculator | None:
        return Calculator() if self._config.task.calculator else None

    def target(self, tokenizer: Any, vocab_size: int) -> Reward:
        raise UserError(
            f"log R of task {self.name} needs the right answer, which a query from outside does "
            "not have; its samples cannot be weighed"
        )

    def query(self, fields: Mapping[str, str], tokenizer: Any) -> Query:
        """Makes a query from one such as "3 + 4 - 2"; more operands than in training are fine."""
        try:
            problem = parse(fields["question"])
        except ValueError as error:
            raise UserError(f"question: {error}; it takes one such as '3 + 4 - 2'") from None
        if beyond := self._beyond(problem):
            raise UserError(
                f"question: {problem.expression!r} {beyond}, which the policy was trained with"
            )
        return self._query(problem, tokenizer, known=False, scored=False)

    def metrics_of(self, one: QueryTexts) -> dict[str, float]:
        solution = one.query.texts["solution"]
        answers = [answer_of(text) for text in one.texts]
        right = majority_share(answers, solution)
        single = float(np.mean([answer == solution for answer in answers]))
        chain = one.query.texts["reference"]
        return {
            "accuracy": right,
            f"accuracy_{one.query.texts['operands']}": right,
            "sample_accuracy": single,
            f"sample_accuracy_{one.query.texts['operands']}": single,
            # Without the prompt, some tokenizers decode z without its first space.
            "exact_chains": float(np.mean([t.strip() == chain.strip() for t in one.texts])),
            "distinct_fraction": len(set(one.texts)) / len(one.texts),
            "calls_mean": float(np.mean([_calls(t.tool_mask) for t in one.trajectories])),
            "length_mean": float(np.mean([len(t) for t in one.trajectories])),
        }

    def probes(
        self, queries: Sequence[Query], samples: Mapping[str, str], tokenizer: Any, seed: int
    ) -> list[Probe]:
        return chain_probes(queries, tokenizer, seed)

    def begun(
        self, queries: Sequence[Query], tokenizer: Any, vocab_size: int, seed: int
    ) -> list[Begun]:
        alone = self._config.task.model_copy(update={"calculator": False})
        without = ArithmeticTask(self._config.model_copy(update={"task": alone}))
        supports: dict[str, tuple[Support, ToolLoop | None]] = {
            "_alone": (without.support(tokenizer, vocab_size), None)
        }
        if self.tool is not None:
            support = self.support(tokenizer, vocab_size)
            supports[""] = support, ToolLoop(self.tool, tokenizer, support)
        shots = self._config.task.shots
        return chain_beginnings(
            queries,
            tokenizer,
            supports,
            lambda problem, question: self._shown(problem, shots, question),
            seed,
        )

    def context_text(self, query: Query) -> tuple[str, str]:
        return query.texts["question"], query.texts["answer"]

    def answer(self, query: Query, text: str) -> str | None:
        """Returns the integer at which a z arrives; None if it ends in no equation."""
        return answer_of(text)

    def summarize(
        self,
        before: Evaluation,
        after: Evaluation,
        directory: Path,
        baselines: Mapping[str, Baseline],
    ) -> TaskSummary:
        rows = [self._by_length(result) for result in (before, after)]
        findings = [
            f"{row.operands} operands, right by majority of {self._config.eval.samples}: "
            f"{_share(first)} -> {_share(row)} of {row.problems}"
            for first, row in zip(*rows, strict=True)
        ]
        trained = self._config.task.train_operands
        files = draw_accuracy(
            directory / "accuracy",
            rows[0],
            rows[1],
            "Arithmetic: problems answered right, by number of operands",
            f"Majority of {self._config.eval.samples} samples on held-out problems, with 95 % "
            f"Wilson intervals. Trained on {' and '.join(map(str, trained))} operands only.",
        )
        return TaskSummary(findings, files)

    @property
    def metrics(self) -> dict[str, MetricInfo]:

        def by_length(name: str) -> dict[str, MetricInfo]:
            return {
                f"{name}_{count}": MetricInfo("higher", f"the same, {count} operands")
                for count in sorted(self._config.task.eval_operands)
            }

        return {
            "accuracy": MetricInfo("higher", "problems that most samples answer right"),
            **by_length("accuracy"),
            "sample_accuracy": MetricInfo("higher", "samples that end at the right value"),
            **by_length("sample_accuracy"),
            "exact_chains": MetricInfo("higher", "samples that are the plain chain of sums"),
            **DIAGNOSTICS,
            **CALIBRATION,
            "log_reward_mean": MetricInfo("higher", "log R, as task.reward has it"),
            "log_pf_reference": MetricInfo("higher", "log q of the plain chain of sums"),
            "distinct_fraction": MetricInfo("none", "different texts among a query's samples"),
            "calls_mean": MetricInfo("none", "answers of the calculator in z"),
            "length_mean": MetricInfo("none", "tokens of z, including the calculator's"),
        }

    def _reward(self, tokenizer: Any) -> Reward:
        if self._config.task.reward == "right":
            return VerifierReward(TableReward({}, 0.0), AnswerCheck(1.0), tokenizer)
        reward = LikelihoodReward(self._config.reward.tokens_per_forward)
        penalty = self._config.task.wrong_answer_penalty
        return VerifierReward(reward, AnswerCheck(penalty), tokenizer) if penalty else reward

    def _star(self, train: Sequence[Query], tokenizer: Any) -> StarPlan | None:
        star = self._config.star
        if not star.rounds:
            return None
        hinted: dict[str, Query] = {}
        if star.rationalise:
            for query in train:
                problem = parse(query.query_id)
                shown = self._shown(problem, self._config.task.shots, problem.hinted_question)
                hinted[query.query_id] = replace(query, prompt_ids=text_ids(tokenizer, shown))
            check_prompt_lengths(
                "problem with its answer", list(hinted.values()), self._config.sampler
            )
        return StarPlan(star, is_right, hinted)

    def _decoders(self, tokenizer: Any, vocab_size: int) -> list[Decoder]:
        kinds, k = self._config.task.baselines or (), self._config.eval.candidates
        known = searching_decoders(k)
        if "cot" in kinds:
            texts = Vocabulary(tokenizer, vocab_size).texts
            equals = tuple(token for token, text in enumerate(texts) if text.endswith("="))
            known["cot"] = [Decoder(f"CoT {k}", "cot", candidates=k, answer_after=equals)]
        return [one for kind in kinds for one in known[kind]]

    def _simulation(
        self, support: Support, queries: Sequence[Query], tokenizer: Any
    ) -> ChainSimulation | None:
        """None for a tokenizer whose answers begin with a token that a chain may contain, and where
        log R is not the likelihood."""
        if self._config.task.reward == "right":
            return None
        if not all(query.answer_ids[0] in support.stop_ids for query in queries):
            return None
        penalty = self._config.task.wrong_answer_penalty
        return ChainSimulation(
            support,
            None if self.tool is None else ToolLoop(self.tool, tokenizer, support),
            AnswerCheck(penalty) if penalty else None,
            max((len(query.answer_ids) for query in queries), default=0),
            tokenizer,
        )

    @cached_property
    def _splits(self) -> Splits:
        return load_splits(self._config.data, self._config.task)

    def _check_enough(self, train: Sequence[Query], held_out: Sequence[Query]) -> None:
        asked = self._config.eval.queries
        if len(held_out) < asked:
            raise UserError(
                f"eval.queries ({asked}) asks for more held-out problems than the {len(held_out)} "
                f"there are with task.held_out {self._config.task.held_out}; lower the first, "
                "raise the second, or give more by --data.test-path"
            )
        if not train:
            raise UserError("there are no problems to train on; give more, or shorter ones")

    def _beyond(self, problem: Problem) -> str | None:
        """Returns how the plain chain of sums exceeds the language of z, if it does."""
        task = self._config.task
        if len(problem.signs) > task.max_equations:
            return (
                f"takes {len(problem.signs)} steps, beyond task.max_equations {task.max_equations}"
            )
        largest = max((*problem.operands, *problem.partial_sums[:-1]), key=abs)
        if len(str(abs(largest))) > task.max_digits:
            return f"writes {largest}, beyond task.max_digits {task.max_digits}"
        return None

    def _query(
        self, problem: Problem, tokenizer: Any, *, known: bool, scored: bool = True
    ) -> Query:
        """scored: if False, the context is the prompt, without the reward's demonstrations."""
        task = self._config.task
        prompt = self._shown(problem, task.shots)
        context = self._shown(problem, task.reward_shots) if scored else prompt
        no_cut = "a rationale cannot be cut from its question"
        z = checked_continuation_ids(tokenizer, prompt, problem.rationale, no_cut)
        answer = checked_continuation_ids(
            tokenizer, context + problem.rationale, problem.answer, no_cut
        )
        return Query(
            query_id=problem.expression,
            prompt_ids=text_ids(tokenizer, prompt),
            context_ids=text_ids(tokenizer, context),
            answer_ids=answer,
            demonstrations=(z,) if known else (),
            texts={
                "question": problem.question,
                "answer": problem.answer,
                "solution": str(problem.solution),
                "reference": problem.rationale,
                "operands": str(len(problem.operands)),
            },
        )

    def _shown(self, problem: Problem, shots: int, question: str | None = None) -> str:
        """Returns the question, in other words if they are given, after some demonstrations, never
        its own."""
        demonstrations = self._splits.demonstrations if shots else []
        others = [one for one in demonstrations if one != problem][:shots]
        solved = [f"{one.question}{one.rationale}{one.answer}\n\n" for one in others]
        return "".join([*solved, question or problem.question])

    def _by_length(self, result: Evaluation) -> list[LengthAccuracy]:
        right: dict[int, list[float]] = {}
        for one in result.samples:
            operands, accuracy = int(one.query.texts["operands"]), self.metrics_of(one)["accuracy"]
            right.setdefault(operands, []).append(accuracy)
        return [
            LengthAccuracy(count, len(each), sum(each) / len(each), *_interval(each))
            for count, each in sorted(right.items())
        ]


def _in_turn(held_out: Mapping[int, Sequence[Problem]]) -> Iterator[Problem]:
    """Yields one problem of each number of operands in turn, so that any first few are spread over
    the numbers as evenly as possible."""
    parts = [held_out[count] for count in sorted(held_out)]
    rounds = zip_longest(*parts)
    return (problem for each in rounds for problem in each if problem is not None)


def _calls(tool_mask: BoolArray) -> int:
    """Counts contiguous runs of a tool's tokens."""
    return int(np.sum(tool_mask[1:] & ~tool_mask[:-1])) + int(tool_mask[:1].sum())


def _interval(right: Sequence[float]) -> tuple[float, float]:
    return wilson_interval(sum(right), len(right))


def _share(row: LengthAccuracy) -> str:
    return f"{row.share:.0%} [{row.low:.0%}, {row.high:.0%}]"
