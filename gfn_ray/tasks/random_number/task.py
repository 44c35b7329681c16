"""Random numbers: write the integers low..high with given probabilities.

Target: p(z) in proportion to the wanted mass if z is the canonical form of an integer in
range, and a floor elsewhere, so that all other texts become unlikely. Integers rarer than
the floor get it too, so that no low log R dominates the loss. The policy is compared with
the target exactly, integer by integer. Source: Hu et al. 2024, section 4 (random number
generation), there with 0..99.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gfn_ray.errors import UserError
from gfn_ray.evaluation.exact import ExactComparison
from gfn_ray.evaluation.plots.histogram import draw_histogram
from gfn_ray.evaluation.result import Array, Baseline, Enumeration, Evaluation
from gfn_ray.models.tokenization import continuation_ids, text_ids
from gfn_ray.rewards.likelihood import LikelihoodReward
from gfn_ray.rewards.table import TableReward, table_key
from gfn_ray.storage.atomic import atomic_file
from gfn_ray.support import BoundedSupport, Support
from gfn_ray.tasks.base import BaseTask
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.random_number.targets import MODES, log_target
from gfn_ray.tasks.task import (
    DIAGNOSTICS,
    MetricInfo,
    TaskData,
    TaskSummary,
    check_prompt_lengths,
)
from gfn_ray.tasks.vocabulary import Vocabulary, writable
from gfn_ray.trajectory import IntArray, Query

EXTREMES_SHOWN = 5
_HOW = {"uniform": "uniformly", "modes": f"from a distribution with {MODES} modes"}
MOST_COPIES = 10  # of the likeliest integer among the demonstrations
SMALLEST_SHOWN = 0.0005  # total variation, which is shown with three decimals


class RandomNumberTask(BaseTask[RandomNumberJob]):
    """One query; z is an integer in digits."""

    name = "random_number"
    job = RandomNumberJob

    def __init__(self, config: RandomNumberJob) -> None:
        super().__init__(config)
        task = config.task
        self._integers = list(range(task.low, task.high + 1))
        log_p = log_target(task.target, task.low, task.high, mean=task.mean, std=task.std)
        self._log_target = log_p - log_p.max()
        self._answers: dict[str, str] | None = None

    def load(self, tokenizer: Any, vocab_size: int) -> TaskData:
        prompt_ids, outcomes = self._written(tokenizer)
        floor = self._config.task.floor_or_default
        pairs = zip(outcomes, self._log_reward, strict=True)
        listed = {table_key(z): float(r) for z, r in pairs}
        query = self._query(prompt_ids, outcomes)
        check_prompt_lengths("task", [query], self._config.sampler)
        support = self.support(tokenizer, vocab_size)
        # The distribution without the floor.
        exact = Enumeration(self.name, self._config.task.target, outcomes, self._log_target)
        # A constant floor over the whole vocabulary would outweigh the target: 49,152 ** 4 texts.
        prior = (
            LikelihoodReward(self._config.reward.tokens_per_forward)
            if self._config.task.support == "full"
            else None
        )
        return TaskData([query], [query], support, TableReward(listed, floor, prior), [exact])

    def query(self, fields: Mapping[str, str], tokenizer: Any) -> Query:
        prompt_ids, outcomes = self._written(tokenizer)
        texts = [tokenizer.decode(z) for z in outcomes]
        self._answers = {text: str(n) for text, n in zip(texts, self._integers, strict=True)}
        return self._query(prompt_ids, outcomes)

    def answer(self, query: Query, text: str) -> str | None:
        """Returns the integer if z is its canonical form."""
        if self._answers is None:
            raise RuntimeError("answer() needs a call of query() before it")
        return self._answers.get(text)

    def context_text(self, query: Query) -> tuple[str, str]:
        return query.texts["prompt"], ""

    def summarize(
        self,
        before: Evaluation,
        after: Evaluation,
        directory: Path,
        baselines: Mapping[str, Baseline],
    ) -> TaskSummary:
        exact = after.exact[0]
        q, target = np.exp(exact.log_q), np.exp(exact.log_target)
        log_ratio = exact.log_q - exact.log_target
        over, under = exact.extremes(EXTREMES_SHOWN)
        findings = [
            f"{most} integers, relative to their target: "
            + ", ".join(f"{self._integers[i]} ({_times(log_ratio[i])})" for i in chosen)
            for most, chosen in (("most over-weighted", over), ("most under-weighted", under))
            if len(chosen)
        ]
        findings = [*self._moved_by_floor(), *findings]
        untrained = before.exact[0]
        other = [f"{1 - one.valid_mass:.2%}" for one in (untrained, exact)]
        files = draw_histogram(
            directory / "histogram",
            self._integers,
            target,
            np.exp(untrained.log_q),
            q,
            f"A random integer from {self._integers[0]} to {self._integers[-1]}, "
            f"{self._config.task.target}: exact distribution of the policy",
            f"Total variation to the target {untrained.tv:.3f} → {exact.tv:.3f}; mass on other "
            f"texts {other[0]} → {other[1]}. All probabilities are enumerated, not sampled.",
        )
        return TaskSummary(findings, [*files, self._list_distribution(directory, untrained, exact)])

    def _list_distribution(
        self, directory: Path, untrained: ExactComparison, trained: ExactComparison
    ) -> Path:
        """Writes the named distribution, whatever the objective was to learn of it, and the
        policy's."""
        file = directory / "distribution.csv"
        named = np.exp(self._log_target - np.logaddexp.reduce(self._log_target))
        columns = (self._integers, named, np.exp(untrained.log_q), np.exp(trained.log_q))
        lines = [",".join(repr(float(n)) for n in row) for row in zip(*columns, strict=True)]
        with atomic_file(file) as temp:
            temp.write_text("\n".join(["integer,target,before,after", *lines, ""]))
        return file

    @property
    def metrics(self) -> dict[str, MetricInfo]:
        target = self._config.task.target
        return {
            "tv": MetricInfo("lower", "total variation to the target, including other texts"),
            f"kl_{target}_q": MetricInfo("lower", "KL(target || q), in nats"),
            f"kl_q_{target}": MetricInfo("lower", "KL(q || target), q on the integers alone"),
            "valid_mass": MetricInfo("higher", "probability of writing an integer in range"),
            **DIAGNOSTICS,
            "distinct_fraction": MetricInfo("none", "different texts among the samples"),
            "length_mean": MetricInfo("none", "tokens of z"),
        }

    @property
    def _log_reward(self) -> Array:
        """log R of each integer [N]: the target, or the floor for rarer integers."""
        return np.maximum(self._log_target, self._config.task.floor_or_default)

    def _moved_by_floor(self) -> list[str]:
        """Says how far the floor keeps a policy from the target, if that is visible."""
        floor, target = self._config.task.floor_or_default, self._config.task.target
        trained = self._log_reward - np.logaddexp.reduce(self._log_reward)
        tv = ExactComparison.unnormalised(self._log_target, trained, target).tv
        if tv < SMALLEST_SHOWN:
            return []
        return [
            f"task.floor {floor:g} lifts {np.sum(self._log_target < floor)} rare integers: the "
            f"training target is {tv:.3f} in total variation from {target}; a lower floor is closer"
        ]

    def _query(self, prompt_ids: IntArray, outcomes: list[IntArray]) -> Query:
        return Query(
            query_id=self.name,
            prompt_ids=prompt_ids,
            context_ids=prompt_ids,
            answer_ids=np.zeros(0, dtype=np.int32),
            demonstrations=self._demonstrations(outcomes),
            texts={"prompt": self._prompt()},
        )

    def _demonstrations(self, outcomes: list[IntArray]) -> tuple[IntArray, ...]:
        """The integers about as often as the target has them, all alike if it is uniform."""
        copies = np.round(np.exp(self._log_target) * MOST_COPIES).astype(int)
        copies //= np.gcd.reduce(copies)
        return tuple(z for z, n in zip(outcomes, copies, strict=True) for _ in range(n))

    def _prompt(self) -> str:
        task = self._config.task
        how = _HOW.get(task.target, f"from a {task.target} distribution")
        return task.prompt.format(how=how, low=task.low, high=task.high)

    def _written(self, tokenizer: Any) -> tuple[IntArray, list[IntArray]]:
        """Returns the tokens of the prompt and of every integer after it.

        If a tokenizer joins a number with the space before it, the space belongs to z.
        """
        text = self._prompt()
        stripped = text.rstrip()
        for left in (text, stripped):
            gap = text[len(left) :]
            try:
                outcomes = [continuation_ids(tokenizer, left, f"{gap}{n}") for n in self._integers]
            except ValueError:
                continue
            for n, z in zip(self._integers, outcomes, strict=True):
                if tokenizer.decode(z).strip() != str(n):
                    raise UserError(
                        f"the tokenizer of model.name {self._config.model.name!r} cannot write "
                        f"{n}: it decodes to {tokenizer.decode(z)!r}; choose another model"
                    )
            return text_ids(tokenizer, left), outcomes
        raise UserError(
            "the tokenizer of model.name joins the prompt's last word with the number; change "
            "task.prompt"
        )

    def support(self, tokenizer: Any, vocab_size: int) -> Support:
        _, outcomes = self._written(tokenizer)
        longest = max(len(z) for z in outcomes)
        if self._config.task.support == "full":
            eos = tokenizer.eos_token_id
            if eos is None or eos >= vocab_size:
                raise UserError(
                    "task.support full ends z at the end-of-sequence token, and the tokenizer of "
                    "model.name has none; use task.support digits"
                )
            content = writable(tokenizer, vocab_size)
            stops = np.array([eos], dtype=np.int32)
            enders, longest = content, longest + 1
        else:
            vocabulary = Vocabulary(tokenizer, vocab_size)
            content = np.zeros(vocab_size, dtype=np.bool_)
            content[np.concatenate(outcomes)] = True
            stops = np.union1d(vocabulary.full_stops(), vocabulary.line_stops())
            if not len(stops):
                raise UserError(
                    f"the tokenizer of model.name {self._config.model.name!r} has no full stop, "
                    "newline or end-of-sequence token, so a number could never end; choose another "
                    "model"
                )
            enders = np.zeros(vocab_size, dtype=np.bool_)
            enders[[z[-1] for z in outcomes]] = True
        return BoundedSupport(
            content=content,
            opening=content,
            enders=enders,
            stop_ids=stops,
            min_len=1,
            max_len=longest,
        )


def _times(log_ratio: float) -> str:
    """Formats q / p, far from 1 as a power of ten, because p may be too small for a float."""
    if abs(log_ratio) < np.log(1000):
        return f"x{np.exp(log_ratio):.2f}"
    return f"x1e{log_ratio / np.log(10):+.0f}"
