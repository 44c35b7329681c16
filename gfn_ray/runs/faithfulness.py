"""Measures, on a finished run, whether answers depend on z, before training and after.

A command of its own rather than a part of every evaluation: it needs nothing but the adapter and
the samples that a run leaves, so that old runs can be measured, and none takes longer. The model
is read here, without Ray. Adds its numbers to the run's summary.json.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from gfn_ray.config.faithfulness import FaithfulnessJob
from gfn_ray.errors import UserError
from gfn_ray.evaluation.faithfulness import Probed, going_on, reading, with_gains
from gfn_ray.formatting import number
from gfn_ray.models.loading import (
    hide_loading_bars,
    load_causal_lm,
    load_tokenizer,
    resolve_model,
    vocab_size,
)
from gfn_ray.paths import output_root
from gfn_ray.policy.adapter import add_adapter, load_adapter, put_adapter
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.serving.description import read_description
from gfn_ray.serving.tuned_labels import DIRECTORY as LABELS
from gfn_ray.serving.tuned_labels import read_labels
from gfn_ray.storage.atomic import write_atomically

PHASES = ("before", "after")


def faithfulness(config: FaithfulnessJob) -> int:
    """Measures, prints and records; returns the exit code."""
    directory = RunDir(output_root() / config.run.expanduser())
    if not directory.summary_file.is_file():
        raise UserError(
            f"--run got {directory.path}, which has no summary.json; it takes the directory of a "
            "finished run"
        )
    found = _measured(directory, config)
    summary = json.loads(directory.summary_file.read_text(encoding="utf-8"))
    write_atomically(
        directory.summary_file, json.dumps({**summary, "faithfulness": found}, indent=2) + "\n"
    )
    before, after = (found[phase] for phase in PHASES)
    width = max(map(len, before))
    print(f"{'':<{width}}  {'before':>8}  {'after':>8}")
    for name, value in before.items():
        print(f"{name:<{width}}  {number(value):>8}  {number(after[name]):>8}")
    return 0


def _measured(directory: RunDir, config: FaithfulnessJob) -> dict[str, dict[str, float]]:
    task, job = read_description(directory.adapter_dir).make_task(None)
    if not isinstance(task, Probed):
        raise UserError(
            f"--run got a run of {task.name}, whose z lead to no answer that could depend on them; "
            "it takes one of arithmetic or subjectivity"
        )
    path = resolve_model(job.model)
    # No code of a model's repository is run: the run's directory may be a stranger's.
    tokenizer, size = load_tokenizer(path, False), vocab_size(path, False)
    data = task.load(tokenizer, size)
    judged = [query for query in data.held_out if query.query_id not in data.calibration]
    # Spread over them: some tasks sort theirs.
    queries = judged[:: max(1, len(judged) // config.queries)][: config.queries]
    labels = (directory.adapter_dir / LABELS).is_dir()
    tuned = read_labels(directory.adapter_dir).adapter if labels else None
    hide_loading_bars(path)
    model = add_adapter(load_causal_lm(path, "float32", "cpu", False), job.policy, job.seed).eval()
    put_adapter(model, tuned or load_adapter(directory.adapter_dir))

    found = {}
    for phase in PHASES:
        samples = _samples(directory.samples_file, phase)
        with model.disable_adapter() if phase == "before" else nullcontext():
            read = reading(model, task.probes(queries, samples, tokenizer, config.seed))
            begun = task.begun(queries, tokenizer, size, config.seed)
            written = going_on(model, begun, lambda z: task.answer(queries[0], tokenizer.decode(z)))
        found[phase] = {**with_gains(read), **written}
    return found


def _samples(file: Path, phase: str) -> dict[str, str]:
    """The first sample of each held-out query in this phase, by id."""
    found: dict[str, str] = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row: dict[str, Any] = json.loads(line)
            if row["phase"] == phase:
                found.setdefault(row["query_id"], row["text"])
    return found
