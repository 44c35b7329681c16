"""`gfn_ray.train`: prompts and a reward function from Python, in a script or a notebook.

Owns the way from arguments to settings, and what a finished run is to its caller. The run itself is
the one of jobs/prompts.py.
"""

from __future__ import annotations

import json
import signal
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from gfn_ray.data.files import read_document
from gfn_ray.errors import EXIT_INTERRUPTED, UserError
from gfn_ray.paths import output_root
from gfn_ray.rewards.functions.judge import Prompt
from gfn_ray.serving.one_shot import sample
from gfn_ray.serving.samples import Sample
from gfn_ray.settings import NONE, put
from gfn_ray.settings_values import dump_toml, read_stored
from gfn_ray.tasks.prompts.config import PromptsJob
from gfn_ray.tasks.prompts.data import rows_from_python
from gfn_ray.tasks.prompts.rewards import RewardSpec, named_functions
from gfn_ray.tasks.prompts.task import PromptsTask

_CALLED = Path("gfn_ray.train")  # where settings stand, for messages


@dataclass(frozen=True)
class Run:
    """A finished run. directory: all that it left."""

    directory: Path

    @property
    def adapter(self) -> Path:
        """The trained policy, as PEFT, vLLM and `gfn_ray.open` read it."""
        return self.directory / "adapter"

    @cached_property
    def summary(self) -> dict[str, Any]:
        """summary.json: metrics before and after, and what the run took."""
        found: dict[str, Any] = json.loads((self.directory / "summary.json").read_text())
        return found

    def sample(self, prompt: Prompt, n: int = 8, *, seed: int = 0, **options: Any) -> list[Sample]:
        """n samples of the trained policy. prompt: a text or chat messages. options: as in
        `gfn_ray.sample`, which starts an engine each time: for several prompts `gfn_ray.open` the
        adapter once."""
        text = prompt if isinstance(prompt, str) else json.dumps(prompt)
        return sample(self.adapter, {"prompt": text}, n, seed=seed, **options)


def train(
    model: str | None = None,
    prompts: str | Path | Sequence[str | Mapping[str, Any]] | None = None,
    reward: RewardSpec | Sequence[RewardSpec] | None = None,
    *,
    config: PromptsJob | None = None,
    **settings: Any,
) -> Run:
    """Trains a policy to sample completions in proportion to p_ref(z | x) exp(r(z) / beta).

    model: a directory, hub id, or the embedded model's name. prompts: a file as --data.path takes
    it, or a list of texts or of dicts with a prompt and columns for the reward. reward: a function
    with TRL's signature, a built-in one's name, file.py:function, or several. config: settings to
    begin with. settings: any others by their dotted names, a dot written as two underscores
    (learner__lr=1e-4) or given as **{"learner.lr": 1e-4}.

    Runs on the Ray that this process is connected to, on $RAY_ADDRESS, or on one of its own.
    Raises gfn_ray.errors.UserError where an argument is at fault, RunFailed where the run fails,
    and KeyboardInterrupt where it is interrupted: resume=DIRECTORY with the same prompts and reward
    resumes it, under its own settings; only steps may be given anew.
    """
    resolved, task = prepare(model, prompts, reward, config, settings)
    from gfn_ray.runtime.run import run

    with _handlers_put_back():
        code = run(resolved, task)
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    assert resolved.run_dir is not None
    return Run(output_root() / (resolved.resume or resolved.run_dir))


def prepare(
    model: str | None,
    prompts: str | Path | Sequence[str | Mapping[str, Any]] | None,
    reward: RewardSpec | Sequence[RewardSpec] | None,
    config: PromptsJob | None,
    settings: Mapping[str, Any],
) -> tuple[PromptsJob, PromptsTask]:
    """The settings and the task of `train`'s arguments; UserError where one is at fault."""
    given = {name.replace("__", "."): value for name, value in settings.items()}
    functions: dict[str, Callable[..., Any]] = {}
    if model is not None:
        given["model.name"] = model
    if reward is not None:
        given["task.reward"], functions = named_functions(reward)
    rows = None if prompts is None or isinstance(prompts, str | Path) else prompts
    if rows is not None:  # the defaults of a person's own prompts, not of the embedded ones
        given = {"task.stop": (), "task.max_len": 256, **given}
    elif prompts is not None:
        given["data.path"] = prompts
    resolved = _resumed(given) if "resume" in given else _resolved(config, given)
    data = None if rows is None else rows_from_python(rows, resolved.data)
    return resolved, PromptsTask(resolved, functions, data)


def _resumed(given: Mapping[str, Any]) -> PromptsJob:
    """The settings of the run to be resumed."""
    directory = output_root() / Path(given["resume"]).expanduser()
    for name in given:
        if name not in ("resume", "steps", "task.reward", "data.path", "task.stop", "task.max_len"):
            raise UserError(f"resume takes the run's own settings; leave {name} out")
    stored = read_document(directory / "config.toml", "resume")
    kept = {name: given[name] for name in ("resume", "steps", "task.reward") if name in given}
    config = _resolved(read_stored(PromptsJob, tomllib.loads(stored), directory), kept)
    config.check_resumed(given)
    return config


def _resolved(config: PromptsJob | None, given: Mapping[str, Any]) -> PromptsJob:
    """The settings, with a directory of their own."""
    tree = {} if config is None else tomllib.loads(dump_toml(config))
    for name, value in given.items():
        put(tree, name, NONE if value is None else to_jsonable_python(value))
    found = read_stored(PromptsJob, tree, _CALLED)
    if found.run_dir is not None or found.resume is not None:
        return found
    runs = output_root() / "runs"
    name = f"prompts-{time.strftime('%Y%m%d-%H%M%S')}"
    taken = sum(1 for _ in runs.glob(f"{name}*"))
    return found.model_copy(update={"run_dir": runs / (f"{name}-{taken + 1}" if taken else name)})


@contextmanager
def _handlers_put_back() -> Iterator[None]:
    """A run has signals end it without loss; whoever called it has their own afterwards."""
    try:
        before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
        for one, handler in before.items():
            signal.signal(one, handler)
    except ValueError:
        raise UserError(
            "gfn_ray.train runs in a program's main thread, where an interrupt can end it without "
            "loss; call it there"
        ) from None
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
