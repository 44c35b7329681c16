"""Records a run's progress in its directory, which MLflow follows, and on the display.

Owns which file a number goes to, and its name there and in MLflow. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

from gfn_ray.evaluation.result import Baseline, Evaluation
from gfn_ray.evaluation.weights import WeightDiagnostics
from gfn_ray.runs.display import Display, Progress, Sample
from gfn_ray.runs.nonfinite_batches import NonFiniteReport
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.runtime.supervision.supervisor import Restart
from gfn_ray.runtime.training.controller import Controller, StepReport
from gfn_ray.tasks.task import Task
from gfn_ray.trajectory import Query, Trajectory

WEIGHT_COLUMNS = [field.name for field in fields(WeightDiagnostics)]


class Recorder:
    """Writes one run's records."""

    def __init__(
        self,
        task: Task,
        queries: list[Query],
        decode: Callable[[Any], str],
        directory: RunDir,
        display: Display,
    ) -> None:
        self._task = task
        self._queries = {query.query_id: query for query in queries}
        self._decode = decode
        self._directory = directory
        self._display = display

    def evaluation(self, phase: str, step: int, result: Evaluation) -> None:
        """Records an evaluation's metrics and its per-query diagnostics."""
        metrics = {**_named("eval", result.metrics), "policy/mismatch_kl": result.mismatch}
        self._directory.append_metrics(step, phase, metrics)
        self._directory.append_diagnostics(
            {
                "step": step,
                "phase": phase,
                "query_id": one.query.query_id,
                **asdict(one.diagnostics),
                # Every row has all columns.
                **(dict.fromkeys(WEIGHT_COLUMNS) if weights is None else asdict(weights)),
            }
            for one in result.samples
            for weights in [result.weights.get(one.query.query_id)]
            if one.query.query_id in result.per_query
        )
        self._directory.append_queries(
            {"step": step, "phase": phase, "query_id": query_id, **values}
            for query_id, values in result.per_query.items()
        )
        if result.simulated:
            self._directory.append_simulated(
                {
                    "step": step,
                    "phase": phase,
                    "query_id": one.query_id,
                    **one.row(),
                }
                for one in result.simulated
            )

    def evaluation_samples(self, phase: str, step: int, result: Evaluation) -> None:
        """Records every on-policy sample of an evaluation."""
        self._directory.append_samples(
            {
                "phase": phase,
                "step": step,
                **self._row(one.query, trajectory, text),
                "log_q": float(log_q),
            }
            for one in result.samples
            for trajectory, text, log_q in zip(one.trajectories, one.texts, one.log_q, strict=True)
        )

    def sft_update(self, step: int, metrics: dict[str, float]) -> None:
        """Records an SFT update; these are counted apart from the objective's."""
        self._directory.append_metrics(step, "SFT", _named("sft", metrics))

    def round(self, step: int, name: str, number: int, metrics: dict[str, float]) -> None:
        """Records the end of a schedule's round, such as an M-step, after `step` updates."""
        phase = name.lower()
        prefix = phase.replace("-", "_").replace(" ", "_")
        self._directory.append_metrics(step, phase, {"round": number, **_named(prefix, metrics)})

    def baseline(self, name: str, result: Baseline) -> None:
        """Records a baseline's metrics and texts under phase baseline/NAME."""
        phase = f"baseline/{name}"
        self._directory.append_metrics(0, phase, _named(phase, result.metrics))
        self._directory.append_samples(
            {"phase": phase, "step": 0, **self._row(one.query, trajectory, text)}
            for one in result.texts
            for trajectory, text in zip(one.trajectories, one.texts, strict=True)
        )

    def update(self, controller: Controller, report: StepReport) -> None:
        """Records an update's metrics."""
        self._directory.append_metrics(report.step, "train", _named("train", report.metrics))
        self._display.update(_progress(controller, report))

    def restart(self, step: int, restart: Restart) -> None:
        """Records an actor that died and is back."""
        self._directory.append_restart(
            {
                "step": step,
                "actor": restart.actor,
                "cause": restart.cause,
                "runtime/restarts": restart.number,
                "runtime/recovery_seconds": restart.seconds,
            }
        )

    def mismatch(self, step: int, kl: float) -> None:
        """Records the KL between sampling engine and learner on training samples."""
        self._directory.append_metrics(step, "engine check", {"policy/mismatch_kl": kl})

    def memory(self, step: int, peaks: Mapping[str, float]) -> None:
        """Records each process's peak memory, which summary.json holds too."""
        numbers = {f"memory/peak_mib_{name}": mib for name, mib in peaks.items()}
        self._directory.append_metrics(step, "memory", numbers)

    def nonfinite_batch(self, report: NonFiniteReport) -> None:
        """Records a dropped non-finite batch."""
        numbers = {"runtime/nonfinite_batches": report.number, "reason": report.reason}
        self._directory.append_metrics(report.step, "non-finite batch", numbers)
        self._display.message(
            f"{report.reason}: the {report.kind} was dropped, see "
            f"{report.file.relative_to(self._directory.path)}"
        )

    def fresh_samples(self, report: StepReport) -> None:
        """Records a few of the newest training samples."""
        fresh = [(self._queries[t.query_id], t) for t in report.fresh]
        rows = [self._row(query, t, self._decode(t.token_ids)) for query, t in fresh]
        self._directory.append_samples([{"phase": "train", "step": report.step, **r} for r in rows])
        self._display.samples(
            [Sample(row["left"], row["text"], row["right"], row["log_reward"]) for row in rows]
        )

    def _row(self, query: Query, trajectory: Trajectory, text: str) -> dict[str, Any]:
        left, right = self._task.context_text(query)
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


def _named(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _progress(controller: Controller, report: StepReport) -> Progress:
    metrics = report.metrics
    return Progress(
        step=report.step,
        trajectories=controller.trajectories,
        policy_version=controller.version,
        staleness=controller.largest_staleness,
        replay_size=int(metrics["replay_size"]),
        loss=metrics["loss"],
        log_reward=report.log_reward,
        log_ratio_var=metrics["log_ratio_var"],
        reward_temperature=metrics["reward_temperature"],
        tokens_per_s={stage: meter.rate for stage, meter in controller.meters.items()},
    )
