"""One run, from settings to exit code; everything opened is closed, however the run ends."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.config.tune_base import TunesItsBase
from gfn_ray.errors import EXIT_INTERRUPTED, UserError
from gfn_ray.evaluation.weights import WEIGHT_METRICS
from gfn_ray.formatting import count
from gfn_ray.models.loading import (
    EMBEDDED,
    architectures,
    body_layers,
    chat_note,
    file_dtype,
    hide_loading_bars,
    load_tokenizer,
    max_positions,
    resolve_model,
    vocab_size,
)
from gfn_ray.models.lora_targets import with_layer_names
from gfn_ray.models.merged import merged_model_dir
from gfn_ray.objectives import choose
from gfn_ray.policy.initial import check_initial
from gfn_ray.runs.checkpoints import Resumption, find_resumption, restore_replay
from gfn_ray.runs.display import Display, make_display
from gfn_ray.runs.error_context import with_resume_hint
from gfn_ray.runs.opening import check_login, open_run_directory, reopen_run_directory
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runtime.resources.cluster import check_resources, choose_device, connected
from gfn_ray.runtime.resources.precision import with_precision
from gfn_ray.runtime.training.sft import sft_demonstrations
from gfn_ray.runtime.training.training_run import TrainingRun
from gfn_ray.sampling.architectures import choose_sync
from gfn_ray.sampling.weights.mergeable import check_mergeable
from gfn_ray.tasks.demonstrations import check_demonstrations
from gfn_ray.tasks.infill.story_texts import TunesBase
from gfn_ray.tasks.task import Task, TaskData, check_data, check_positions
from gfn_ray.tasks.vocabulary import check_support
from gfn_ray.tracking import RunStatus, TrackingState


def run(config: JobConfig, task: Task) -> int:
    """Trains one policy and returns the process's exit code.

    Raises UserError, before anything is written, if settings, data or the cluster are at fault,
    and RunFailed, after closing all records, if an actor dies or is late.
    """
    display = make_display(config.steps, config.runtime.log_every)
    try:
        display.phase("preparing model and data")
        model = resolve_model(config.model)
        hide_loading_bars(model)
        trusted = config.model.trust_remote_code
        tokenizer = load_tokenizer(model, trusted)
        if not task.reads_chats and (note := chat_note(tokenizer)):
            display.message(note)
        vllm = config.sampler.backend == "vllm"
        sync = choose_sync(config.policy.sync, architectures(model, trusted)) if vllm else None
        policy = with_layer_names(config.policy, model, trusted)
        config = config.model_copy(update={"policy": policy})
        if sync == "merged":
            check_mergeable(policy, model, trusted)
            display.message("the sampling engine takes the policy as merged weights")
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
        config = _with_absolute_model(config, model)
        resumed = None
        if config.resume is not None:
            resumed = open_resumed(config, task, data, display)
            if resumed is None:
                display.message("MLflow now has all of this run")
                return 0
        anew = resumed is None or resumed[1] is None
        tunes_base = isinstance(config, TunesItsBase) and config.base_tuning is not None
        if not tunes_base:
            running = _on_merged_base(config, model, display, check=anew)
        display.phase("starting Ray")
        with ExitStack() as afterwards, connected():
            # `ray job stop` and process managers send SIGTERM; jobs that a script starts in the
            # background ignore SIGINT. Both must end the run as cleanly as Ctrl-C. Set here
            # because connecting to Ray installs its own handler.
            for stop in (signal.SIGINT, signal.SIGTERM):
                signal.signal(stop, signal.default_int_handler)
            device = choose_device(config)
            check_resources(config, device)
            if tunes_base:  # takes minutes, so only after every check
                config = _on_tuned_base(config, task, data, tokenizer, model, positions, display)
                running = _on_merged_base(config, model, display, check=anew)
            running = with_precision(
                running,
                data,
                device,
                lambda: body_layers(model, trusted),
                lambda: file_dtype(model, trusted),
                display.message,
            )
            return _record(
                config, running, task, data, tokenizer, device, display, resumed, afterwards
            )
    finally:
        display.close()


def open_resumed(
    config: JobConfig, task: Task, data: TaskData, display: Display
) -> tuple[RunDir, Resumption | None] | None:
    """The directory that --resume names, and where its run resumes; None: at the beginning.

    Returns None instead of the pair if the run was finished and only its delivery to MLflow was
    missing, which is now done. Raises UserError, with the directory unchanged, if the run cannot
    be resumed.
    """
    assert config.resume is not None
    directory = RunDir.reopen(config.resume)
    check_login(config, directory)
    resumption = find_resumption(directory, task.name, config, data.held_out)
    finished = _finished(config, directory, resumption)
    if finished is not None:
        tracked = TrackingState.read(directory.path)
        left = tracked is not None and not tracked.complete
        if left and reopen_run_directory(config, directory, display).end("FINISHED"):
            return None
        raise UserError(f"--resume got {directory.path}, {finished}")
    return directory, resumption


def _record(
    given: JobConfig,
    config: JobConfig,
    task: Task,
    data: TaskData,
    tokenizer: Any,
    device: str,
    display: Display,
    resumed: tuple[RunDir, Resumption | None] | None,
    afterwards: ExitStack,
) -> int:
    """Opens the run directory and MLflow, trains, and closes MLflow with the right status.

    A user's mistake that shows before the first checkpoint leaves everything unchanged.

    given: the settings to store, which reproduce the run. config: the same with the model that
    the actors load and its precision. resumed: from open_resumed(). afterwards: unwound once the
    actors, which also write below the directory, are gone.
    """
    if resumed is None:
        resumption = None
        directory, tracker = open_run_directory(given, task.name, display)
    else:
        directory, resumption = resumed
        tracker = reopen_run_directory(given, directory, display)
    status: RunStatus = "FAILED"
    training_run = TrainingRun(config, task, data, tokenizer, directory, display, tracker)
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, training_run.interrupt)

    def discard() -> bool:
        if training_run.has_begun:
            return False
        tracker.withdraw()
        afterwards.callback(directory.discard)
        return True

    try:
        with with_resume_hint(training_run.left_behind, discard):
            if resumed is not None:
                restore_replay(directory, resumption)
            tracker.follow()
            tracker.artifact(directory.config_file)
            display.phase("starting actors and loading models")
            report = training_run.work(device, resumption)
        status = "FINISHED"
        display.show(report)
        return 0
    except KeyboardInterrupt:
        status = "KILLED"
        display.message(f"interrupted: {training_run.left_behind()}")
        return EXIT_INTERRUPTED
    finally:
        tracker.end(status)


def _finished(config: JobConfig, directory: RunDir, resumption: Resumption | None) -> str | None:
    """Why there is nothing left to train, or None. A run that stopped early may continue."""
    if not directory.summary_file.exists():
        return None
    if resumption is None:
        return "which finished and no longer has a checkpoint; start a new run"
    done = resumption.training["controller"]["step"]
    rounds = resumption.training["schedule"] is not None
    if rounds or done >= config.steps:
        more = "its rounds are done" if rounds else "raise --steps to train further"
        return f"which finished after {count(done, 'update')}; {more}"
    resumption.training["run"]["ended_by"] = "steps"
    return None


def _check(config: JobConfig, task: Task, data: TaskData) -> None:
    """Raises UserError if settings ask for something that this task does not have."""
    metric = config.stop.metric
    if metric is not None and metric not in task.metrics:
        raise UserError(
            f"stop.metric got {metric!r}; {task.name} measures {', '.join(task.metrics)}"
        )
    if metric in WEIGHT_METRICS:
        raise UserError(
            f"stop.metric got {metric!r}, which is measured only before and after training; "
            "use one that is also measured during it: log_z_gap, ess_fraction or log_ratio_var"
        )
    sft_demonstrations(config, data)
    if choose(config.objective).needs_empty_z and not data.support.may_be_empty:
        raise UserError(
            f"the objective needs an empty z that may stop, but z of {task.name} is never empty; "
            "set objective.root_flow to batch_mean or learned"
        )


def _with_absolute_model(config: JobConfig, model: str) -> JobConfig:
    """Makes a local model path absolute: actors may run in another working directory."""
    if config.model.name == EMBEDDED or not Path(model).is_dir():
        return config
    return _with_model(config, model)


def _on_tuned_base(
    config: JobConfig,
    task: Task,
    data: TaskData,
    tokenizer: Any,
    model: str,
    positions: int | None,
    display: Display,
) -> JobConfig:
    """The settings with a base adapter tuned on the task's texts, if they ask for one."""
    if not isinstance(config, TunesItsBase) or not isinstance(task, TunesBase):
        return config
    # Imports torch, which other runs leave to the actors.
    from gfn_ray.runs.base_tuning import tuned_base

    texts = task.base_texts(tokenizer, positions)
    for note in texts.notes:
        if note not in data.notes:
            display.message(note)
    tuned: JobConfig = config.on_base(tuned_base(config, model, texts, display))
    return tuned


def _on_merged_base(config: JobConfig, model: str, display: Display, *, check: bool) -> JobConfig:
    """The settings with the model that sampler, reward and learner load: the base, or the base
    with its adapter merged in. The machines of a Ray cluster must share its directory.

    check: whether to check that init_adapter fits the model; not needed for a resumed policy.
    """
    if config.base_adapter is not None:
        name = config.base_adapter
        display.phase(f"base adapter {name}: merging it, unless that is done already")
        merged = merged_model_dir(model, name, config.model.trust_remote_code)
        config = _with_model(config, merged)
    if check:
        check_initial(config, resolve_model(config.model))
    return config


def _with_model(config: JobConfig, name: str) -> JobConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"name": name})})
