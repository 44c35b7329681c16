"""Chooses the precision of sampler, reward actors and learner where their dtype leaves it open.

On CUDA reward and learner compute in the precision of the model's file, in which it fits; for a
posterior that is compared with an exact one, in float32. With matrix units (AMX), a CPU multiplies
several times as fast in bfloat16; without them, several times slower. So there a product of the
model's own shape is timed. The price is rounding: .2 nats of a z's log q and log R. That is little
compared with the likelihood of a text, but too much if a posterior is compared exactly or a run
must repeat bit for bit. On a CPU the sampler follows the learner, whose policy it is.

The choice is made once, on the machine that starts the job, and shown in one line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gfn_ray.config import DType, JobConfig
from gfn_ray.rewards.adjusted import AdjustedReward
from gfn_ray.rewards.reward import Reward
from gfn_ray.tasks.task import TaskData

# Less is not worth the rounding, because only products get faster.
LEAST_GAIN = 2.0
# Weights of the largest layer. In smaller models, products hardly matter.
FEWEST_WEIGHTS = 2**16
TOKENS = 512  # of a typical forward pass
COMPARED = "the posterior is compared with an exact one"
TRIES = 10  # the fastest counts

Shape = tuple[int, int]
"""Outputs and inputs of a linear layer."""


class Choice(NamedTuple):
    """why: ends the sentence that reports the dtype."""

    dtype: DType
    why: str


def with_precision(
    config: JobConfig,
    data: TaskData,
    device: str,
    layers: Callable[[], Mapping[str, Shape]],
    of_file: Callable[[], DType],
    say: Callable[[str], None],
) -> JobConfig:
    """Returns the settings with every open dtype decided, and shows one line about it.

    layers: returns the linear layers that every token passes through, by name. of_file: returns the
    precision of the model's file. On CUDA the sampler's auto is left to `SamplerConfig.dtype_on`.
    """
    asked = [name for name in ("reward", "learner") if getattr(config, name).dtype == "auto"]
    if asked:
        if device == "cpu":
            choice = exact(config, data) or by_speed(layers())
        elif data.enumerations:
            choice = Choice("float32", COMPARED)
        else:
            choice = Choice(of_file(), "the precision of the model's file")
        verb = "computes" if len(asked) == 1 else "compute"
        say(f"{' and '.join(asked)} {verb} in {choice.dtype}: {choice.why}")
        config = _decided(config, asked, choice.dtype)
    if device == "cpu" and config.sampler.dtype == "auto":
        config = _decided(config, ["sampler"], config.learner.precision)
    return config


def exact(config: JobConfig, data: TaskData) -> Choice | None:
    """float32 if rounding is not acceptable at any speed, else None."""
    if config.max_staleness == 0:
        return Choice("float32", "with --max-staleness 0 a run repeats bit for bit")
    if data.enumerations:
        return Choice("float32", COMPARED)
    if not _of_text(data.reward):
        return Choice("float32", "the target is not the likelihood of a text")
    return None


def product_seconds(outputs: int, inputs: int, dtype: DType) -> float:
    """CPU seconds of one product with a layer's weights, on one thread, so that neither other
    load nor waiting threads count."""
    import torch
    from torch.nn.functional import linear

    kind = getattr(torch, dtype)
    x, weight = (torch.randn(rows, inputs).to(kind) for rows in (TOKENS, outputs))
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        linear(x, weight)  # the first call also selects a kernel
        found = []
        for _ in range(TRIES):
            started = time.thread_time()
            linear(x, weight)
            found.append(time.thread_time() - started)
    finally:
        torch.set_num_threads(usual)
    return min(found)


def by_speed(
    layers: Mapping[str, Shape], seconds: Callable[[int, int, DType], float] = product_seconds
) -> Choice:
    """Chooses bfloat16 if the largest layer is faster in it by a margin.

    seconds: of a product with a layer of the given outputs and inputs, in a precision.
    """
    outputs, inputs = max(layers.values(), key=lambda shape: shape[0] * shape[1])
    if outputs * inputs < FEWEST_WEIGHTS:
        return Choice("float32", "the model is too small for products to matter")
    gain = seconds(outputs, inputs, "float32") / seconds(outputs, inputs, "bfloat16")
    dtype: DType = "bfloat16" if gain >= LEAST_GAIN else "float32"
    return Choice(
        dtype,
        f"a product of the model's size is {gain:.2g} times as fast in bfloat16 as in float32; "
        f"bfloat16 is used from {LEAST_GAIN:g} times up",
    )


def _decided(config: JobConfig, names: Sequence[str], dtype: DType) -> JobConfig:
    chosen = {name: getattr(config, name).model_copy(update={"dtype": dtype}) for name in names}
    return config.model_copy(update=chosen)


def _of_text(reward: Reward) -> bool:
    from gfn_ray.rewards.completion import CompletionReward
    from gfn_ray.rewards.labelled import LabelledReward
    from gfn_ray.rewards.likelihood import LikelihoodReward

    if isinstance(reward, AdjustedReward):
        return _of_text(reward.adjusted)
    if isinstance(reward, CompletionReward):
        return reward.prior > 0
    return isinstance(reward, LikelihoodReward | LabelledReward)
