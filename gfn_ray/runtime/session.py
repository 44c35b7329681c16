"""The phases of one run: evaluate, train, evaluate, write down.

Owns what the run leaves behind: metrics, samples, checkpoints, adapter and summary.
"""

from __future__ import annotations

import time
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.evaluation.report import Example, FinalReport, ReportPaths, final_report
from gfn_ray.policy.adapter import Adapter, write_adapter
from gfn_ray.runtime.calls import fetch
from gfn_ray.runtime.controller import Controller, StepReport
from gfn_ray.runtime.display import Display, Progress, Sample
from gfn_ray.runtime.evaluate import Evaluation, evaluate
from gfn_ray.runtime.fleet import Fleet
from gfn_ray.runtime.run_dir import RunDir, newest_complete, prune, publish_directory
from gfn_ray.tasks.references import reference_trajectories
from gfn_ray.tasks.task import Task, TaskData
from gfn_ray.tracking import Tracker
from gfn_ray.trajectory import Query, Trajectory

# Mean difference in nats between the engine's log q and the learner's from which a person
# should hear of it. float32 stays below 0.001; bfloat16 differs by tenths.
MISMATCH_ALARM = 0.05

# Fresh samples in one message to the display, and in one entry of samples.jsonl.
FRESH_SHOWN = 4


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
        self._queries = {query.query_id: query for query in (*data.train, *data.held_out)}
        self._controller: Controller | None = None
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
        config, held_out = self._config, len(self._data.held_out)
        controller = self._controller = Controller(config, self._data, fleet)
        controller.publish_first()
        self._display.phase(f"evaluating the untrained policy on {held_out} held-out queries")
        before = self._evaluate(fleet, controller, "before")
        if config.replay.seed_references:
            seeds = reference_trajectories(self._data, self._data.train)
            self._display.phase(f"seeding replay with {len(seeds)} references")
            controller.seed_replay(seeds)
        self._display.phase(f"training for {config.steps} updates")
        training_started = time.monotonic()
        controller.train(lambda report: self._after_update(controller, report))
        training_seconds = time.monotonic() - training_started
        self._display.phase(f"evaluating the trained policy on {held_out} held-out queries")
        after = self._evaluate(fleet, controller, "after")

        adapter = self._adapter(controller)
        with publish_directory(self._directory.adapter_dir) as directory:
            write_adapter(adapter, directory)
        summary = {
            "task": self._task.name,
            "model": config.model.name,
            "steps": controller.step,
            "trajectories": controller.trajectories,
            "wall_seconds": time.monotonic() - self._started,
            "seconds_per_step": training_seconds / controller.step,
            "policy_versions": adapter.version + 1,
            "max_policy_lag_seen": controller.largest_lag,
            "mlflow_run_id": self._tracker.run_id,
            "adapter": str(self._directory.adapter_dir),
            "before": before.metrics,
            "after": after.metrics,
        }
        self._directory.write_summary(summary)
        self._tracker.artifact(self._directory.adapter_dir, "adapter")
        self._tracker.artifact(self._directory.summary_file)
        paths = ReportPaths(self._directory.path, self._directory.adapter_dir, self._tracker.uri)
        return final_report(summary, self._task.metrics, self._examples(before, after), paths)

    def _evaluate(self, fleet: Fleet, controller: Controller, phase: str) -> Evaluation:
        result = evaluate(
            self._config, self._task, self._data, fleet, controller.adapter, self._decode
        )
        rows = [
            {
                "phase": phase,
                **self._row(one.query, trajectory, text),
                "log_q": float(log_q),
            }
            for one in result.samples
            for trajectory, text, log_q in zip(one.trajectories, one.texts, one.log_q, strict=True)
        ]
        self._directory.append_samples(rows)
        self._tracker.table(f"samples_{phase}", rows)
        metrics = {f"eval/{name}": value for name, value in result.metrics.items()}
        metrics["policy/mismatch_kl"] = result.mismatch
        self._directory.append_metrics({"step": controller.step, "phase": phase, **metrics})
        self._tracker.metrics(metrics, controller.step)
        if abs(result.mismatch) > MISMATCH_ALARM:
            self._display.message(
                f"sampler and learner disagree on log q by {result.mismatch:.2f} nats a sample; "
                "with sampler.dtype float32 this means a stale adapter, else rounding"
            )
        return result

    def _after_update(self, controller: Controller, report: StepReport) -> None:
        metrics = {f"train/{name}": value for name, value in report.metrics.items()}
        self._directory.append_metrics({"step": report.step, "phase": "train", **metrics})
        self._tracker.metrics(metrics, report.step)
        self._display.update(_progress(controller, report))
        if report.step % self._config.runtime.log_every == 0:
            self._show_fresh(report)
        if report.step % self._config.checkpoint.every == 0:
            self._checkpoint(controller)

    def _show_fresh(self, report: StepReport) -> None:
        fresh = [(self._queries[t.query_id], t) for t in report.fresh[:FRESH_SHOWN]]
        rows = [self._row(query, t, self._decode(t.token_ids)) for query, t in fresh]
        self._directory.append_samples([{"phase": "train", "step": report.step, **r} for r in rows])
        self._display.samples(
            [
                Sample(*_between(self._task.around(query), row["text"]), t.final_log_reward)
                for (query, t), row in zip(fresh, rows, strict=True)
            ]
        )

    def _checkpoint(self, controller: Controller) -> None:
        """Writes the newest published adapter, under the step whose weights it holds."""
        adapter = self._adapter(controller)
        target = self._directory.checkpoint_dir(controller.published_step)
        with publish_directory(target) as directory:
            write_adapter(adapter, directory)
        prune(self._directory.checkpoints_dir, self._config.checkpoint.keep)

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

    def _row(self, query: Query, trajectory: Trajectory, text: str) -> dict[str, Any]:
        left, right = self._task.around(query)
        return {
            "query_id": query.query_id,
            "left": left,
            "text": text,
            "right": right,
            "log_reward": trajectory.final_log_reward,
            "proposal": trajectory.proposal,
            "policy_version": trajectory.policy_version,
            "tokens": len(trajectory),
            "stopped": trajectory.stopped,
        }

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


def _between(around: tuple[str, str], text: str) -> tuple[str, str, str]:
    return around[0], text, around[1]


def _mean_log_reward(trajectories: list[Trajectory]) -> float | None:
    rewards = [t.final_log_reward for t in trajectories]
    return sum(rewards) / len(rewards) if rewards else None


def _progress(controller: Controller, report: StepReport) -> Progress:
    metrics = report.metrics
    return Progress(
        step=report.step,
        trajectories=controller.trajectories,
        policy_version=controller.version,
        policy_lag=controller.largest_lag,
        replay_size=int(metrics["replay_size"]),
        loss=metrics["loss"],
        log_reward=_mean_log_reward(report.fresh),
        log_ratio_var=metrics["log_ratio_var"],
        reward_temperature=metrics["reward_temperature"],
        tokens_per_s={stage: meter.rate for stage, meter in controller.meters.items()},
    )
