"""Your prompts, your reward: sample completions in proportion to what they are worth.

Target: log R(z) = w log p_ref(z | x) + r(z) / beta of a whole completion z, by reward functions
with TRL's signature. At w = 1 it is the optimum of KL-regularised RL, as a distribution to sample
from rather than a maximum to climb. See `rewards.completion`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gfn_ray.data.files import read_document
from gfn_ray.decoding.decoder import searching_decoders
from gfn_ray.decoding.simulation import simulated_id
from gfn_ray.errors import RunFailed, UserError
from gfn_ray.evaluation.result import Array, Baseline, Evaluation, QuerySamples, QueryTexts
from gfn_ray.evaluation.text_metrics.text import distinct_fraction
from gfn_ray.formatting import count, number
from gfn_ray.models.loading import chat_note
from gfn_ray.models.tokenization import checked_continuation_ids
from gfn_ray.rewards.completion import CompletionReward
from gfn_ray.rewards.functions.judge import Row
from gfn_ray.rewards.functions.numbers import final_number
from gfn_ray.rewards.length_prior import LengthPrior
from gfn_ray.rewards.reward import LOG_P_REF, REWARD
from gfn_ray.support import WholeSupport
from gfn_ray.support.whole import pieces_of
from gfn_ray.tasks.base import BaseTask
from gfn_ray.tasks.length_limit import LengthLimit
from gfn_ray.tasks.prompts.chat import Chat
from gfn_ray.tasks.prompts.config import PromptsJob
from gfn_ray.tasks.prompts.data import PromptRow, Splits, load_rows, prompt_of
from gfn_ray.tasks.prompts.metrics import majority_at_k, pass_at_k
from gfn_ray.tasks.prompts.rewards import (
    RewardSpec,
    code_of,
    completion_text,
    cut_at_stop,
    make_judge,
    named_functions,
    with_defaults,
)
from gfn_ray.tasks.prompts.simulation import CompletionSimulation
from gfn_ray.tasks.task import (
    CALIBRATION,
    DIAGNOSTICS,
    MetricInfo,
    TaskData,
    TaskSummary,
    check_parts,
)
from gfn_ray.tasks.vocabulary import Vocabulary
from gfn_ray.trajectory import IntArray, Query

NO_CUT = "the demonstration cannot follow the prompt"


class PromptsTask(BaseTask[PromptsJob]):
    """The prompt is given; z is any completion, up to the end of the text or a stop string."""

    name = "prompts"
    job = PromptsJob
    fields = ("prompt",)
    further_fields = True
    reads_chats = True

    def __init__(
        self,
        config: PromptsJob,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        rows: Splits | None = None,
    ) -> None:
        """functions: reward functions that were handed over as objects, by the name that
        task.reward has for them. rows: the data, where they are no file's."""
        super().__init__(config)
        self._functions = functions or {}
        self._given_rows = rows
        self._rows: dict[str, Row] = {}
        self._target: CompletionReward | None = None
        self._judged_anew = False

    def load(self, tokenizer: Any, vocab_size: int) -> TaskData:
        config, task = self._config, self._config.task
        rows = self._given_rows or load_rows(config.data)
        chat = Chat(tokenizer, task.system)
        support = self.support(tokenizer, vocab_size)
        room = LengthLimit.of_prompts("row", config.sampler, config.data.too_long)
        asked = max(1, min(config.eval.queries, len(rows.held_out)))
        train = room.fitting(self._query(one, chat) for one in rows.train)
        held_out = room.fitting((self._query(one, chat) for one in rows.held_out), asked)
        with room.blamed():
            check_parts("prompts", train, held_out, asked)
        schema = self._schema()
        used = {query.query_id for query in (*train, *held_out)}
        self._rows = {
            one.row_id: with_defaults(one.row, task, schema)
            for one in (*rows.train, *rows.held_out)
            if one.row_id in used
        }
        reward = self._make_target(tokenizer, support, self._length_prior(train))
        notes = [*rows.notes, *room.notes]
        if not any(chat.is_chat(row.prompt) for row in self._rows.values()):
            notes += filter(None, [chat_note(tokenizer)])
        if asked < config.eval.queries:
            notes.append(
                f"eval.queries is {config.eval.queries}; the data have {count(asked, 'prompt')} "
                "held out, and all of them are evaluated"
            )
        simulation = self._simulation(held_out, support, reward)
        known = searching_decoders(config.eval.candidates)
        return TaskData(
            train,
            held_out,
            support,
            reward,
            simulation=simulation,
            decoders=[one for kind in task.baselines or () for one in known[kind]],
            reads_reference=not task.prior,
            notes=tuple(notes),
        )

    def support(self, tokenizer: Any, vocab_size: int) -> WholeSupport:
        stops = self._config.stops
        ends = Chat(tokenizer, self._config.task.system).ends(vocab_size)
        vocabulary = Vocabulary(tokenizer, vocab_size)
        content = vocabulary.writable.copy()
        content[ends] = False
        pieces = pieces_of(vocabulary.texts, stops)
        for stop in stops:
            ids = tokenizer(f"a{stop}", add_special_tokens=False)["input_ids"]
            if stop not in "".join(pieces.get(token, "") for token in ids):
                raise UserError(
                    f"task.stop has {stop!r}, which the tokenizer of model.name writes in parts of "
                    "characters or special tokens; give another"
                )
        return WholeSupport(content, ends, self._config.max_len, stops, pieces)

    def query(self, fields: Mapping[str, str], tokenizer: Any) -> Query:
        prompt = prompt_of(fields["prompt"], "the query")
        columns = {name: text for name, text in fields.items() if name != "prompt"}
        self._rows = {self.name: Row("the query", prompt, columns)}
        return self._query(
            PromptRow(self.name, self._rows[self.name]), Chat(tokenizer, self._config.task.system)
        )

    def judge_by(self, reward: RewardSpec | Sequence[RewardSpec]) -> None:
        """Takes these functions in place of those of task.reward."""
        specs, self._functions = named_functions(reward)
        task = type(self._config.task).model_validate(
            {**self._config.task.model_dump(), "reward": specs}
        )
        self._config = self._config.model_copy(update={"task": task})
        self._judged_anew = True

    def target(self, tokenizer: Any, vocab_size: int) -> CompletionReward:
        """log R of the query from outside; its reward functions are run where they are built in, or
        were given to `judge_by`."""
        task = self._config.task
        if task.runs_code and not self._judged_anew:
            raise UserError(
                f"log R is made of the reward {', '.join(task.reward)}, and an adapter does not "
                "have code run by naming it; give the function, as reward=function"
            )
        if task.length_prior != "none":
            raise UserError(
                "log R has a prior on the length of demonstrations, which are not with the "
                "adapter; its samples cannot be weighed"
            )
        schema = self._schema()
        self._rows = {key: with_defaults(row, task, schema) for key, row in self._rows.items()}
        return self._make_target(tokenizer, self.support(tokenizer, vocab_size), None)

    def _schema(self) -> str | None:
        file = self._config.task.json_schema
        return None if file is None else read_document(file, "--task.json-schema")

    def _make_target(
        self, tokenizer: Any, support: WholeSupport, length: LengthPrior | None
    ) -> CompletionReward:
        """log R of completions of the rows; UserError where a function is not to be had."""
        task = self._config.task
        columns = sorted({name for row in self._rows.values() for name in row.columns})
        self._target = CompletionReward(
            self._rows,
            make_judge(task, columns, self._functions),
            support,
            partial(completion_text, tokenizer, self._config.stops),
            prior=task.prior,
            beta=task.beta,
            tokens_per_forward=self._config.reward.tokens_per_forward,
            floor=task.floor,
            length=length,
        )
        return self._target

    def _simulation(
        self, held_out: Sequence[Query], support: WholeSupport, target: CompletionReward
    ) -> CompletionSimulation | None:
        """None where no bound of the reward is known, or the prior is not the LM itself."""
        task = self._config.task
        if task.largest is None or task.prior != 1.0:
            return None
        for query in held_out:
            self._rows[simulated_id(query.query_id)] = self._rows[query.query_id]
        worth = (task.reward, task.weights, task.beta, task.floor, self._schema(), task.pattern)
        rows = [self._rows[query.query_id].columns for query in held_out]
        return CompletionSimulation(
            support, target, target.largest_worth(task.largest), repr((worth, rows, code_of(task)))
        )

    def answer(self, query: Query, text: str) -> str | None:
        text = cut_at_stop(text, self._config.stops)
        if self._config.task.answer_pattern is not None:
            found = list(re.finditer(self._config.task.answer_pattern, text))
            return found[-1][1 if found[-1].re.groups else 0] if found else None
        if "math" in self._config.task.reward:
            value = final_number(text)
            return None if value is None else str(value)
        return " ".join(text.split())

    def metrics_of(self, one: QueryTexts) -> dict[str, float]:
        task = self._config.task
        rewards = self._rewards(one)
        correct = [reward >= task.correct_from for reward in rewards]
        answers = [self.answer(one.query, text) for text in one.texts]
        k = min(self._k, len(rewards))
        found = {
            "reward_mean": float(np.mean(rewards)),
            "pass_at_1": float(np.mean(correct)),
            "pass_at_k": pass_at_k(len(correct), sum(correct), k),
            "majority_at_k": majority_at_k(answers, correct, k),
            "distinct_correct": float(
                len({answer for answer, right in zip(answers, correct, strict=True) if right})
            ),
            "distinct_fraction": distinct_fraction(one.texts),
            "length_mean": float(np.mean([len(t) for t in one.trajectories])),
            "stopped_fraction": float(np.mean([t.stopped for t in one.trajectories])),
        }
        if (log_p := self._log_p_ref(one, rewards)) is not None:
            lengths = np.array([len(z) + 1 for z in one.trajectories])
            found["log_p_ref_per_token"] = float(np.mean(log_p / lengths))
            if isinstance(one, QuerySamples):
                found["kl_reference"] = float(np.mean(one.log_q - log_p))
        return found

    def context_text(self, query: Query) -> tuple[str, str]:
        return query.texts["prompt"], ""

    def summarize(
        self,
        before: Evaluation,
        after: Evaluation,
        directory: Path,
        baselines: Mapping[str, Baseline],
    ) -> TaskSummary:
        n = self._config.eval.samples

        def said(found: Mapping[str, float]) -> str:
            kept, different = n * found["pass_at_1"], found["distinct_correct"]
            return (
                f"the best of {n} is correct for {number(found['pass_at_k'])} of the prompts, and "
                f"rejection keeps {number(kept)} of {n}, {number(different)} of them different"
            )

        findings = [
            f"objective.kind {self._config.objective.kind}: a reward function judges whole "
            "completions, so log R has no value at a prefix for sub-trajectories to compare",
        ]
        if self._k == n:
            findings += [
                f"at the same {n} samples a prompt, before training: {said(before.metrics)}",
                f"after: {said(after.metrics)}",
            ]
        return TaskSummary(findings)

    @property
    def metrics(self) -> dict[str, MetricInfo]:
        task, k = self._config.task, self._k
        return {
            "reward_mean": MetricInfo("higher", "r of the samples"),
            "pass_at_1": MetricInfo("higher", f"samples with r of {task.correct_from:g} or more"),
            "pass_at_k": MetricInfo("higher", f"prompts with such a one among {k}, unbiased"),
            "majority_at_k": MetricInfo("higher", f"the commonest answer of {k} is correct"),
            "distinct_correct": MetricInfo("higher", "different correct answers of a prompt"),
            "log_p_ref_per_token": MetricInfo("higher", "log p_ref(z | x) for each token of z"),
            "kl_reference": MetricInfo("none", "mean log q - log p_ref, KL to the frozen model"),
            "distinct_fraction": MetricInfo("higher", "different texts among a prompt's samples"),
            "length_mean": MetricInfo("none", "tokens of z"),
            "stopped_fraction": MetricInfo("higher", "samples that stop before max_len"),
            "log_reward_mean": MetricInfo("higher", "untempered log R of the samples"),
            **DIAGNOSTICS,
            **(CALIBRATION if task.prior == 1.0 and task.largest is not None else {}),
        }

    @property
    def _k(self) -> int:
        return self._config.task.k or self._config.eval.samples

    def _log_p_ref(self, one: QueryTexts, rewards: Sequence[float]) -> Array | None:
        """log p_ref of each z [S]; None where log R has no prior and nobody has read it."""
        prior, target = self._config.task.prior, self._target
        if LOG_P_REF in one.parts:
            return one.parts[LOG_P_REF]
        if not prior:
            return None
        assert target is not None
        worth = [
            target.worth(one.query, z, r) for z, r in zip(one.trajectories, rewards, strict=True)
        ]
        return (np.array([z.final_log_reward for z in one.trajectories]) - worth) / prior

    def _rewards(self, one: QueryTexts) -> list[float]:
        """r of each sample; judged anew where the reward actors' own is not at hand."""
        if REWARD in one.parts:
            return [float(reward) for reward in one.parts[REWARD]]
        assert self._target is not None
        judged = self._target.judge(one.query, one.trajectories)
        for found in judged:
            if found.fault is not None:
                raise RunFailed(f"{found.fault}; the reward must judge every held-out sample")
        return [found.reward for found in judged]

    def _query(self, one: PromptRow, chat: Chat) -> Query:
        text = chat.text(one.row.prompt, one.row.place)
        prompt_ids = chat.ids(one.row.prompt, one.row.place)
        end = chat.end_id(is_chat=chat.is_chat(one.row.prompt))
        texts = {"prompt": text}
        demonstrations: tuple[IntArray, ...] = ()
        if one.demonstration is not None:
            texts["reference"] = one.demonstration
            z = one.demonstration + "".join(self._config.stops[:1])
            demonstrations = (checked_continuation_ids(chat.tokenizer, text, z, NO_CUT),)
        answer = np.array([] if end is None else [end], dtype=np.int32)
        return Query(one.row_id, prompt_ids, prompt_ids, answer, demonstrations, texts)

    def _length_prior(self, train: Sequence[Query]) -> LengthPrior | None:
        if self._config.task.length_prior == "none":
            return None
        lengths = [len(z) for query in train for z in query.demonstrations]
        if len(set(lengths)) < 2:
            raise UserError(
                "task.length_prior demonstrations needs a column demonstration with texts of "
                "different lengths, and the training rows have none; set it to none"
            )
        return LengthPrior.of(lengths)
