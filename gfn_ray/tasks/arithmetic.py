"""Tool-augmented arithmetic: sample the chain of calculation between a question and its answer.

Target: p(z | question, answer) in proportion to p(z answer | demonstrations, question) under the
frozen LM, less task.wrong_answer_penalty nats where z does not end at the answer. z is a chain of
equations whose values a calculator writes; only prefixes that end an equation may stop. Source:
Hu et al. 2024, section 4.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gfn_ray.config import ArithmeticJob
from gfn_ray.data.arithmetic import Problem, Splits, generate, load_demonstrations, parse
from gfn_ray.errors import UserError
from gfn_ray.evaluation.accuracy_plot import LengthAccuracy, draw_accuracy
from gfn_ray.evaluation.proportion import wilson_interval
from gfn_ray.evaluation.result import Baseline, Evaluation, QueryTexts
from gfn_ray.models.spelling import cut_ids, text_ids
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.rewards.reward import Reward
from gfn_ray.rewards.verifier import VerifierReward
from gfn_ray.sampling.calculator import Calculator
from gfn_ray.support import Support
from gfn_ray.support.characters import lift
from gfn_ray.tasks.arithmetic_answers import AnswerCheck, answer_of, majority_share
from gfn_ray.tasks.arithmetic_grammar import ArithmeticGrammar
from gfn_ray.tasks.base import BaseTask
from gfn_ray.tasks.task import (
    DIAGNOSTICS,
    Conclusion,
    MetricInfo,
    TaskData,
    check_prompt_lengths,
)
from gfn_ray.tasks.vocabulary import Vocabulary
from gfn_ray.trajectory import BoolArray, Query


class ArithmeticTask(BaseTask[ArithmeticJob]):
    """One query a problem; z is " 6 - 0 = 6, 6 - 4 = 2" and its like.

    The answer that a z gives is the value of its last equation; that of a query is the one that
    most of its samples give. R has y = ". The answer is 2." right after z; the terminator of z
    is the policy's own and no part of R.
    """

    name = "arithmetic"
    job = ArithmeticJob
    fields = ("question",)

    def load(self, tokenizer: Any, vocab_size: int) -> TaskData:
        config, task = self._config, self._config.task
        splits = self._splits
        held_out = self._spread(getattr(splits, task.eval_split))
        support = self.support(tokenizer, vocab_size)
        train = [
            *(self._query(p, tokenizer, known=True) for p in splits.demonstrations),
            *(self._query(p, tokenizer, known=False) for p in splits.train),
        ]
        evaluated = [self._query(p, tokenizer, known=True) for p in held_out]
        check_prompt_lengths("problem", [*train, *evaluated], config.sampler)
        for query in (*train, *evaluated):
            if not all(support.contains(z) for z in query.references):
                raise UserError(
                    f"the rationale of {query.query_id!r} is not in the language of z as the "
                    "tokenizer of model.name spells it, within task.max_equations "
                    f"{task.max_equations} and task.max_digits {task.max_digits}"
                )
        return TaskData(
            train,
            evaluated,
            support,
            self._reward(tokenizer),
            tool=self.tool,
        )

    def support(self, tokenizer: Any, vocab_size: int) -> Support:
        """z may end by a full stop, which is how a rationale goes on, or by the end of the line."""
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

    def query(self, fields: Mapping[str, str], tokenizer: Any) -> Query:
        """A question such as "3 + 4 - 2", which may have more operands than those of training."""
        try:
            problem = parse(fields["question"])
        except ValueError as error:
            raise UserError(f"question: {error}; it takes one such as '3 + 4 - 2'") from None
        if len(problem.signs) > self._config.task.max_equations:
            raise UserError(
                f"question: {problem.expression!r} takes {len(problem.signs)} steps, and the "
                f"policy was trained with task.max_equations {self._config.task.max_equations}"
            )
        written = (*problem.operands, *problem.partial_sums[:-1])
        largest = max(written, key=abs)
        if len(str(abs(largest))) > self._config.task.max_digits:
            raise UserError(
                f"question: {problem.expression!r} writes {largest}, and the policy was trained "
                f"with task.max_digits {self._config.task.max_digits}"
            )
        return self._query(problem, tokenizer, known=False, scored=False)

    def metrics_of(self, one: QueryTexts) -> dict[str, float]:
        solution = one.query.texts["solution"]
        answers = [answer_of(text) for text in one.texts]
        right = majority_share(answers, solution)
        chain = one.query.texts["reference"]
        return {
            "accuracy": right,
            f"accuracy_{one.query.texts['operands']}": right,
            "sample_accuracy": float(np.mean([answer == solution for answer in answers])),
            # Alone, without its prompt, some tokenizers decode z without its first space.
            "exact_chains": float(np.mean([t.strip() == chain.strip() for t in one.texts])),
            "distinct_fraction": len(set(one.texts)) / len(one.texts),
            "calls_mean": float(np.mean([_calls(t.tool_mask) for t in one.trajectories])),
            "length_mean": float(np.mean([len(t) for t in one.trajectories])),
        }

    def around(self, query: Query) -> tuple[str, str]:
        return query.texts["question"], query.texts["answer"]

    def answer(self, query: Query, text: str) -> str | None:
        """The integer that a z arrives at; None where it ends in no equation."""
        return answer_of(text)

    def conclude(
        self,
        before: Evaluation,
        after: Evaluation,
        directory: Path,
        baselines: Mapping[str, Baseline],
    ) -> Conclusion:
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
        return Conclusion(findings, files)

    @property
    def metrics(self) -> dict[str, MetricInfo]:
        by_length = {
            f"accuracy_{count}": MetricInfo("higher", f"the same, {count} operands")
            for count in sorted(self._config.task.eval_operands)
        }
        return {
            "accuracy": MetricInfo("higher", "problems that most samples answer right"),
            **by_length,
            "sample_accuracy": MetricInfo("higher", "samples that end at the right value"),
            "exact_chains": MetricInfo("higher", "samples that are the plain chain of sums"),
            **DIAGNOSTICS,
            "log_reward_mean": MetricInfo("higher", "log p(z answer | question), less the penalty"),
            "log_pf_reference": MetricInfo("higher", "log q of the plain chain of sums"),
            "distinct_fraction": MetricInfo("none", "different texts among a query's samples"),
            "calls_mean": MetricInfo("none", "answers of the calculator in z"),
            "length_mean": MetricInfo("none", "tokens of z, the calculator's included"),
        }

    def _reward(self, tokenizer: Any) -> Reward:
        reward = LikelihoodReward(self._config.reward.tokens_per_forward)
        penalty = self._config.task.wrong_answer_penalty
        return VerifierReward(reward, AnswerCheck(penalty), tokenizer) if penalty else reward

    @cached_property
    def _splits(self) -> Splits:
        task, path = self._config.task, self._config.data.path
        known = load_demonstrations(path)[: task.demonstrations] if path else None
        if known is not None and len(known) < task.demonstrations:
            raise UserError(
                f"task.demonstrations asks for {task.demonstrations}, and --data.path {path} has "
                f"{len(known)}; lower it"
            )
        return generate(
            task.data_seed,
            demonstrations=task.demonstrations if known is None else known,
            problems=task.problems,
            train_operands=task.train_operands,
            held_out=task.held_out,
            held_out_operands=task.eval_operands,
            largest_operand=task.largest_operand,
        )

    def _spread(self, held_out: dict[int, list[Problem]]) -> list[Problem]:
        """eval.queries problems, as evenly over the numbers of operands as can be."""
        queries, counts = self._config.eval.queries, sorted(held_out)
        each = [queries // len(counts) + (i < queries % len(counts)) for i in range(len(counts))]
        if max(each) > self._config.task.held_out:
            raise UserError(
                f"eval.queries ({queries}) asks for {max(each)} problems of one length, and "
                f"task.held_out is {self._config.task.held_out}; raise that"
            )
        return [p for count, n in zip(counts, each, strict=True) for p in held_out[count][:n]]

    def _query(
        self, problem: Problem, tokenizer: Any, *, known: bool, scored: bool = True
    ) -> Query:
        """scored: else the context is the prompt, and no demonstrations are read for the reward."""
        task = self._config.task
        prompt = self._shown(problem, task.shots)
        context = self._shown(problem, task.reward_shots) if scored else prompt
        no_cut = "a rationale cannot be cut from its question"
        z = cut_ids(tokenizer, prompt, problem.rationale, no_cut)
        answer = cut_ids(tokenizer, context + problem.rationale, problem.answer, no_cut)
        return Query(
            query_id=problem.expression,
            prompt_ids=text_ids(tokenizer, prompt),
            context_ids=text_ids(tokenizer, context),
            answer_ids=answer,
            references=(z,) if known else (),
            texts={
                "question": problem.question,
                "answer": problem.answer,
                "solution": str(problem.solution),
                "reference": problem.rationale,
                "operands": str(len(problem.operands)),
            },
        )

    def _shown(self, problem: Problem, shots: int) -> str:
        """The question after some demonstrations, never its own."""
        demonstrations = self._splits.demonstrations if shots else []
        others = [one for one in demonstrations if one != problem][:shots]
        solved = [f"{one.question}{one.rationale}{one.answer}\n\n" for one in others]
        return "".join([*solved, problem.question])

    def _by_length(self, result: Evaluation) -> list[LengthAccuracy]:
        right: dict[int, list[float]] = {}
        for one in result.samples:
            operands, accuracy = int(one.query.texts["operands"]), self.metrics_of(one)["accuracy"]
            right.setdefault(operands, []).append(accuracy)
        return [
            LengthAccuracy(count, len(each), sum(each) / len(each), *_interval(each))
            for count, each in sorted(right.items())
        ]


def _calls(tool_mask: BoolArray) -> int:
    """Runs of a tool's tokens."""
    return int(np.sum(tool_mask[1:] & ~tool_mask[:-1])) + int(tool_mask[:1].sum())


def _interval(right: Sequence[float]) -> tuple[float, float]:
    return wilson_interval(sum(right), len(right))


def _share(row: LengthAccuracy) -> str:
    return f"{row.share:.0%} [{row.low:.0%}, {row.high:.0%}]"
