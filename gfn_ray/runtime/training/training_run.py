"""The phases of one run: evaluate, train, evaluate again, write the results.

Owns the order of the phases, the stopping criterion, and when checkpoints and the adapter are
written. What the run comes to is conclusion.py's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.decoding.simulation import SimulatedQuery
from gfn_ray.evaluation.report import FinalReport
from gfn_ray.evaluation.result import Baseline, Evaluation
from gfn_ray.formatting import count, number
from gfn_ray.policy.adapter import load_adapter
from gfn_ray.runs.checkpoints import Measured, Resumption, write_measured
from gfn_ray.runs.display import Display
from gfn_ray.runs.nonfinite_batches import NonFiniteBatches
from gfn_ray.runs.published import newest_complete
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runs.stopwatch import Stopwatch
from gfn_ray.runtime.actors.worker_group import Deployment, WorkerGroup
from gfn_ray.runtime.evaluation.baselines import Decoders
from gfn_ray.runtime.evaluation.evaluate import Evaluator
from gfn_ray.runtime.evaluation.simulated import simulated_queries
from gfn_ray.runtime.profiling.process_use import ProcessUse
from gfn_ray.runtime.profiling.profile import Profiler
from gfn_ray.runtime.resources.balance import ThreadBalance, left_to
from gfn_ray.runtime.supervision.supervisor import Restart, Supervisor
from gfn_ray.runtime.training.checkpointer import Checkpointer
from gfn_ray.runtime.training.conclusion import conclude
from gfn_ray.runtime.training.controller import Controller, StepReport
from gfn_ray.runtime.training.engine_check import EngineCheck
from gfn_ray.runtime.training.recorder import Recorder
from gfn_ray.runtime.training.schedules.em import EM
from gfn_ray.runtime.training.schedules.schedule import Plain, Schedule
from gfn_ray.runtime.training.schedules.star import STaR
from gfn_ray.runtime.training.sft import sft, sft_demonstrations
from gfn_ray.seeds import Stream, seed_of
from gfn_ray.tasks.demonstrations import demonstration_trajectories
from gfn_ray.tasks.task import Task, TaskData
from gfn_ray.tracking import Tracker
from gfn_ray.trajectory import Trajectory


class TrainingRun:
    """Runs the phases of one job on a worker group."""

    def __init__(
        self,
        config: JobConfig,
        task: Task,
        data: TaskData,
        tokenizer: Any,
        directory: RunDir,
        display: Display,
        tracker: Tracker,
    ) -> None:
        self._config = config
        self._task = task
        self._data = data
        self._tokenizer = tokenizer
        self._directory = directory
        self._display = display
        self._tracker = tracker
        self._sft_demonstrations = sft_demonstrations(config, data)
        queries = [*data.train, *data.held_out]
        self._recorder = Recorder(task, queries, self._decode, directory, display)
        self._supervisor = Supervisor(config.runtime, display.message, self._restarted)
        self._bad = NonFiniteBatches(
            config,
            directory.nonfinite_batches_dir,
            self._decode,
            lambda: self._step,
            self._recorder.nonfinite_batch,
        )
        self._controller: Controller | None = None
        self._profiler: Profiler | None = None
        self._evaluated_step = 0
        self._ended_by = "steps"
        self._training = False
        self.has_begun = False
        """Whether the run holds anything that a fresh start would not reproduce."""
        self._wall, self._training_wall = Stopwatch(), Stopwatch()
        self._wall.start()

    def work(self, deployment: Deployment, resumption: Resumption | None) -> FinalReport:
        """Starts the actors and runs every phase. resumption: where to resume; None starts from
        the beginning. An interruption during training leaves a checkpoint."""
        config = self._config
        workers = WorkerGroup.start(
            config, self._data, deployment, self._directory.replay_dir, self._supervisor
        )
        self._check = EngineCheck(
            config,
            deployment.device,
            lambda kl: self._recorder.mismatch(self._step, kl),
            self._display.message,
        )
        controller = Controller(config, self._data, workers, self._bad, self._check)
        self._controller = controller
        if workers.log is not None:
            self._profiler = Profiler(
                config.profile, workers, workers.log, self._directory, self._display.message
            )
        self._balance = ThreadBalance(workers, self._display.message)
        self._use = ProcessUse(workers.all)
        self._schedule = self._make_schedule(workers)
        self._checkpointer = Checkpointer(
            config, self._task.name, self._directory, workers, self._schedule, self._display
        )
        try:
            evaluator = self._evaluator(workers, deployment)
            return self._phases(workers, controller, evaluator, resumption)
        except KeyboardInterrupt:
            if controller.settled:
                self._checkpoint(controller)
                if self._profiler is not None:
                    self._profiler.end()
            raise

    def _make_schedule(self, workers: WorkerGroup) -> Schedule:
        config, data = self._config, self._data
        if data.labels is not None:
            return EM(config, self._task, data.labels, data.train, workers)
        if data.star is not None:
            fit = partial(self._fit_round, workers, data.star.star.steps)
            return STaR(config, data.star, data.train, workers, self._decode, fit)
        return Plain()

    def _fit_round(
        self, workers: WorkerGroup, steps: int, found: list[Trajectory], done: int
    ) -> None:
        """Likelihood updates of a round, numbered on from SFT's through all rounds."""
        order = seed_of(Stream.STAR_ORDER, self._config.seed, done)
        before = self._config.sft.steps + (done - 1) * steps

        def observe(step: int, metrics: dict[str, float]) -> None:
            self._recorder.sft_update(before + step, metrics)

        sft(self._config, steps, found, order, workers, self._bad, observe)

    def interrupt(self, *_: Any) -> None:
        """Signal handler: during training, the first signal stops cleanly between updates. Any
        other stops at once."""
        if self._training and self._controller is not None and self._controller.ask_to_stop():
            self._display.message("stopping after the calls in flight; interrupt again to stop now")
        else:
            raise KeyboardInterrupt

    def left_behind(self) -> str:
        """Tells the user of an unfinished run where it is and how to resume it."""
        checkpoint = newest_complete(self._directory.checkpoints_dir)
        if checkpoint is None:
            return f"there is no checkpoint yet; the run is in {self._directory.path}"
        return f"the newest policy is {checkpoint}; continue with --resume {self._directory.path}"

    def _evaluator(self, workers: WorkerGroup, deployment: Deployment) -> Evaluator:
        """Draws the simulated queries, if there are to be any, and makes what measures on them."""
        config, data = self._config, self._data
        simulated: list[SimulatedQuery] = []
        if data.simulation is not None and config.eval.simulated_queries:
            self._display.phase("drawing simulated queries from the frozen model")
            with left_to(workers, workers.rewards[0]):
                simulated, remark = simulated_queries(config, data, workers, deployment)
            self._display.message(remark)
        return Evaluator(config, self._task, data, workers, self._bad, self._decode, simulated)

    def _phases(
        self,
        workers: WorkerGroup,
        controller: Controller,
        evaluator: Evaluator,
        resumption: Resumption | None,
    ) -> FinalReport:
        config, held_out = self._config, count(len(self._data.held_out), "held-out query")
        if resumption is None:
            measured = self._begin(workers, controller, evaluator)
        else:
            measured = resumption.measured
            self._go_on(workers, controller, resumption)
        self.has_begun = True
        if controller.step < config.steps:
            self._display.phase(f"training for {count(config.steps - controller.step, 'update')}")
        self._train(evaluator, controller)
        self._checkpointer.write_last(controller, self._state())
        if self._learned(controller):
            self._display.phase(f"evaluating the trained policy on {held_out}")
            after = self._final_evaluation(evaluator, controller, "after")
        else:
            after = measured.before
            self._record("after", controller, after)
        use = self._use.so_far()
        memory = {name: one.peak_mib for name, one in use.items()}
        self._recorder.memory(controller.step, memory)

        adapter = workers.adapter()
        tuned = self._schedule.tuned(after)
        self._checkpointer.publish(adapter, self._directory.adapter_dir, tuned)
        course = {
            "steps": controller.step,
            "ended_by": self._ended_by,
            "trajectories": controller.trajectories,
            "wall_seconds": self._wall.seconds,
            "training_seconds": self._training_wall.seconds,
            "seconds_per_step": self._training_wall.seconds / max(1, controller.step),
            "policy_versions": adapter.version + 1,
            "max_staleness_seen": controller.largest_staleness,
            "restarts": len(self._supervisor.restarts),
            "nonfinite_batches": self._bad.total,
            "cpu_seconds": sum(one.cpu_seconds for one in use.values()),
            "peak_mib": memory,
        }
        return conclude(
            config,
            self._task,
            self._data,
            self._directory,
            self._tracker,
            measured,
            after,
            course,
        )

    def _begin(
        self, workers: WorkerGroup, controller: Controller, evaluator: Evaluator
    ) -> Measured:
        """Runs everything before the first update by the objective, then checkpoints it."""
        config, held_out = self._config, count(len(self._data.held_out), "held-out query")
        which = "untrained policy"
        if config.init_adapter is not None:
            which = f"policy of {config.init_adapter}"
            adapter = workers.put(load_adapter(config.init_adapter))
            workers.ask(
                workers.learner,
                "start from an adapter",
                lambda actor: actor.start_from.remote(adapter),
                changes_state=True,
            )
        controller.publish_now()
        self._display.phase(f"evaluating the {which} on {held_out}")
        before = self._final_evaluation(evaluator, controller, "before")
        measured = Measured(before, self._measure_baselines(workers))
        write_measured(self._directory, measured)
        if self._sft_demonstrations:
            updates = count(config.sft.steps, "update")
            demonstrations = count(len(self._sft_demonstrations), "demonstration")
            self._display.phase(f"SFT: {updates} on {demonstrations}")
            with left_to(workers, workers.learner):
                sft(
                    config,
                    config.sft.steps,
                    self._sft_demonstrations,
                    seed_of(Stream.SFT_ORDER, config.seed),
                    workers,
                    self._bad,
                    self._after_sft_update,
                )
            controller.publish_now()
        if config.replay.seed_demonstrations and config.steps:
            seeds = demonstration_trajectories(self._data.train, self._data.support)
            self._display.phase(f"seeding replay with {count(len(seeds), 'demonstration')}")
            with left_to(workers, workers.rewards[0]):
                controller.seed_replay(seeds)
        self._checkpoint(controller)
        return measured

    def _go_on(self, workers: WorkerGroup, controller: Controller, resumption: Resumption) -> None:
        """Restores everything from the checkpoint and publishes its weights."""
        training = resumption.hand_over()
        training_run, learner = training["run"], training["learner"]
        self._display.phase(f"resuming after update {training['controller']['step']}")
        version = learner["policy"]["version"] - 1
        if self._config.max_staleness:
            # Replay holds samples of versions that are lost; their numbers must not be reused.
            newest = workers.ask(
                workers.replay, "tell its newest version", lambda a: a.newest_version.remote()
            )
            version = max(version, newest + 1)
        controller.restore(training["controller"])
        workers.restore_learner(learner, version)
        controller.publish_now()
        self._schedule.restore(training["schedule"])
        self._evaluated_step = training_run["evaluated_step"]
        self._wall.add(training_run["wall_seconds"])
        self._training_wall.add(training_run["training_seconds"])
        self._ended_by = training_run["ended_by"]
        self._bad.total = training_run["nonfinite_batches"]
        if self._ended_by != "steps":
            controller.end_here()

    def _state(self) -> dict[str, Any]:
        """The part of a checkpoint that only this class knows."""
        return {
            "evaluated_step": self._evaluated_step,
            "ended_by": self._ended_by,
            "nonfinite_batches": self._bad.total,
            "wall_seconds": self._wall.seconds,
            "training_seconds": self._training_wall.seconds,
        }

    def _restarted(self, restart: Restart) -> None:
        self._recorder.restart(self._step, restart)

    @property
    def _step(self) -> int:
        """Number of updates applied."""
        return 0 if self._controller is None else self._controller.step

    def _final_evaluation(
        self, evaluator: Evaluator, controller: Controller, phase: str
    ) -> Evaluation:
        result = evaluator.final()
        self._record(phase, controller, result)
        return result

    def _record(self, phase: str, controller: Controller, result: Evaluation) -> None:
        self._recorder.evaluation(phase, controller.step, result)
        self._check.look_at(result.mismatch)
        self._recorder.evaluation_samples(phase, controller.step, result)

    def _learned(self, controller: Controller) -> bool:
        """Whether the policy or its reward may have changed since the start."""
        has_sft = bool(self._sft_demonstrations)
        return bool(controller.step) or has_sft or self._schedule.learns_apart

    def _measure_baselines(self, workers: WorkerGroup) -> dict[str, Baseline]:
        found: dict[str, Baseline] = {}
        decoders = Decoders(self._config, self._task, self._data, workers, self._bad, self._decode)
        for decoder in self._data.decoders:
            self._display.phase(f"decoding the frozen model for comparison: {decoder.name}")
            one = decoders.measure(decoder)
            self._recorder.baseline(decoder.name, one)
            found[decoder.name] = one
        for method in self._schedule.baseline_methods():
            self._display.phase(f"measuring for comparison: {method.name}")
            one = method.measure()
            self._recorder.baseline(method.name, one)
            found[method.name] = one
        return found

    def _train(self, evaluator: Evaluator, controller: Controller) -> None:
        def observe(report: StepReport) -> None:
            self._after_update(evaluator, controller, report)

        def after_round(done: int, metrics: dict[str, float]) -> None:
            name = self._schedule.round_name
            self._recorder.round(controller.step, name, done, metrics)
            listed = ", ".join(f"{name} {number(v)}" for name, v in metrics.items())
            self._display.message(f"{name} {done}: {listed}")
            # Replay outlives the process, and its next inserts may be scored by a label model that
            # no older checkpoint has.
            self._checkpoint(controller, needed=True)

        self._training = True
        self._training_wall.start()
        if self._profiler is not None:
            self._profiler.training_begins()
        try:
            self._schedule.train(controller, observe, after_round)
            controller.stop_if_asked()
            if self._profiler is not None:
                self._profiler.end()
        finally:
            self._training = False
            self._training_wall.stop()

    def _after_sft_update(self, step: int, metrics: dict[str, float]) -> None:
        self._recorder.sft_update(step, metrics)
        if step % self._config.runtime.log_every == 0:
            steps, loss = self._config.sft.steps, number(metrics["loss"])
            self._display.phase(f"SFT {step}/{steps} | loss {loss}")

    def _after_update(
        self, evaluator: Evaluator, controller: Controller, report: StepReport
    ) -> None:
        self._recorder.update(controller, report)
        if report.step % self._config.runtime.log_every == 0:
            self._recorder.fresh_samples(report)
        every = self._config.eval.every
        # Only if samplers can have the learner's weights, and not just before the final evaluation.
        published = controller.published_step == report.step < self._config.steps
        if every and report.step - self._evaluated_step >= every and published:
            self._evaluated_step = report.step
            with self._pause("an evaluation"):
                self._evaluate_during(evaluator, controller)
        if report.step % self._config.checkpoint.every == 0:
            with self._pause("a checkpoint"):
                self._checkpoint(controller)
        self._balance.after_update()
        over = self._profiler is not None and self._profiler.after_update()
        # End only at an update whose weights are published.
        if over and self._config.profile.then_stop and controller.published_step == report.step:
            self._ended_by = "profile"
            controller.end_here()

    @contextmanager
    def _pause(self, why: str) -> Iterator[None]:
        """Training waits for this; a profile shows how long."""
        began = time.monotonic()
        yield
        if self._profiler is not None:
            self._profiler.paused(why, began)

    def _evaluate_during(self, evaluator: Evaluator, controller: Controller) -> None:
        result = evaluator.during(controller.step)
        self._recorder.evaluation("during", controller.step, result)
        self._check.look_at(result.mismatch)
        self._display.evaluated(result.metrics)
        metric, below = self._config.stop.metric, self._config.stop.below
        # Some metrics need a demonstration and are not always present.
        value = result.metrics.get(metric) if metric is not None else None
        if metric is not None and below is not None and value is not None and value < below:
            self._ended_by = metric
            self._display.message(
                f"{metric} is {value:.3g}, below {below:g}: enough after "
                f"{count(controller.step, 'update')}"
            )
            controller.end_here()

    def _checkpoint(self, controller: Controller, *, needed: bool = False) -> None:
        self._checkpointer.write(controller, self._state(), needed=needed)
        self._use.ask()

    def _decode(self, token_ids: Any) -> str:
        text: str = self._tokenizer.decode(token_ids)
        return text
