"""One run, from settings to exit code; everything opened is closed, however the run ends."""

from __future__ import annotations

import signal
from contextlib import ExitStack

from gfn_ray.config import JobConfig
from gfn_ray.config.tune_base import TunesItsBase
from gfn_ray.errors import EXIT_INTERRUPTED
from gfn_ray.formatting import count
from gfn_ray.models.loading import file_dtype
from gfn_ray.models.merged import BaseAdapter
from gfn_ray.policy.initial import check_initial
from gfn_ray.runs.checkpoints import Resumption, find_resumption, restore_replay
from gfn_ray.runs.display import Display, make_display
from gfn_ray.runs.error_context import with_resume_hint
from gfn_ray.runs.opening import check_login, open_run_directory, reopen_run_directory
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runtime.actors.worker_group import Deployment
from gfn_ray.runtime.preparing import Prepared, prepare
from gfn_ray.runtime.resources.cluster import (
    check_resources,
    choose_device,
    connected,
    gpus_there,
    store_bytes,
)
from gfn_ray.runtime.resources.placement import reserved
from gfn_ray.runtime.resources.precision import with_precision
from gfn_ray.runtime.training.training_run import TrainingRun
from gfn_ray.tasks.infill.story_texts import TunesBase
from gfn_ray.tasks.task import Task, TaskData
from gfn_ray.tracking import RunStatus, TrackingState


def run(config: JobConfig, task: Task) -> int:
    """Trains one policy and returns the process's exit code.

    Raises UserError, before anything is written, if settings, data or the cluster are at fault,
    and RunFailed, after closing all records, if an actor dies or is late.
    """
    display = make_display(config.steps, config.runtime.log_every)
    try:
        display.phase("preparing model and data")
        job = prepare(config, task, display)
        resumed = None
        if config.resume is not None:
            resumed = open_resumed(job.config, task, job.data, display)
            if resumed is None:
                return 0
        anew = resumed is None or resumed[1] is None
        tunes = isinstance(job.config, TunesItsBase) and job.config.base_tuning is not None
        if not tunes:
            base = _checked_base(job.config, job.model, anew=anew)
        display.phase("starting Ray")
        with (
            ExitStack() as afterwards,
            connected(store_bytes(job.config, job.layers)) as grows,
        ):
            # `ray job stop` and process managers send SIGTERM; jobs that a script starts in the
            # background ignore SIGINT. Both must end the run as cleanly as Ctrl-C. Set here
            # because connecting to Ray installs its own handler.
            for stop in (signal.SIGINT, signal.SIGTERM):
                signal.signal(stop, signal.default_int_handler)
            device = choose_device(job.config, gpus_there(), grows=grows, say=display.message)
            check_resources(job.config, device, grows=grows)
            stored = job.config
            if tunes:  # takes minutes, so only after every check
                stored = _on_tuned_base(job, display)
                base = _checked_base(stored, job.model, anew=anew)
            running = with_precision(
                stored,
                job.data,
                device,
                lambda: job.layers,
                lambda: file_dtype(job.model, job.config.model.trust_remote_code),
                display.message,
            )
            with reserved(running, device, display.message) as placement:
                deployment = Deployment(device, placement, base)
                return _record(stored, running, job, deployment, display, resumed, afterwards)
    finally:
        display.close()


def _checked_base(config: JobConfig, model: str, *, anew: bool) -> BaseAdapter | None:
    """What actors merge into the model. anew: whether the policy begins with this run, and maybe
    with an adapter that was trained on another base."""
    name = config.base_adapter
    base = None if name is None else BaseAdapter.read(name, model)
    if anew:
        check_initial(config, model, base)
    return base


def open_resumed(
    config: JobConfig, task: Task, data: TaskData, display: Display
) -> tuple[RunDir, Resumption | None] | None:
    """The directory that --resume names, and where its run resumes; None: at the beginning.

    Returns None instead of the pair if the run is finished, with what it lacked in MLflow
    delivered. Raises UserError, with the directory unchanged, if the run cannot be resumed.
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
            display.message("MLflow now has all of this run")
        else:
            display.message(f"nothing is left to do: {directory.path} holds a run {finished}")
        return None
    return directory, resumption


def _record(
    given: JobConfig,
    config: JobConfig,
    job: Prepared,
    deployment: Deployment,
    display: Display,
    resumed: tuple[RunDir, Resumption | None] | None,
    afterwards: ExitStack,
) -> int:
    """Opens the run directory and MLflow, trains, and closes MLflow with the right status.

    A user's mistake that shows before the first checkpoint leaves everything unchanged.

    given: the settings to store, which reproduce the run. config: the same with the precision that
    the actors use. resumed: from open_resumed(). afterwards: unwound once the
    actors, which also write below the directory, are gone.
    """
    if resumed is None:
        resumption = None
        directory, tracker = open_run_directory(given, job.task.name, display)
    else:
        directory, resumption = resumed
        tracker = reopen_run_directory(given, directory, display)
    status: RunStatus = "FAILED"
    training_run = TrainingRun(
        config, job.task, job.data, job.tokenizer, directory, display, tracker
    )
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
            report = training_run.work(deployment, resumption)
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


def _on_tuned_base(job: Prepared, display: Display) -> JobConfig:
    """The settings with a base adapter tuned on the task's texts, if they ask for one."""
    config, task = job.config, job.task
    if not isinstance(config, TunesItsBase) or not isinstance(task, TunesBase):
        return config
    # Imports torch, which other runs leave to the actors.
    from gfn_ray.runs.base_tuning import tuned_base

    texts = task.base_texts(job.tokenizer, job.positions)
    for note in texts.notes:
        if note not in job.data.notes:
            display.message(note)
    tuned: JobConfig = config.on_base(tuned_base(config, job.model, texts, display))
    return tuned
