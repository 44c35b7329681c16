"""A trained policy that answers queries, with the run's engine and support in this process.

Turns an adapter directory into samples, without Ray. Checks files and fields first; the engine,
which takes seconds to start, starts with the first sample.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gfn_ray.data.files import bad_bytes
from gfn_ray.decoding.resampling import Weights
from gfn_ray.errors import UserError, shown
from gfn_ray.formatting import count
from gfn_ray.models.adapter_files import check_fits
from gfn_ray.models.loading import (
    linear_layers,
    load_causal_lm,
    load_tokenizer,
    resolve_model,
    vocab_size,
)
from gfn_ray.models.merged import merged_model_dir
from gfn_ray.policy.adapter import load_adapter
from gfn_ray.rewards.reward import ExplainsFaults
from gfn_ray.sampling.environment import vllm_environment
from gfn_ray.sampling.tools import ToolLoop
from gfn_ray.seeds import Stream, generator, seed_of
from gfn_ray.serving.description import FILE, read_description
from gfn_ray.serving.samples import Prediction, Resampled, Sample
from gfn_ray.serving.tuned_labels import LabelAverage, read_labels
from gfn_ray.settings import path_from
from gfn_ray.tasks.label_plan import PredictsLabels
from gfn_ray.tasks.vocabulary import check_support
from gfn_ray.trajectory import Query, Trajectory

_CANDIDATES_EACH = 4  # of resample=True, for each sample that is drawn


@runtime_checkable
class TakesReward(Protocol):
    """A task whose reward functions may be given anew."""

    def judge_by(self, reward: Any) -> None: ...


class ServedPolicy:
    """The policy of one adapter directory. Not thread-safe."""

    def __init__(
        self,
        adapter: str | Path,
        *,
        task: type[Any] | None = None,
        model: str | None = None,
        base_adapter: str | Path | None = None,
        trust_remote_code: bool = False,
        reward: Any = None,
    ) -> None:
        try:
            self._directory = path_from(str(adapter)).expanduser()
        except ValueError:
            raise UserError(
                f"there is no adapter directory {str(adapter)!r}; a finished run leaves one at "
                "runs/<task>-latest/adapter"
            ) from None
        description = read_description(self._directory)
        self._adapter = load_adapter(self._directory)
        self._task, config = description.make_task(task)
        if reward is not None:
            if not isinstance(self._task, TakesReward):
                raise UserError(f"task {self._task.name} has a reward of its own; leave reward out")
            self._task.judge_by(reward)
        if self._adapter.config["r"] != config.policy.lora_rank:
            raise UserError(
                f"the adapter {self._directory} has rank {self._adapter.config['r']}, and its "
                f"{FILE} says policy.lora_rank {config.policy.lora_rank}; take a complete adapter"
            )
        # Only the caller decides: an adapter may come from a stranger.
        setting = config.model.model_copy(update={"trust_remote_code": trust_remote_code})
        if model is not None:
            setting = setting.model_copy(update={"name": model})
        self._config = config.model_copy(update={"model": setting})
        try:
            self._model = resolve_model(setting)
            self._tokenizer = load_tokenizer(self._model, trust_remote_code)
            size = vocab_size(self._model, trust_remote_code)
            shapes = {name: array.shape for name, array in self._adapter.tensors.items()}
            layers = linear_layers(self._model, trust_remote_code)
            check_fits(self._directory, shapes, layers, self._model)
        except UserError as error:
            raise UserError(
                f"{error} (the base model of {self._directory}; `model` can name another)"
            ) from None
        self._merge(base_adapter)
        self._support = self._task.support(self._tokenizer, size)
        check_support(self._task.name, self._support, self._tokenizer, size)
        self._engine: Any = None
        self._frozen_lm: Any = None
        self._average: LabelAverage | None = None
        self._closed = False

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of a query's texts."""
        return self._task.fields

    def sample(
        self,
        query: Mapping[str, str] | None = None,
        n: int = 8,
        *,
        seed: int = 0,
        resample: bool = False,
        candidates: int | None = None,
    ) -> list[Sample]:
        """Draws n independent samples from q(z | query). The same seed gives the same samples.

        resample: draw them from more candidates by R / q instead, which is closer to the posterior;
        a `Resampled` list, with the effective sample size. candidates: how many; default: four
        for each that is drawn.

        query: a text for each of `fields`. Raises UserError where it has others, where a text is
        empty or no valid Unicode, where the prompt is longer than any of the run could be, for
        n < 1, for seed < 0, where log R cannot be had, and once the policy is closed.
        """
        asked = self._query(query or {})
        if not resample:
            if candidates is not None:
                raise UserError("candidates are what resample=True draws from; give both or none")
            return [self._shown(z) for z in self._sample(asked, n, seed)]
        most = _CANDIDATES_EACH * n if candidates is None else candidates
        if most < n:
            raise UserError(f"candidates got {most}; it takes at least n ({n}), which are drawn")
        drawn = self._sample(asked, most, seed)
        weights = self._weights(asked, drawn)
        shown = [self._shown(z) for z in drawn]
        places = weights.draw(n, generator(seed_of(Stream.RESAMPLED, seed)))
        return Resampled([shown[i] for i in places], shown, weights)

    def predict(
        self,
        query: Mapping[str, str] | None = None,
        n: int = 16,
        *,
        seed: int = 0,
        weighted: bool = False,
    ) -> Prediction:
        """Returns answers with the share of n samples that give them; see `Prediction`.

        weighted: weigh samples by R / q, rather than alike. Raises UserError as `sample` does, and
        where z of the task is no answer.
        """
        asked = self._query(query or {})
        labels = self._label_average()
        drawn = self._sample(asked, n, seed)
        samples = [self._shown(z) for z in drawn]
        weights = self._weights(asked, drawn) if weighted else Weights.of(np.zeros(n))
        if labels is not None:
            answers = labels.predict(asked.context_ids, [one.token_ids for one in samples])
            return Prediction(answers, 0.0, samples, weights.effective)
        votes = [self._task.answer(asked, z.text) for z in samples]
        return Prediction.of_votes(votes, samples, weights)

    def close(self) -> None:
        """Frees the engine; the policy can no longer be sampled."""
        self._closed = True
        self._average = self._frozen_lm = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> ServedPolicy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _merge(self, given: str | Path | None) -> None:
        """Replaces the model by the tuned base of the run, if it had one."""
        written = self._config.base_adapter
        if written is None:
            if given is not None:
                raise UserError(
                    f"the base adapter got {given}, and the run of {self._directory} had none; "
                    "leave it out"
                )
            return
        adapter = written if given is None else Path(given).expanduser()
        trusted = self._config.model.trust_remote_code
        try:
            self._model = merged_model_dir(self._model, adapter, trusted)
        except UserError as error:
            raise UserError(
                f"{error} (the base of {self._directory}; `base_adapter` can name another)"
            ) from None

    def _label_average(self) -> LabelAverage | None:
        """Returns the model that averages labels over z, if the task's answers are labels."""
        if self._average is None and isinstance(self._task, PredictsLabels):
            self._average = LabelAverage(
                read_labels(self._directory),
                self._task.label_answers(self._tokenizer),
                self._model,
                _device(self._config.runtime.device),
                self._config,
            )
        return self._average

    def _query(self, texts: Mapping[str, str]) -> Query:
        name, expected = self._task.name, self.fields
        takes = ", ".join(expected) or "none"
        further = [field for field in texts if field not in expected]
        for field in (*expected, *(further if self._task.further_fields else ())):
            text = texts.get(field)
            if not isinstance(text, str) or not text.strip():
                got = "nothing" if text is None else repr(text)
                raise UserError(f"the query's {field} got {got}; {name} takes texts for {takes}")
            if found := bad_bytes(text):
                raise UserError(
                    f"the query's {field} got {shown(text)}, with {found}; give a text in UTF-8 "
                    "without NUL bytes"
                )
        if further and not self._task.further_fields:
            raise UserError(f"the query has a field {further[0]!r}; {name} takes {takes}")
        query = self._task.query(texts, self._tokenizer)
        most = self._config.sampler.max_prompt_tokens
        if len(query.prompt_ids) > most:
            raise UserError(
                f"the prompt of this query has {len(query.prompt_ids)} tokens, and the run had "
                f"sampler.max_prompt_tokens {most}; shorten {takes}"
            )
        return query

    def _sample(self, query: Query, n: int, seed: int) -> list[Trajectory]:
        if self._closed:
            raise UserError("the policy is closed; open it again with gfn_ray.open")
        for name, number, least in (("n", n, 1), ("seed", seed, 0)):
            if number < least:
                raise UserError(f"{name} got {number}; it takes a whole number, at least {least}")
        if self._engine is None:
            self._engine = self._start()
        from gfn_ray.sampling.backend import SampleRequest
        from gfn_ray.sampling.exploration import on_policy_behaviour

        plans = on_policy_behaviour(n, generator(seed_of(Stream.SERVED, seed)))
        drawn: list[Trajectory] = self._engine.sample([SampleRequest(query, plans)])
        return drawn

    def _shown(self, z: Trajectory) -> Sample:
        return Sample(
            text=self._tokenizer.decode(z.token_ids),
            token_ids=tuple(z.token_ids.tolist()),
            log_q=_log_q(z),
            stopped=z.stopped,
        )

    def _weights(self, query: Query, drawn: list[Trajectory]) -> Weights:
        """R^(1/T) / q of each sample, at the T that the run ended with."""
        config = self._config
        if config.objective.adds_reference:
            raise UserError(
                f"objective.kind {config.objective.kind} adds log p_ref to log R in the learner, "
                "so R alone weighs samples wrongly; train with task.prior instead"
            )
        reward = self._task.target(self._tokenizer, self._support.vocab_size)
        reward.load(self._load_frozen_lm)
        scored = reward.score([(query, z) for z in drawn])
        for place, one in enumerate(scored):
            if (fault := one.reward_fault) is not None:
                reasons = reward.faults if isinstance(reward, ExplainsFaults) else {}
                raise UserError(f"{reasons.get(place, fault)}; every sample needs a finite log R")
        temperature = config.reward.temperature_end
        return Weights.of([z.final_log_reward / temperature - _log_q(z) for z in scored])

    def _load_frozen_lm(self) -> Any:
        if self._frozen_lm is None:
            self._frozen_lm = load_causal_lm(
                self._model,
                self._config.reward.precision,
                _device(self._config.runtime.device),
                self._config.model.trust_remote_code,
            )
        return self._frozen_lm

    def _start(self) -> Any:
        """Starts the run's kind of engine and loads the adapter."""
        from gfn_ray.sampling.backend import start_backend

        config, device = self._config, _device(self._config.runtime.device)
        if config.sampler.backend == "vllm":
            _prepare_environment(device)
        if device == "cpu":  # the run may have divided its model over GPUs
            sampler = config.sampler.model_copy(update={"tensor_parallel": 1})
            config = config.model_copy(update={"sampler": sampler})
        tool = self._tool_loop()
        engine = start_backend(config, self._model, self._support, device=device, tool=tool)
        engine.load(self._adapter)
        return engine

    def _tool_loop(self) -> ToolLoop | None:
        tool = self._task.tool
        return None if tool is None else ToolLoop(tool, self._tokenizer, self._support)


def _log_q(z: Trajectory) -> float:
    return z.sampler_log_content + z.sampler_log_stop


def _device(setting: str) -> str:
    import torch

    if setting == "cpu" or not torch.cuda.is_available():
        # The run may have had a GPU on another machine; serving uses what is available here.
        return "cpu"
    return "cuda"


def _prepare_environment(device: str) -> None:
    """Sets variables that vLLM reads on import; raises UserError if it was imported before."""
    wanted = vllm_environment(device)
    missing = {name: value for name, value in wanted.items() if os.environ.get(name) != value}
    if missing and "vllm" in sys.modules:
        setting = " ".join(f"{name}={value}" for name, value in missing.items())
        raise UserError(
            f"vllm was imported before gfn_ray could set {count(len(missing), 'variable')} that "
            f"it reads; sample first, or start Python with {setting}"
        )
    os.environ.update(missing)
