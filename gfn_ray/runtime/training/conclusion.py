"""What a run comes to: its summary, its plots and its report, from the evaluations at both ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gfn_ray.config import JobConfig
from gfn_ray.evaluation.calibration import calibration_findings
from gfn_ray.evaluation.plots.calibration_plot import Side, draw_calibration
from gfn_ray.evaluation.report import Example, FinalReport, ReportPaths, final_report
from gfn_ray.evaluation.result import Evaluation
from gfn_ray.evaluation.weights import warnings
from gfn_ray.runs.checkpoints import Measured
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.tasks.task import Task, TaskData
from gfn_ray.tracking import Tracker


def conclude(
    config: JobConfig,
    task: Task,
    data: TaskData,
    directory: RunDir,
    tracker: Tracker,
    measured: Measured,
    after: Evaluation,
    course: dict[str, Any],
) -> FinalReport:
    """Writes summary and plots, hands them to the tracker, and returns the report.

    measured: before training. course: how the run went, as the summary has it.
    """
    before, baselines = measured.before, measured.baselines
    conclusion = task.summarize(before, after, directory.path, baselines)
    files = [*conclusion.files, *_draw_calibration(config, directory, before, after)]
    summary = {
        "task": task.name,
        "model": config.model.name,
        "base_adapter": config.base_adapter,
        "init_adapter": config.init_adapter,
        "objective": config.objective.kind,
        "sft_steps": config.sft.steps,
        **course,
        "mlflow_run_id": tracker.run_id,
        "adapter": str(directory.adapter_dir),
        "before": before.metrics,
        "after": after.metrics,
        "baselines": {name: one.metrics for name, one in baselines.items()},
        "warnings": warnings(list(after.weights.values())),
        "data_notes": list(data.notes),
    }
    directory.write_summary(summary)
    profile = directory.profile_file
    traced = [profile] if profile.exists() else []
    for path in (directory.adapter_dir, directory.summary_file, *traced, *files):
        tracker.artifact(path)
    findings = [
        *calibration_findings(
            before.simulated,
            after.simulated,
            after.metrics,
            config.reward.temperature_end,
            written=data.simulation is not None and data.simulation.writes_queries,
        ),
        *conclusion.findings,
        *(f"drawn: {file}" for file in files),
    ]
    paths = ReportPaths(directory.path, directory.adapter_dir, tracker.uri)
    examples = _examples(task, before, after, config.eval.shown)
    return final_report(summary, task.metrics, examples, paths, findings)


def _draw_calibration(
    config: JobConfig, directory: RunDir, before: Evaluation, after: Evaluation
) -> list[Path]:
    """Draws exact draws beside samples, where there are any."""
    temperature, samples = config.reward.temperature_end, config.eval.simulated_samples
    if "jeffreys" not in before.metrics or "jeffreys" not in after.metrics:
        return []
    return draw_calibration(
        directory.path / "calibration",
        Side.of(before.simulated, temperature),
        Side.of(after.simulated, temperature),
        samples,
        f"Exact posterior draws beside the policy's samples, {config.model.name}",
        f"{len(after.simulated)} simulated queries, {samples} samples each. Left: one that "
        "misses part of the posterior has the exact draw above all samples. Right: dots below "
        "the line are samples shorter than the posterior's.",
    )


def _examples(task: Task, before: Evaluation, after: Evaluation, shown: int) -> list[Example]:
    pairs = list(zip(before.samples, after.samples, strict=True))
    return [
        Example(
            *task.context_text(one.query),
            truth=one.query.texts.get("reference", ""),
            before=one.texts,
            after=other.texts,
        )
        for one, other in pairs[:shown]
    ]
