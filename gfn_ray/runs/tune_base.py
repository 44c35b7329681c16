"""Tunes a base model on whole stories, in this process: no Ray, no sampling.

Writes a run directory like any other, with an adapter for `--task.base-adapter`.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from gfn_ray.config import TuneBaseJob
from gfn_ray.errors import UserError
from gfn_ray.evaluation.report import FinalReport, ReportPaths, final_report
from gfn_ray.formatting import count, number
from gfn_ray.learners.text_tuning import perplexity
from gfn_ray.models.loading import (
    hide_loading_bars,
    load_causal_lm,
    load_tokenizer,
    max_positions,
    resolve_model,
)
from gfn_ray.models.lora_targets import with_layer_names
from gfn_ray.policy.adapter import add_adapter, read_adapter, write_adapter
from gfn_ray.runs.base_tuning import finite, updates
from gfn_ray.runs.display import Display, make_display
from gfn_ray.runs.error_context import writing
from gfn_ray.runs.opening import open_run_directory
from gfn_ray.runs.published import publish_directory
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.seeds import Stream
from gfn_ray.tasks.infill.story_texts import story_texts
from gfn_ray.tasks.task import MetricInfo
from gfn_ray.tracking import RunStatus, Tracker
from gfn_ray.trajectory import IntArray

METRICS = {"perplexity": MetricInfo("lower", "per token, on validation stories")}


def tune_base(config: TuneBaseJob) -> int:
    """Tunes one adapter and returns the process's exit code; raises UserError on bad settings."""
    torch.set_num_threads(config.threads)
    display = make_display(config.steps, config.log_every)
    try:
        display.phase("preparing model and data")
        path = resolve_model(config.model)
        hide_loading_bars(path)
        tokenizer = load_tokenizer(path, config.model.trust_remote_code)
        positions = max_positions(path, config.model.trust_remote_code)
        policy = with_layer_names(config.policy, path, config.model.trust_remote_code)
        config = config.model_copy(update={"policy": policy})
        train, held_out, notes = story_texts(config.data, tokenizer, positions)
        if not held_out:
            raise UserError("none of the stories falls into the validation split; give more")
        for note in notes:
            display.message(note)
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        base = load_causal_lm(path, "float32", device, config.model.trust_remote_code)
        model = add_adapter(base, config.policy, config.seed, Stream.TEXT_ADAPTER)
        directory, tracker = open_run_directory(config, "tune-base", display)
        status: RunStatus = "FAILED"
        try:
            with writing():
                report = _tuned(config, model, train, held_out, notes, directory, display, tracker)
            display.show(report)
            status = "FINISHED"
            return 0
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracker.end(status)
    finally:
        display.close()


def _tuned(
    config: TuneBaseJob,
    model: Any,
    train: list[IntArray],
    held_out: list[IntArray],
    notes: tuple[str, ...],
    directory: RunDir,
    display: Display,
    tracker: Tracker,
) -> FinalReport:
    """Measures, tunes, measures again, and writes the results."""
    started = time.monotonic()
    tracker.follow()

    def measured(phase: str, step: int) -> dict[str, float]:
        display.phase(f"perplexity of {count(len(held_out), 'validation story')} {phase} tuning")
        found = {"perplexity": perplexity(model, held_out, config.batch)}
        named = {f"eval/{name}": value for name, value in found.items()}
        directory.append_metrics(step, phase, named)
        return found

    with finite("before tuning", "the model of --model.name is at fault; give another"):
        before = measured("before", 0)
    tuning_started = time.monotonic()
    for step, found in updates(config, model, train, "--lr"):
        metrics = {f"train/{name}": value for name, value in found.items()}
        directory.append_metrics(step, "train", metrics)
        if step % config.log_every == 0:
            loss = number(metrics["train/loss"])
            display.phase(f"update {step}/{config.steps} | loss {loss} nats a token")
    tuning_seconds = time.monotonic() - tuning_started
    with finite("after tuning", f"lower --lr ({config.lr:g})"):
        after = measured("after", config.steps)
    directory.checkpoints_dir.rmdir()  # empty: this job writes no checkpoints
    with publish_directory(directory.adapter_dir) as target:
        write_adapter(read_adapter(model, 1), target)
    summary = {
        "task": "tune-base",
        "model": config.model.name,
        "steps": config.steps,
        "train_stories": len(train),
        "validation_stories": len(held_out),
        "data_notes": list(notes),
        "wall_seconds": time.monotonic() - started,
        "seconds_per_step": tuning_seconds / config.steps,
        "mlflow_run_id": tracker.run_id,
        "adapter": str(directory.adapter_dir),
        "before": before,
        "after": after,
    }
    directory.write_summary(summary)
    tracker.artifact(directory.adapter_dir)
    tracker.artifact(directory.summary_file)
    paths = ReportPaths(directory.path, directory.adapter_dir, tracker.uri)
    use = "infilling starts from the tuned model by --task.base-adapter and the adapter below"
    return final_report(summary, METRICS, [], paths, [use])
