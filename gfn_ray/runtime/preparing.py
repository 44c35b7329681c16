"""What a run reads and checks before Ray starts: model, data, and whether they fit the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.errors import UserError
from gfn_ray.evaluation.calibration import CALIBRATION_METRICS
from gfn_ray.evaluation.weights import WEIGHT_METRICS
from gfn_ray.models.hub import commit_of
from gfn_ray.models.loading import (
    EMBEDDED,
    architectures,
    body_layers,
    chat_note,
    hide_loading_bars,
    load_tokenizer,
    max_positions,
    resolve_model,
    vocab_size,
)
from gfn_ray.models.lora_targets import with_layer_names
from gfn_ray.objectives import choose
from gfn_ray.runs.display import Display
from gfn_ray.runtime.training.sft import sft_demonstrations
from gfn_ray.sampling.architectures import choose_sync
from gfn_ray.sampling.weights.mergeable import check_mergeable
from gfn_ray.tasks.demonstrations import check_demonstrations
from gfn_ray.tasks.task import Task, TaskData, check_data, check_positions
from gfn_ray.tasks.vocabulary import check_support


@dataclass(frozen=True)
class Prepared:
    """config: names the model and its layers exactly. model: its directory on this machine. layers:
    outputs and inputs of its linear layers but the head, by name. positions: the longest text
    that it reads, in tokens; None if it does not say."""

    config: JobConfig
    task: Task
    data: TaskData
    tokenizer: Any
    model: str
    layers: Mapping[str, tuple[int, int]]
    positions: int | None


def prepare(config: JobConfig, task: Task, display: Display) -> Prepared:
    """Raises UserError if settings, model and data do not fit together."""
    model = resolve_model(config.model)
    hide_loading_bars(model)
    trusted = config.model.trust_remote_code
    tokenizer = load_tokenizer(model, trusted)
    if not task.reads_chats and (note := chat_note(tokenizer)):
        display.message(note)
    vllm = config.sampler.backend == "vllm"
    sync = choose_sync(config.policy.sync, architectures(model, trusted)) if vllm else None
    policy = with_layer_names(config.policy, model, trusted)
    if sync == "merged":
        check_mergeable(policy, model, trusted)
        display.message("the sampling engine takes the policy as merged weights")
    config = _with_exact_model(config.model_copy(update={"policy": policy}), model)
    size = vocab_size(model, trusted)
    data = task.load(tokenizer, size)
    for note in data.notes:
        display.message(note)
    check_data(task.name, data, config.sampler, size)
    check_support(task.name, data.support, tokenizer, size)
    check_demonstrations(task.name, data, tokenizer)
    positions = max_positions(model, trusted)
    check_positions(data, config.sampler, positions)
    _check(config, task, data)
    layers = body_layers(model, trusted)
    return Prepared(config, task, data, tokenizer, model, layers, positions)


def _check(config: JobConfig, task: Task, data: TaskData) -> None:
    """Raises UserError if settings ask for something that this task does not have."""
    metric = config.stop.metric
    if metric is not None and metric not in task.metrics:
        raise UserError(
            f"stop.metric got {metric!r}; {task.name} measures {', '.join(task.metrics)}"
        )
    if metric in CALIBRATION_METRICS and not config.eval.simulated_queries:
        raise UserError(
            f"stop.metric ({metric}) is measured on simulated queries, and "
            "eval.simulated_queries is 0; raise it, 24 is the default"
        )
    if metric in WEIGHT_METRICS:
        raise UserError(
            f"stop.metric got {metric!r}, which is measured only before and after training; "
            "use one that is also measured during it: log_z_gap, ess_fraction or log_ratio_var"
        )
    sft_demonstrations(config, data)
    objective = choose(config.objective)
    if objective.needs_behavior:
        _check_on_policy(config)
    if objective.needs_empty_z and not data.support.may_be_empty:
        raise UserError(
            f"the objective needs an empty z that may stop, but z of {task.name} is never empty; "
            "set objective.root_flow to batch_mean or learned"
        )


def _check_on_policy(config: JobConfig) -> None:
    """Raises UserError if replay might hand out z in other shares than the policy sampled them, or
    z of which no log q is known."""
    sampler, replay = config.sampler, config.replay
    wrong = {
        "sampler.tempered_fraction 0": sampler.tempered_fraction > 0,
        "sampler.epsilon_fraction 0": sampler.epsilon_fraction > 0,
        "replay.edit_distance none": replay.edit_distance is not None,
        "replay.priority uniform": replay.priority != "uniform",
        "replay.seed_demonstrations false": replay.seed_demonstrations,
        "replay.max_times_sampled 1, or the number of epochs": replay.max_times_sampled is None,
    }
    if missing := [setting for setting, is_wrong in wrong.items() if is_wrong]:
        raise UserError(
            f"objective.kind {config.objective.kind} learns from the policy's own samples, each as "
            "often as it was sampled, weighed by its log q then; set " + ", ".join(missing)
        )


def _with_exact_model(config: JobConfig, model: str) -> JobConfig:
    """Names the model so that it stays the same in another working directory, and, if it is one of
    the hub, on another day."""
    if commit := commit_of(model):
        pinned = config.model.model_copy(update={"revision": commit})
        return config.model_copy(update={"model": pinned})
    if config.model.name == EMBEDDED:
        return config
    named = config.model.model_copy(update={"name": model})
    return config.model_copy(update={"model": named})
