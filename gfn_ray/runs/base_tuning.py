"""Tunes a base model on whole texts: the updates, and the tuned base that a run starts from.

A base is tuned once per model, texts and settings, in this process before any actor starts, and
cached as an adapter together with its perplexities.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gfn_ray.config import JobConfig, PolicyConfig, TextTuningConfig
from gfn_ray.config.sections import ALL_LINEAR
from gfn_ray.config.tune_base import TunesItsBase
from gfn_ray.errors import RunFailed
from gfn_ray.formatting import count, number
from gfn_ray.learners.text_tuning import TextTuner, perplexity
from gfn_ray.models.cache import cached_model_dir
from gfn_ray.models.loading import load_causal_lm
from gfn_ray.models.merged import TUNED, fingerprint
from gfn_ray.policy.adapter import add_adapter, read_adapter, write_adapter
from gfn_ray.runs.batches import shuffled_batches
from gfn_ray.runs.display import Display
from gfn_ray.seeds import Stream, seed_of
from gfn_ray.tasks.infill.story_texts import BaseTexts
from gfn_ray.trajectory import IntArray

TUNER_VERSION = 1  # part of the directory's name: raise it when the tuner changes
RECORD = "tuning.json"
PATIENCE_S = 6 * 3600.0  # for another run that tunes the same base, perhaps on CPU
BASE_ADAPTER = PolicyConfig(lora_targets=(ALL_LINEAR,))


def tuned_base(config: JobConfig, model: str, texts: BaseTexts, display: Display) -> Path:
    """Returns the directory of the adapter tuned on these texts; tunes it on first use.

    model: a resolved path. The adapter's shape does not depend on the policy's, so that runs that
    differ only in the policy's share a base.
    """
    assert isinstance(config, TunesItsBase) and config.base_tuning is not None
    tuning = config.base_tuning
    key = [TUNER_VERSION, fingerprint(model), tuning.model_dump(), BASE_ADAPTER.model_dump()]
    digest = hashlib.sha256(repr(key).encode())
    for part in (texts.train, texts.validation):
        for text in part:
            digest.update(b"|" + text.astype("<i8").tobytes())

    def write(directory: Path) -> None:
        with _all_cores():
            _tune(config, tuning, model, texts, display, directory)

    directory = cached_model_dir(
        f"{TUNED}{digest.hexdigest()[:10]}",
        f"the base model tuned on {count(len(texts.train), 'text')}",
        sum(file.stat().st_size for file in Path(model).glob("*.safetensors")) // 8,
        write,
        PATIENCE_S,
    )
    # This process lives as long as the run, and the actors need the memory.
    gc.collect()
    torch.cuda.empty_cache()
    _tell(json.loads((directory / RECORD).read_text(encoding="utf-8")), display)
    return directory


def updates(
    config: TextTuningConfig, model: Any, texts: Sequence[IntArray], flag: str
) -> Iterator[tuple[int, dict[str, float]]]:
    """Yields the number of each update, from 1, and its metrics.

    flag: sets the learning rate; named in errors. Raises RunFailed if a number is not finite.
    """
    tuner = TextTuner(model, lr=config.lr, max_grad_norm=config.max_grad_norm)
    batches = shuffled_batches(texts, config.batch, seed_of(Stream.TEXT_ORDER, config.seed))
    for step in range(1, config.steps + 1):
        with finite(f"update {step}", f"lower {flag} ({config.lr:g})"):
            found = tuner.step(next(batches))
        yield step, found


@contextmanager
def finite(when: str, remedy: str) -> Iterator[None]:
    """Turns a FloatingPointError into a RunFailed that names a remedy."""
    try:
        yield
    except FloatingPointError as error:
        raise RunFailed(f"{when}: {error}; {remedy}") from error


@contextmanager
def _all_cores() -> Iterator[None]:
    """Uses all cores while no actor runs yet."""
    usual = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _tune(
    config: JobConfig,
    tuning: TextTuningConfig,
    path: str,
    texts: BaseTexts,
    display: Display,
    directory: Path,
) -> None:
    device = config.runtime.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    base = load_causal_lm(path, "float32", device, config.model.trust_remote_code)
    model = add_adapter(base, BASE_ADAPTER, tuning.seed, Stream.TEXT_ADAPTER)
    title = f"tuning the base model on {count(len(texts.train), 'text')}, once"
    display.phase(title)
    record: dict[str, Any] = {"texts": len(texts.train), "validation_texts": len(texts.validation)}

    def measure(when: str, remedy: str) -> None:
        if texts.validation:
            with finite(f"{when} tuning", remedy):
                record[when] = perplexity(model, texts.validation, tuning.batch)

    measure("before", "the model of --model.name is at fault; give another")
    for step, found in updates(tuning, model, texts.train, "--tune-base.lr"):
        if step % config.runtime.log_every == 0:
            loss = number(found["loss"])
            display.phase(f"{title}: update {step}/{tuning.steps} | loss {loss} nats a token")
    measure("after", f"lower --tune-base.lr ({tuning.lr:g})")
    write_adapter(read_adapter(model, 1), directory)
    (directory / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _tell(record: dict[str, Any], display: Display) -> None:
    line = f"base model tuned on {count(record['texts'], 'text')}"
    if record["validation_texts"]:
        before, after = number(record["before"]), number(record["after"])
        held_out = count(record["validation_texts"], "validation text")
        line += f": perplexity of {held_out} {before}, then {after}"
    display.message(line)
