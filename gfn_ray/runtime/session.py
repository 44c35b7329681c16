"""The phases of one run: evaluate, train, evaluate, write down.

Owns the order of things, when a run has seen enough, and what it leaves behind:
checkpoints, adapter and summary.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.evaluation.posterior import warning
from gfn_ray.evaluation.report import Example, FinalReport, ReportPaths, final_report
from gfn_ray.evaluation.result import Baseline, Evaluation
from gfn_ray.policy.adapter import Adapter, write_adapter
from gfn_ray.runtime.baselines import measure_decoder
from gfn_ray.runtime.calls import fetch
from gfn_ray.runtime.controller import Controller, StepReport
from gfn_ray.runtime.display import Display
from gfn_ray.runtime.em import LabelRounds
from gfn_ray.runtime.evaluate import Evaluator
from gfn_ray.runtime.fleet import Fleet
from gfn_ray.runtime.recorder import Recorder
from gfn_ray.runtime.run_dir import RunDir, newest_complete, prune, publish_directory
from gfn_ray.runtime.warm_start import warm_start, warm_start_references
from gfn_ray.serving.description import write_description
from gfn_ray.tasks.references import reference_trajectories
from gfn_ray.tasks.task import Task, TaskData
from gfn_ray.tracking import Tracker
from gfn_ray.wording import count, number


class Session:
    """One run's phases over a started fleet."""

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
        self._warm_start_references = warm_start_references(config, data)
        queries = [*data.train, *data.held_out]
        self._recorder = Recorder(task, queries, self._decode, directory, display, tracker)
        self._controller: Controller | None = None
        self._labels: LabelRounds | None = None
        self._evaluated_step = 0
        self._ended_by = "steps"
        self._started = time.monotonic()

    def work(self, fleet: Fleet) -> FinalReport:
        """Every phase after the actors are up. An interruption leaves the newest adapter."""
        try:
            return self._phases(fleet)
        except KeyboardInterrupt:
            if self._controller is not None and self._controller.published_step:
                self._checkpoint(self._controller)
            raise

    def interrupted(self) -> str:
        """What to tell a person who ended the run."""
        checkpoint = newest_complete(self._directory.checkpoints_dir)
        left = f"the policy so far is {checkpoint}" if checkpoint else "before the first update"
        return f"interrupted: {left}; the run is in {self._directory.path}"

    def _phases(self, fleet: Fleet) -> FinalReport:
        config, held_out = self._config, count(len(self._data.held_out), "held-out query")
        controller = self._controller = Controller(config, self._data, fleet)
        evaluator = Evaluator(config, self._task, self._data, fleet, self._decode)
        controller.publish_now()
        if self._data.labels is not None:
            queries = self._data.train
            self._labels = LabelRounds(config, self._task, self._data.labels, queries, fleet)
        self._display.phase(f"evaluating the untrained policy on {held_out}")
        before = self._final_evaluation(evaluator, controller, "before")
        baselines = self._measure_baselines(fleet)
        if self._warm_start_references:
            warm = count(config.warm_start.steps, "likelihood update")
            known = count(len(self._warm_start_references), "reference")
            self._display.phase(f"warm start: {warm} on {known}")
            warm_start(config, self._warm_start_references, fleet, self._after_warm_update)
            controller.publish_now()
        if config.replay.seed_references and config.steps:
            seeds = reference_trajectories(self._data.train, self._data.support)
            self._display.phase(f"seeding replay with {count(len(seeds), 'reference')}")
            controller.seed_replay(seeds)
        if config.steps:
            self._display.phase(f"training for {count(config.steps, 'update')}")
        training_started = time.monotonic()
        self._train(evaluator, controller)
        training_seconds = time.monotonic() - training_started
        self._display.phase(f"evaluating the trained policy on {held_out}")
        after = self._final_evaluation(evaluator, controller, "after")

        adapter = self._adapter(controller)
        self._publish(adapter, self._directory.adapter_dir)
        alarm = warning(after.metrics)
        conclusion = self._task.conclude(before, after, self._directory.path, baselines)
        summary = {
            "task": self._task.name,
            "model": config.model.name,
            "base_adapter": config.base_adapter,
            "objective": config.objective.kind,
            "steps": controller.step,
            "warm_start_steps": config.warm_start.steps,
            "ended_by": self._ended_by,
            "trajectories": controller.trajectories,
            "wall_seconds": time.monotonic() - self._started,
            "training_seconds": training_seconds,
            "seconds_per_step": training_seconds / max(1, controller.step),
            "policy_versions": adapter.version + 1,
            "max_policy_lag_seen": controller.largest_lag,
            "mlflow_run_id": self._tracker.run_id,
            "adapter": str(self._directory.adapter_dir),
            "before": before.metrics,
            "after": after.metrics,
            "baselines": {name: one.metrics for name, one in baselines.items()},
            "warnings": [alarm] if alarm else [],
        }
        self._directory.write_summary(summary)
        self._tracker.artifact(self._directory.adapter_dir, "adapter")
        for file in (self._directory.summary_file, *conclusion.files):
            self._tracker.artifact(file)
        paths = ReportPaths(self._directory.path, self._directory.adapter_dir, self._tracker.uri)
        return final_report(
            summary,
            self._task.metrics,
            self._examples(before, after),
            paths,
            [*conclusion.findings, *(f"drawn: {file}" for file in conclusion.files)],
        )

    def _final_evaluation(
        self, evaluator: Evaluator, controller: Controller, phase: str
    ) -> Evaluation:
        result = evaluator.final(controller.adapter)
        self._recorder.evaluation(phase, controller.step, result)
        self._recorder.evaluation_samples(phase, result)
        return result

    def _measure_baselines(self, fleet: Fleet) -> dict[str, Baseline]:
        found: dict[str, Baseline] = {}
        for decoder in self._data.decoders:
            self._display.phase(f"decoding the frozen model for comparison: {decoder.name}")
            one = measure_decoder(
                self._config, self._task, self._data, fleet, self._decode, decoder
            )
            self._recorder.baseline(decoder.name, one)
            found[decoder.name] = one
        if self._labels is not None and self._data.labels is not None:
            for classifier in self._data.labels.classifiers:
                self._display.phase(f"labelling without z for comparison: {classifier.name}")
                one = self._labels.measure(classifier)
                self._recorder.baseline(classifier.name, one)
                found[classifier.name] = one
        return found

    def _train(self, evaluator: Evaluator, controller: Controller) -> None:
        def observe(report: StepReport) -> None:
            self._after_update(evaluator, controller, report)

        def after_m_step(done: int, metrics: dict[str, float]) -> None:
            self._recorder.m_step(controller.step, done, metrics)
            listed = ", ".join(f"{name} {number(v)}" for name, v in metrics.items())
            self._display.message(f"M-step {done}: {listed}")

        if self._labels is None:
            controller.train(observe)
            return
        adapter = Adapter.from_wire(self._labels.train(controller, observe, after_m_step))
        with publish_directory(self._directory.label_adapter_dir) as directory:
            write_adapter(adapter, directory)

    def _after_warm_update(self, step: int, metrics: dict[str, float]) -> None:
        self._recorder.warm_update(step, metrics)
        if step % self._config.runtime.log_every == 0:
            steps, loss = self._config.warm_start.steps, number(metrics["loss"])
            self._display.phase(f"warm start {step}/{steps} | loss {loss}")

    def _after_update(
        self, evaluator: Evaluator, controller: Controller, report: StepReport
    ) -> None:
        self._recorder.update(controller, report)
        if report.step % self._config.runtime.log_every == 0:
            self._recorder.fresh_samples(report)
        if report.step % self._config.checkpoint.every == 0:
            self._checkpoint(controller)
        every = self._config.eval.every
        # Only where samplers can have the learner's weights, and not right before the last one.
        published = controller.published_step == report.step < self._config.steps
        if every and report.step - self._evaluated_step >= every and published:
            self._evaluated_step = report.step
            self._evaluate_during(evaluator, controller)

    def _evaluate_during(self, evaluator: Evaluator, controller: Controller) -> None:
        result = evaluator.during(controller.adapter, controller.step)
        self._recorder.evaluation("during", controller.step, result)
        self._display.evaluated(result.metrics)
        metric, below = self._config.stop.metric, self._config.stop.below
        # Some metrics are not always there: no tail of weights can be fitted where they tie.
        value = result.metrics.get(metric) if metric is not None else None
        if metric is not None and below is not None and value is not None and value < below:
            self._ended_by = metric
            self._display.message(
                f"{metric} is {value:.3g}, below {below:g}: enough after "
                f"{count(controller.step, 'update')}"
            )
            controller.end_here()

    def _checkpoint(self, controller: Controller) -> None:
        """Writes the newest published adapter, under the step whose weights it holds."""
        target = self._directory.checkpoint_dir(controller.published_step)
        self._publish(self._adapter(controller), target)
        prune(self._directory.checkpoints_dir, self._config.checkpoint.keep)

    def _publish(self, adapter: Adapter, target: Path) -> None:
        """An adapter directory that PEFT and vLLM load, and `gfn_ray.open` serves."""
        with publish_directory(target) as directory:
            write_adapter(adapter, directory)
            settings = self._directory.config_file.read_text(encoding="utf-8")
            write_description(directory, self._task.name, settings)

    def _adapter(self, controller: Controller) -> Adapter:
        wire = fetch(
            controller.adapter,
            "the object store",
            "hand over the adapter",
            self._config.runtime.call_timeout_s,
            "runtime.call_timeout_s",
        )
        return Adapter.from_wire(wire)

    def _decode(self, token_ids: Any) -> str:
        text: str = self._tokenizer.decode(token_ids)
        return text

    def _examples(self, before: Evaluation, after: Evaluation) -> list[Example]:
        pairs = zip(before.samples, after.samples, strict=True)
        return [
            Example(
                *self._task.around(one.query),
                truth=one.query.texts.get("reference", ""),
                before=one.texts,
                after=other.texts,
            )
            for one, other in list(pairs)[: self._config.eval.shown]
        ]
